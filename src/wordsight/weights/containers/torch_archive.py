"""The zip files that torch writes, `torch.save`'s and TorchScript's: their tensors, in place, as data.

Both hold one pickle, `data.pkl`, and beside it the bytes of each storage, `data/0`, `data/1`, under a directory of any
name. The file is mapped, a tensor is a view of its bytes, and no code that lies in it is looked at. A view is made only
when its size, strides and offset fit into the bytes that are there.
"""

import mmap
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.weights.containers.pickle import MAX_PICKLE_BYTES, Builder, Name, unpickle
from wordsight.weights.containers.zip import Member, locate, read_directory, unpack

_STORAGES = {
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
    "torch.storage.UntypedStorage": torch.uint8,
}
_NEW_TYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
_OLD_TYPES = {str(dtype): dtype for dtype in _STORAGES.values()}
_LISTS = ("intlist", "tensorlist", "doublelist", "boollist")
_MAX_DIMENSIONS = 64
_MAX_CODE_BYTES = 1 << 24
_MAX_USES = 2
"""How often all bytes of a file may come back in tensors: tied weights are one storage under two names."""


@dataclass(frozen=True)
class Archive:
    """What one file of torch says.

    Attributes:
        value: as `unpickle` returns it; tensors are views of the mapped file, and writing to one leaves the file alone.
        has_code: whether the code of a TorchScript module, which is not run, mentions a text.
        release: gives back the memory of pages that were read so far; no tensor may have been written to.
    """

    value: Any
    has_code: Callable[[str], bool]
    release: Callable[[], None]


def is_archive(path: Path) -> bool:
    """Whether a file starts as a zip file."""
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise _unreadable(path, error) from error


def read_archive(path: Path) -> Archive:
    """Read a file that `torch.save` or `torch.jit.save` wrote.

    Raises:
        WeightsError: missing, no such archive, broken, or it asks for what no weights need.
    """
    try:
        with path.open("rb") as file:
            # private: a tensor can be written to, the file cannot
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise WeightsError(f"{path}: the file is empty; fetch it again") from error
    reader = _Reader(mapped, str(path))
    pickle = reader.member("data.pkl", MAX_PICKLE_BYTES)
    value = unpickle(pickle, f"{path}: data.pkl", reader.builders(), reader.storage)
    return Archive(value, reader.has_code, partial(_release_pages, mapped))


def _release_pages(mapped: mmap.mmap) -> None:
    """Let the system take back pages that were read; only Linux is known to free private pages this way."""
    if sys.platform == "linux":
        mapped.madvise(mmap.MADV_DONTNEED)


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the path")


@dataclass(frozen=True)
class _Storage:
    """A storage's elements, (count,), as a view of the file; `dtype` as its pickle says, uint8 if that says none."""

    flat: Tensor


