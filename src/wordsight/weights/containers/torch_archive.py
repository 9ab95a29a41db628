"""Read the zip files that `torch.save` and TorchScript write, as data.

Both contain a pickle, `data.pkl`, and the bytes of each storage, `data/0`, `data/1` and so on, in a directory of any
name. The file is mapped into memory, tensors are views of it, and code in it is never run. A view is created only if
its size, strides and offset fit into the bytes of its storage.
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
from wordsight.files import open_regular
from wordsight.weights.containers.pickle import MAX_PICKLE_BYTES, Builder, Name, unpickle
from wordsight.weights.containers.zip import Member, locate, read_directory, unpack
from wordsight.weights.mistaken import mistaken_for_weights
from wordsight.weights.shapes import first_names, short_shape

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
_UNTYPED_STORAGE_TYPES = {
    f"torch.{name}": getattr(torch, name)
    for name in ("uint16", "uint32", "uint64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
}
_TYPED_STORAGE_TYPES = {str(dtype): dtype for dtype in _STORAGES.values()}
_LISTS = ("intlist", "tensorlist", "doublelist", "boollist")
_MAX_DIMENSIONS = 64
_MAX_CODE_BYTES = 1 << 24
_MAX_USES = 2
"""Upper limit of the total size of all tensors, in multiples of the file size: tied weights share one storage."""


@dataclass(frozen=True)
class Archive:
    """The contents of a file that torch wrote.

    Attributes:
        value: as `unpickle` returns it; tensors are views of the mapped file, and writing to them does not change it.
        has_code: returns whether the code of a TorchScript module, which is not run, contains a string.
        release: releases the memory pages that were read so far; call it only if no tensor was written to.
    """

    value: Any
    has_code: Callable[[str], bool]
    release: Callable[[], None]


def is_archive(path: Path) -> bool:
    """Whether a file starts like a zip file.

    Raises:
        WeightsError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return file.read(4) == b"PK\x03\x04"
    except OSError as error:
        raise _unreadable(path, error) from error


def read_archive(path: Path) -> Archive:
    """Read a file that `torch.save` or `torch.jit.save` wrote.

    Raises:
        WeightsError: the file is missing, is not such an archive, is broken, or names functions that no weights need.
    """
    try:
        with open_regular(path) as file:
            # private: tensors are writable, but the file is not
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise WeightsError(f"{path}: the file is empty; download it again") from error
    reader = _Reader(mapped, str(path))
    pickle = reader.member("data.pkl", MAX_PICKLE_BYTES)
    value = unpickle(pickle, f"{path}: data.pkl", reader.builders(), reader.storage)
    return Archive(value, reader.has_code, partial(_release_pages, mapped))


def _release_pages(mapped: mmap.mmap) -> None:
    """Let the system reclaim pages that were read; only Linux is known to free private pages this way."""
    if sys.platform == "linux":
        mapped.madvise(mmap.MADV_DONTNEED)


def _unreadable(path: Path, error: OSError) -> WeightsError:
    if reason := mistaken_for_weights(path):
        return WeightsError(f"{path}: {reason}")
    return WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the path")


@dataclass(frozen=True)
class _Storage:
    """The elements of a storage, (count,), as a view of the file; uint8 if its pickle names no type."""

    flat: Tensor


