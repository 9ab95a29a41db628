"""Tensors in safetensors files, one or several with an index, as dictionaries.

The library maps the file, so that a tensor is read when it is used, and checks the header against the bytes. Here the
header is bounded before it is parsed, and an index may name files beside itself alone.
"""

import struct
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.weights.checkpoint import FLOATS
from wordsight.weights.shapes import first_names

INDEX_SUFFIX = ".index.json"

_MAX_HEADER_BYTES = 1 << 22
_MAX_INDEX_BYTES = 1 << 24
_HEADER_LENGTH = struct.Struct("<Q")


class _Index(msgspec.Struct):
    """Which file has which tensor; what else an index says is for people."""

    weight_map: dict[str, str]


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file, or of the files that an index (`*.index.json`) names.

    Raises:
        WeightsError: missing, cut short, no safetensors file, or index and files contradict each other.
    """
    return _read_sharded(path) if path.name.endswith(INDEX_SUFFIX) else _read_one(path)


def as_float32(tensors: Mapping[str, Tensor], where: str, release: Callable[[], None]) -> dict[str, Tensor]:
    """Tensors with every half as float32; whole numbers stay what they are.

    Args:
        where: the file, named in errors.
        release: called after each copy, to give back the pages that it was read from: half and whole precision lie
            side by side for one tensor at a time.

    Raises:
        WeightsError: a tensor is of another type of floats.
    """
    converted = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in FLOATS:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(f"{where}: {name} is {kind}; expected float32, float16 or bfloat16: save it as one")
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
                f"{path}: not a whole safetensors file: its header claims more than {_MAX_HEADER_BYTES} bytes; "
                "fetch or save it again"
            )
        return dict(load_file(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except (SafetensorError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{path}: not a whole safetensors file: {reason}; fetch or save it again") from error


def _read_index(path: Path) -> dict[str, list[str]]:
    """The names of tensors by the name of their file."""
    try:
        if path.stat().st_size > _MAX_INDEX_BYTES:
            raise WeightsError(f"{path}: larger than {_MAX_INDEX_BYTES} bytes, not an index; fetch it again")
        index = msgspec.json.decode(path.read_bytes(), type=_Index)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not an index of tensors: {error}; fetch it again") from error
    files: dict[str, list[str]] = {}
    for name, file in index.weight_map.items():
        files.setdefault(file, []).append(name)
    for file in files:
        is_plain = file.isprintable() and file not in ("", ".", "..") and not set(file) & set("/\\:")
        if not is_plain or not file.endswith(".safetensors"):
            raise WeightsError(
                f"{path}: names the file {ascii(file)[:80]}; expected a safetensors file beside the index"
            )
    return files


def _read_sharded(path: Path) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file, names in sorted(_read_index(path).items()):
        found = _read_one(path.with_name(file))
        sides = {"missing": set(names) - found.keys(), "unexpected": found.keys() - set(names)}
        wrong = [f"{label} {first_names(these)}" for label, these in sides.items() if these]
        if wrong:
            raise WeightsError(
                f"{path.with_name(file)}: not the file that {path.name} describes: {'; '.join(wrong)}; fetch both again"
            )
        tensors |= found
    return tensors
