"""The index of a shard: the location of each sample, so that samples can be read in any order.

A tar file has no table of contents. Its headers are read once, and the resulting index is stored next to the shard or,
if that is not writable, in the user's cache directory. A stored index is not trusted: it is used only if it states the
size and modification time of the shard and if all its spans are within the shard; otherwise it is rebuilt.
"""

import contextlib
import hashlib
import os
import re
from functools import partial
from io import RawIOBase
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.cache import cache_directory
from wordsight.data.tar import Member, read_at, walk_members
from wordsight.errors import DataError, OutputError
from wordsight.files import write_atomic
from wordsight.image import is_image_file

_VERSION = 1
_PARTS = ("image", "json", "txt")
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^./]+)", re.DOTALL)


class ShardIndex(msgspec.Struct, frozen=True):
    """The locations of the N samples of one shard.

    Attributes:
        size: size of the shard in bytes.
        mtime_ns: modification time of the shard.
        keys: keys of the samples, in the order of their first members.
        spans: (N, 3, 2) int64; offset and size of the image, the `.json` and the `.txt`; -1 for a missing one.
        problems: the reason why a sample cannot be used, by row; most samples have none.
    """

    size: int
    mtime_ns: int
    keys: list[str]
    spans: NDArray[np.int64]
    problems: dict[int, str]


class _Stored(msgspec.Struct, frozen=True):
    version: int
    size: int
    mtime_ns: int
    keys: list[str]
    spans: bytes
    problems: dict[int, str]


def load_index(path: Path) -> ShardIndex:
    """Load the index of a shard from a stored index that is still valid, or build it from the headers of the shard.

    Raises:
        DataError: the shard is missing, cannot be read, is truncated, or is not a tar file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            for stored_path in _stored_paths(path):
                index = _read_stored(stored_path, status)
                if index is not None:
                    return index
            index = _build_index(file, status, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    for stored_path in _stored_paths(path):
        with contextlib.suppress(OutputError):
            write_atomic(stored_path, _to_bytes(index))
            break
    return index


def index_hash(index: ShardIndex) -> str:
    """Return the SHA-256 of a shard's size, keys and spans; changed content of the same length does not change it."""
    digest = hashlib.sha256(msgspec.msgpack.encode((index.size, index.keys)))
    digest.update(index.spans.astype("<i8").tobytes())
    return digest.hexdigest()


def _stored_paths(path: Path) -> tuple[Path, Path]:
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return path.with_name(f"{path.name}.index"), cache_directory("indexes") / f"{name}.index"


def _to_bytes(index: ShardIndex) -> bytes:
    spans = index.spans.astype("<i8").tobytes()
    return msgspec.msgpack.encode(_Stored(_VERSION, index.size, index.mtime_ns, index.keys, spans, index.problems))


def _read_stored(path: Path, shard: os.stat_result) -> ShardIndex | None:
    """Read a stored index; None if it is missing, belongs to another state of the shard, or is inconsistent."""
    try:
        if path.stat().st_size > shard.st_size + 4096:  # a sample takes more bytes in the shard than in its index
            return None
        stored = msgspec.msgpack.decode(path.read_bytes(), type=_Stored)
        spans = np.frombuffer(stored.spans, "<i8").reshape(len(stored.keys), len(_PARTS), 2)
    except (OSError, msgspec.DecodeError, ValueError):
        return None
    if (stored.version, stored.size, stored.mtime_ns) != (_VERSION, shard.st_size, shard.st_mtime_ns):
        return None
    offset, size = spans[..., 0], spans[..., 1]
    present = (offset >= 0) & (size >= 0) & (offset <= shard.st_size) & (size <= shard.st_size - offset)
    absent = (offset == -1) & (size == -1)
    if not (present | absent).all() or any(not 0 <= row < len(stored.keys) for row in stored.problems):
        return None
    return ShardIndex(stored.size, stored.mtime_ns, stored.keys, spans.astype(np.int64), stored.problems)


def _build_index(file: RawIOBase, status: os.stat_result, path: Path) -> ShardIndex:
    """Group the members of a tar file into samples by their names without suffix."""
    rows: dict[str, int] = {}
    spans: list[list[list[int]]] = []
    problems: dict[int, str] = {}

    for member in walk_members(partial(read_at, file), status.st_size, str(path)):
        match = _MEMBER.fullmatch(member.name.removeprefix("./"))
        part = _part(member.name) if match else None
        if match is None or part is None:
            continue
        row = rows.setdefault(match[1], len(rows))
        if row == len(spans):
            spans.append([[-1, -1] for _ in _PARTS])
        problem = _problem(member, spans[row][part][0] >= 0)
        if problem:
            problems.setdefault(row, problem)
        else:
            spans[row][part] = [member.offset, member.size]
    table = np.array(spans, np.int64).reshape(len(rows), len(_PARTS), 2)
    return ShardIndex(status.st_size, status.st_mtime_ns, list(rows), table, problems)


def _part(name: str) -> int | None:
    """Return which part of a sample a member is, by its suffix in upper or lower case; None for other files."""
    if is_image_file(name):
        return 0
    suffix = name.rpartition(".")[2].lower()
    return _PARTS.index(suffix) if suffix in _PARTS[1:] else None


def _problem(member: Member, is_repeated: bool) -> str:
    base = member.name.rpartition("/")[2]
    if member.kind:
        return f"{base} is {member.kind}, not a file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"the name {member.name!r} points outside the shard"
    if is_repeated:
        return f"duplicate key: {base} is not the first member of its kind with this key"
    return ""
