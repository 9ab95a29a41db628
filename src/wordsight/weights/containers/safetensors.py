"""Safetensors files, alone or sharded with an index, read and written as dictionaries of tensors.

The library maps the file into memory, so that a tensor is read when it is used, and checks the header against the
contents. This module bounds the header before it is parsed, and requires that the files that an index names are in the
index's directory.
"""

import os
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wordsight.errors import OutputError, WeightsError
from wordsight.files import open_regular, read_json
from wordsight.weights.checkpoint import FLOATS
from wordsight.weights.mistaken import mistaken_for_text, mistaken_for_weights
from wordsight.weights.shapes import first_names

INDEX_SUFFIX = ".index.json"

MAX_HEADER_BYTES = 1 << 22
"""Upper limit of a header; that of the largest published model, with 1,300 tensors, has 150 kB."""

MAX_INDEX_BYTES = 1 << 22
"""Upper limit of an index, which has no more names than a header."""

_MAX_FILE_BYTES = 1 << 50
_SHARD_SUFFIXES = (".safetensors", ".bin")
_HEADER_LENGTH = struct.Struct("<Q")


class _Index(msgspec.Struct):
    """The file of each tensor; other keys of an index are informative only."""

    weight_map: dict[str, str]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of one file, or of the files that an index (`*.index.json`) names.

    Raises:
        WeightsError: a file is missing, truncated or not a safetensors file, or the index contradicts its files.
    """
    return read_sharded(path, _read_one) if path.name.endswith(INDEX_SUFFIX) else _read_one(path)


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


def as_one_precision(tensors: Mapping[str, Tensor], where: str, release: Callable[[], None]) -> Mapping[str, Tensor]:
    """Convert floating-point tensors to float32, unless all of them are float32, float16 or bfloat16 alike.

    Arguments and errors are those of `as_float32`.
    """
    dtypes = {tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}
    return tensors if len(dtypes) <= 1 and dtypes <= set(FLOATS) else as_float32(tensors, where, release)


def as_float32(tensors: Mapping[str, Tensor], where: str, release: Callable[[], None]) -> dict[str, Tensor]:
    """Convert floating-point tensors to float32; integers and float32 tensors are returned without a copy.

    Args:
        tensors: by name; not modified.
        where: the file, named in errors.
        release: called after each conversion to release the memory pages of the source, so that only one tensor at a
            time occupies memory in both precisions.

    Raises:
        WeightsError: a tensor has a floating-point type of 8 bits or less.
    """
    converted = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in (*FLOATS, torch.float64):
            dtype = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(
                f"{where}: {first_names([name])} is {dtype}; expected float32, float16, bfloat16 or float64: "
                "save it in one of them"
            )
        converted[name] = tensor
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            converted[name] = tensor.float().contiguous()
            release()
    return converted


def index_of(path: Path) -> dict[str, list[str]]:
    """Read the index of a sharded checkpoint and check that its files exist.

    Returns:
        The names of the tensors in each file, by the name of the file.

    Raises:
        WeightsError: the index is broken, names a file outside its directory, or some of its files are missing.
    """
    try:
        index = msgspec.convert(read_json(path, MAX_INDEX_BYTES, WeightsError), _Index)
    except WeightsError as error:
        if reason := mistaken_for_text(path):
            raise WeightsError(f"{path}: {reason}") from error
        raise WeightsError(f"{error}; download the index again") from error
    except msgspec.ValidationError as error:
        raise WeightsError(f"{path}: not an index of tensors: {error}; download it again") from error
    files: dict[str, list[str]] = {}
    for name, file in index.weight_map.items():
        files.setdefault(file, []).append(name)
    for file in files:
        is_plain = file.isprintable() and file not in ("", ".", "..") and not set(file) & set("/\\:")
        if not is_plain or not file.endswith(_SHARD_SUFFIXES):
            raise WeightsError(
                f"{path}: names the file {ascii(file)[:80]}; expected a safetensors or .bin file in the index's "
                "directory"
            )
    missing = [file for file in files if not path.with_name(file).is_file()]
    if missing:
        raise WeightsError(
            f"{path}: {len(missing)} of its {len(files)} files are missing: {first_names(missing)}; download them too"
        )
    return files


def read_sharded(path: Path, read_one: Callable[[Path], Any]) -> dict[str, Any]:
    """Read all tensors of the files that an index names.

    Args:
        path: the index.
        read_one: reads one of the files, whose content should be tensors by name.

    Raises:
        WeightsError: as for `index_of` and `read_one`, or a file does not have the tensors that the index says.
    """
    tensors: dict[str, Any] = {}
    for file, names in sorted(index_of(path).items()):
        shard = read_one(path.with_name(file))
        if not isinstance(shard, dict):
            raise WeightsError(f"{path.with_name(file)}: contains no tensors by name; download it again")
        differences = {"missing": set(names) - shard.keys(), "unexpected": shard.keys() - set(names)}
        mismatches = [f"{label} {first_names(these)}" for label, these in differences.items() if these]
        if mismatches:
            raise WeightsError(
                f"{path.with_name(file)}: not the file that {path.name} describes: {'; '.join(mismatches)}; "
                "download both again"
            )
        tensors |= shard
    return tensors


def _read_one(path: Path) -> dict[str, Tensor]:
    try:
        with open_regular(path) as file:
            start = file.read(_HEADER_LENGTH.size)
        if len(start) == _HEADER_LENGTH.size and _HEADER_LENGTH.unpack(start)[0] > MAX_HEADER_BYTES:
            raise ValueError(f"its header claims more than {MAX_HEADER_BYTES} bytes")
        return dict(load_file(path))
    except OSError as error:
        reason = mistaken_for_weights(path) or f"cannot be read: {error.strerror or error}; check the path"
        raise WeightsError(f"{path}: {reason}") from error
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:  # TypeError: a length beyond 64 bits
        if mistaken := mistaken_for_weights(path):
            raise WeightsError(f"{path}: {mistaken}") from error
        reason = _truncation(path) or " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a complete safetensors file: {reason}; download or save it again") from error


def _truncation(path: Path) -> str:
    """By how much a file is shorter than its header says; empty if it is not."""
    try:
        with open_regular(path) as file:
            header_bytes = _HEADER_LENGTH.unpack(file.read(_HEADER_LENGTH.size))[0]
            if header_bytes > MAX_HEADER_BYTES:
                return ""
            header = msgspec.json.decode(file.read(header_bytes), type=dict[str, dict[str, Any]])
            ends = [offsets[1] for entry in header.values() if (offsets := entry.get("data_offsets"))]
            expected_bytes = _HEADER_LENGTH.size + header_bytes + max(ends)
            file_bytes = os.fstat(file.fileno()).st_size
    except (OSError, struct.error, msgspec.MsgspecError, ValueError, LookupError, TypeError, RecursionError):
        return ""
    if not isinstance(expected_bytes, int) or not file_bytes < expected_bytes < _MAX_FILE_BYTES:
        return ""
    return f"truncated, {file_bytes:,} of {expected_bytes:,} bytes"