class _Reader:
    """A mapped archive: its members, storages and tensors."""

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
        if not roots:
            raise WeightsError(
                f"{self.where}: a zip file without data.pkl, which torch did not write: it contains "
                f"{first_names(self.members)}; unpack it and pass the file or the directory in it"
            )
        if len(roots) > 1:
            raise WeightsError(
                f"{self.where}: a zip file with {len(roots)} members named data.pkl, which torch did not write; "
                "pass the file as torch saved it"
            )
        return roots[0]

    def _is_swapped(self) -> bool:
        """Whether the file is big-endian; older files do not state their byte order, and are little-endian."""
        if f"{self.root}byteorder" not in self.members:
            return False
        order = self.member("byteorder", 16)
        if order not in (b"little", b"big"):
            raise WeightsError(f"{self.where}: byte order {order!r}; expected little or big: download the file again")
        return order == b"big"

    def member(self, name: str, max_bytes: int) -> bytes:
        """The bytes of a small member."""
        member = self._find(name)
        if member.size_bytes > max_bytes:
            raise WeightsError(
                f"{self.where}: {name} claims {member.size_bytes} bytes, more than torch writes; "
                "download the file again"
            )
        start = locate(self.mapped, member, self.where)
        return self.mapped[start : start + member.size_bytes]

    def has_code(self, text: str) -> bool:
        """Whether the first 16 MiB of code, `code/**.py`, contain a string."""
        remaining_bytes = _MAX_CODE_BYTES
        for name, member in self.members.items():
            if name.startswith(f"{self.root}code/") and name.endswith(".py"):
                code = unpack(self.mapped, member, self.where, remaining_bytes)
                remaining_bytes -= len(code) + member.packed_bytes
                if text.encode() in code:
                    return True
                if remaining_bytes <= 0:
                    break
        return False

    def _find(self, name: str) -> Member:
        if self.root + name not in self.members:
            raise WeightsError(f"{self.where}: member {ascii(name)[:80]} is missing; download the file again")
        return self.members[self.root + name]

    def builders(self) -> Mapping[str, Builder]:
        """Replacements for the functions and types that torch's pickles may name."""
        types = dict.fromkeys([*_STORAGES, *_TYPED_STORAGE_TYPES, *_UNTYPED_STORAGE_TYPES], self._refuse_call)
        lists = dict.fromkeys([f"torch.jit._pickle.build_{name}" for name in _LISTS], self._first)
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
        """The storage with a persistent id; the device that the id names is ignored."""
        match identity:
            case ("storage", Name(path=path), str(key), _, int(count)) if path in _STORAGES and count >= 0:
                dtype = _STORAGES[path]
            case _:
                raise self._invalid("a storage has an id that torch does not write")
        if key not in self.storages:
            self.storages[key] = _Storage(self._elements(f"data/{key}", dtype))
        storage = self.storages[key]
        if len(storage.flat) != count or storage.flat.dtype != dtype:
            actual = str(storage.flat.dtype).removeprefix("torch.")
            raise self._invalid(
                f"storage data/{ascii(key)[1:-1][:80]} has {len(storage.flat)} elements of {actual}, "
                "which contradicts the pickle"
            )
        return storage

    def _elements(self, name: str, dtype: torch.dtype) -> Tensor:
        member = self._find(name)
        start = locate(self.mapped, member, self.where)
        if member.size_bytes % dtype.itemsize:
            raise self._invalid(
                f"{name} has {member.size_bytes} bytes, which is not a multiple of the element size {dtype.itemsize}"
            )
        count = member.size_bytes // dtype.itemsize
        if count == 0:
            return torch.empty(0, dtype=dtype)
        if not self.is_swapped and start % dtype.itemsize == 0:
            return torch.frombuffer(self.mapped, dtype=dtype, count=count, offset=start)
        raw = torch.frombuffer(self.mapped, dtype=torch.uint8, count=member.size_bytes, offset=start)
        elements = raw.view(-1, dtype.itemsize)
        return (elements.flip(1) if self.is_swapped else elements.clone()).view(dtype).view(-1)

    def _tensor(self, arguments: tuple[Any, ...]) -> Tensor:
        match arguments:
            case (_Storage(flat=flat), int(offset), tuple(size), tuple(stride), *_):
                return self._view(flat, offset, size, stride)
        raise self._invalid("a tensor is described in a way that torch does not write")

    def _tensor_of_type(self, arguments: tuple[Any, ...]) -> Tensor:
        """A tensor of a type without a typed storage: the storage counts bytes, and the type is named separately."""
        match arguments:
            case (_Storage(flat=flat), int(offset), tuple(size), tuple(stride), _, _, Name(path=type_name), *_):
                dtype = (_TYPED_STORAGE_TYPES | _UNTYPED_STORAGE_TYPES).get(type_name)
                if dtype is not None and flat.dtype == torch.uint8 and len(flat) % dtype.itemsize == 0:
                    if self.is_swapped and dtype.itemsize > 1:  # torch itself reads their bytes in the wrong order
                        raise WeightsError(
                            f"{self.where}: big-endian {type_name} is not supported; save the tensors as another type"
                        )
                    return self._view(flat.view(dtype), offset, size, stride)
        raise self._invalid("a tensor is described in a way that torch does not write")

    def _view(self, flat: Tensor, offset: int, size: tuple[Any, ...], stride: tuple[Any, ...]) -> Tensor:
        """A view of a storage, if it is within bounds and the total size of all views is plausible."""
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or not all(type(n) is int for n in numbers):
            raise self._invalid("a tensor is described in a way that torch does not write")
        count = 1
        for length in size:
            count *= length
        last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
        if min(numbers) < 0 or max(count, 1 + last if count else offset) > len(flat):
            shown = short_shape(size)
            raise self._invalid(f"a tensor of size {shown} does not fit its storage of {len(flat)} elements")
        self.used_bytes += count * flat.element_size()
        if self.used_bytes > _MAX_USES * len(self.mapped):
            raise self._invalid("its tensors are larger than the file")
        return flat.as_strided(size, stride, offset)

    def _ordered(self, arguments: tuple[Any, ...]) -> dict[str, Any]:
        if arguments:
            raise self._invalid("an ordered dictionary has arguments")
        return {}

    def _first(self, arguments: tuple[Any, ...]) -> Any:
        """The first argument: typed lists and parameters are replaced by what they wrap."""
        if not arguments:
            raise self._invalid("a call has no arguments")
        return arguments[0]

    def _refuse_call(self, arguments: tuple[Any, ...]) -> Any:
        raise self._invalid("a type is called")

    def _invalid(self, reason: str) -> WeightsError:
        return WeightsError(f"{self.where}: {reason}; the file is broken or hostile: download it again")
