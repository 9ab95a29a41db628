"""Safetensors files, alone or sharded with an index, read and written as dictionaries of tensors.

The library maps the file into memory, so that a tensor is read when it is used, and checks the header against the
contents. This module bounds the header before it is parsed, and requires that the files that an index names are in the
index's directory.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wordsight.errors import OutputError, WeightsError
from wordsight.files import read_json
from wordsight.weights.checkpoint import FLOATS
from wordsight.weights.shapes import first_names

INDEX_SUFFIX = ".index.json"

_MAX_HEADER_BYTES = 1 << 22
_MAX_INDEX_BYTES = 1 << 22  # an index has no more names than a header
_HEADER_LENGTH = struct.Struct("<Q")


class _Index(msgspec.Struct):
    """The file of each tensor; other keys of an index are informative only."""

    weight_map: dict[str, str]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of one file, or of the files that an index (`*.index.json`) names.

    Raises:
        WeightsError: a file is missing, truncated or not a safetensors file, or the index contradicts its files.
    """
    return _read_sharded(path) if path.name.endswith(INDEX_SUFFIX) else _read_one(path)


def write_safetensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write contiguous tensors into one file.

    Args:
        path: the file.
        tensors: by name.
        metadata: strings for the header.

    Raises:
        OutputError: the file cannot be written, for instance because the disk is full.
    """
    try:
        save_file(dict(tensors), path, metadata)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(
            f"{path.name}: cannot be written: {reason}; choose another output directory or free some space"
        ) from error


def as_float32(tensors: Mapping[str, Tensor], where: str, release: Callable[[], None]) -> dict[str, Tensor]:
    """Convert floating-point tensors to float32; integers and float32 tensors are returned without a copy.

    Args:
        tensors: by name; not modified.
        where: the file, named in errors.
        release: called after each conversion to release the memory pages of the source, so that only one tensor at a
            time occupies memory in both precisions.

    Raises:
        WeightsError: a tensor has a floating-point type other than float32, float16 and bfloat16.
    """
    converted = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in FLOATS:
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{where}: {name} is {dtype}; expected float32, float16 or bfloat16: save it in one of them"
            )
        converted[name] = tensor
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            converted[name] = tensor.float().contiguous()
            release()
    return converted


def _read_one(path: Path) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER_LENGTH.size)
        if len(start) == _HEADER_LENGTH.size and _HEADER_LENGTH.unpack(start)[0] > _MAX_HEADER_BYTES:
            raise WeightsError(
                f"{path}: not a complete safetensors file: its header claims more than {_MAX_HEADER_BYTES} bytes; "
                "download or save it again"
            )
        return dict(load_file(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a complete safetensors file: {reason}; download or save it again") from error


def _read_index(path: Path) -> dict[str, list[str]]:
    """The names of the tensors in each file, by the name of the file."""
    try:
        index = msgspec.convert(read_json(path, _MAX_INDEX_BYTES, WeightsError), _Index)
    except WeightsError as error:
        raise WeightsError(f"{error}; download the index again") from error
    except msgspec.ValidationError as error:
        raise WeightsError(f"{path}: not an index of tensors: {error}; download it again") from error
    files: dict[str, list[str]] = {}
    for name, file in index.weight_map.items():
        files.setdefault(file, []).append(name)
    for file in files:
        is_plain = file.isprintable() and file not in ("", ".", "..") and not set(file) & set("/\\:")
        if not is_plain or not file.endswith(".safetensors"):
            raise WeightsError(
                f"{path}: names the file {ascii(file)[:80]}; expected a safetensors file in the index's directory"
            )
    return files


def _read_sharded(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file, names in sorted(_read_index(path).items()):
        shard = _read_one(path.with_name(file))
        differences = {"missing": set(names) - shard.keys(), "unexpected": shard.keys() - set(names)}
        mismatches = [f"{label} {first_names(these)}" for label, these in differences.items() if these]
        if mismatches:
            raise WeightsError(
                f"{path.with_name(file)}: not the file that {path.name} describes: {'; '.join(mismatches)}; "
                "download both again"
            )
        tensors |= shard
    return tensors