class _Reader:
    """One mapped archive: its members, its storages and the tensors over them."""

    def __init__(self, mapped: mmap.mmap, where: str) -> None:
        self.mapped = mapped
        self.where = where
        self.members = read_directory(mapped, where)
        self.root = self._root()
        self.is_swapped = self._is_swapped()
        self.storages: dict[str, _Storage] = {}
        self.used_bytes = 0

    def _root(self) -> str:
        roots = [name.removesuffix("data.pkl") for name in self.members if name.endswith("/data.pkl")]
        roots = [root for root in roots if root.count("/") == 1]
        if len(roots) != 1:
            raise WeightsError(
                f"{self.where}: a zip file with {len(roots)} members data.pkl, not one that torch wrote; "
                "give the file as it was saved"
            )
        return roots[0]

    def _is_swapped(self) -> bool:
        """Whether numbers lie with their greatest byte first; files without the note are older and do not."""
        if f"{self.root}byteorder" not in self.members:
            return False
        order = self.member("byteorder", 16)
        if order not in (b"little", b"big"):
            raise WeightsError(f"{self.where}: byte order {order!r}; expected little or big: fetch the file again")
        return order == b"big"

    def member(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a small member."""
        member = self._find(name)
        if member.size > max_bytes:
            raise WeightsError(f"{self.where}: {name} claims {member.size} bytes, more than any has; fetch it again")
        start = locate(self.mapped, member, self.where)
        return self.mapped[start : start + member.size]

    def has_code(self, text: str) -> bool:
        """Whether the first megabytes of code, `code/**.py`, hold a text."""
        left_bytes = _MAX_CODE_BYTES
        for name, member in self.members.items():
            if name.startswith(f"{self.root}code/") and name.endswith(".py"):
                code = unpack(self.mapped, member, self.where, left_bytes)
                left_bytes -= len(code) + member.packed
                if text.encode() in code:
                    return True
                if left_bytes <= 0:
                    break
        return False

    def _find(self, name: str) -> Member:
        if self.root + name not in self.members:
            raise WeightsError(f"{self.where}: member {ascii(name)[:80]} is missing; fetch the file again")
        return self.members[self.root + name]

    def builders(self) -> Mapping[str, Builder]:
        """What stands for the names that a pickle of torch may call."""
        types = dict.fromkeys([*_STORAGES, *_OLD_TYPES, *_NEW_TYPES], self._refuse_call)
        lists = dict.fromkeys([f"torch.jit._pickle.build_{kind}" for kind in _LISTS], self._first)
        return {
            **types,
            **lists,
            "torch.jit._pickle.restore_type_tag": self._first,
            "collections.OrderedDict": self._ordered,
            "torch._utils._rebuild_tensor": self._tensor,
            "torch._utils._rebuild_tensor_v2": self._tensor,
            "torch._utils._rebuild_tensor_v3": self._tensor_of_type,
            "torch._utils._rebuild_parameter": self._first,
            "torch._utils._rebuild_parameter_with_state": self._first,
        }

    def storage(self, identity: tuple[Any, ...]) -> _Storage:
        """The storage of a persistent id; the device on which it once lay does not matter."""
        match identity:
            case ("storage", Name(path=kind), str(key), _, int(count)) if kind in _STORAGES and count >= 0:
                dtype = _STORAGES[kind]
            case _:
                raise self._lie("a storage is named in no way of torch's")
        if key not in self.storages:
            self.storages[key] = _Storage(self._elements(f"data/{key}", dtype))
        storage = self.storages[key]
        if len(storage.flat) != count or storage.flat.dtype != dtype:
            kind = str(storage.flat.dtype).removeprefix("torch.")
            raise self._lie(
                f"storage data/{ascii(key)[1:-1][:80]} is {len(storage.flat)} times {kind}, its pickle says otherwise"
            )
        return storage

    def _elements(self, name: str, dtype: torch.dtype) -> Tensor:
        member = self._find(name)
        start = locate(self.mapped, member, self.where)
        if member.size % dtype.itemsize:
            raise self._lie(f"{name} has {member.size} bytes, no multiple of its elements' {dtype.itemsize}")
        count = member.size // dtype.itemsize
        if count == 0:
            return torch.empty(0, dtype=dtype)
        if not self.is_swapped and start % dtype.itemsize == 0:
            return torch.frombuffer(self.mapped, dtype=dtype, count=count, offset=start)
        raw = torch.frombuffer(self.mapped, dtype=torch.uint8, count=member.size, offset=start)
        bytes_first_to_last = raw.view(-1, dtype.itemsize)
        return (bytes_first_to_last.flip(1) if self.is_swapped else bytes_first_to_last.clone()).view(dtype).view(-1)

    def _tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        match arguments:
            case (_Storage(flat=flat), int(offset), tuple(size), tuple(stride), *_):
                return self._view(flat, offset, size, stride)
        raise self._lie("a tensor is described in no way of torch's")

    def _tensor_of_type(self, arguments: tuple[Any, ...]) -> Tensor:
        """Types that are newer than typed storages: the storage counts bytes, the type stands by itself."""
        match arguments:
            case (_Storage(flat=flat), int(offset), tuple(size), tuple(stride), _, _, Name(path=kind), *_):
                dtype = (_OLD_TYPES | _NEW_TYPES).get(kind)
                if dtype is not None and flat.dtype == torch.uint8 and len(flat) % dtype.itemsize == 0:
                    if self.is_swapped and dtype.itemsize > 1:  # torch itself reads these in the wrong order
                        raise WeightsError(
                            f"{self.where}: {kind} with the greatest byte first; save it as another type"
                        )
                    return self._view(flat.view(dtype), offset, size, stride)
        raise self._lie("a tensor is described in no way of torch's")

    def _view(self, flat: Tensor, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Tensor:
        """A view of a storage, once it is sure that it lies within, and that all views together are not too many."""
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or not all(type(n) is int for n in numbers):
            raise self._lie("a tensor is described in no way of torch's")
        count = 1
        for length in size:
            count *= length
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(numbers) < 0 or max(count, 1 + last if count else offset) > len(flat):
            raise self._lie(f"a tensor of size {_short(size)} does not fit its storage of {len(flat)} elements")
        self.used_bytes += count * flat.element_size()
        if self.used_bytes > _MAX_USES * len(self.mapped):
            raise self._lie("its tensors are larger than the file")
        return flat.as_strided(size, stride, offset)

    def _ordered(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments:
            raise self._lie("an ordered dictionary with arguments")
        return {}

    def _first(self, arguments: tuple[Any, ...]) -> Any:
        """Lists with a type and parameters are what they wrap."""
        if not arguments:
            raise self._lie("a call without arguments")
        return arguments[0]

    def _refuse_call(self, arguments: tuple[Any, ...]) -> Any:
        raise self._lie("it calls a type")

    def _lie(self, what: str) -> WeightsError:
        return WeightsError(f"{self.where}: {what}; the file is broken or hostile: fetch it again")


def _short(size: tuple[int, ...]) -> str:
    shown = ", ".join(str(length) if abs(length) < 1 << 64 else "..." for length in size[:6])
    return f"({shown}{', ...' if len(size) > 6 else ''})"
