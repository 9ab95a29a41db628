"""Where the samples of a shard lie, so that any of them can be read alone.

A tar file has no table of contents; its headers are walked once and the table kept in a file, beside the shard or,
where that cannot be written, in the user's cache directory. The table is only a hint: it must name the shard's size and
time of change, and every span in it must lie within the shard, or it is made again.
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
from wordsight.data.tar import Member, read_at, walk
from wordsight.errors import DataError, OutputError
from wordsight.files import write_atomic
from wordsight.image import is_image_file

_VERSION = 1
_PARTS = ("image", "json", "txt")
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^./]+)", re.DOTALL)


class ShardIndex(msgspec.Struct, frozen=True):
    """Where the samples of one shard lie.

    Attributes:
        size: of the shard, in bytes.
        mtime_ns: when it was last changed.
        keys: of the N samples, in the order in which they first appear.
        spans: (N, 3, 2) int64; offset and size of image, `.json` and `.txt`; -1 where there is none.
        problems: what is wrong with a sample, by its row; most have nothing.
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
    """The index of a shard: from its cache where that still fits, else from the shard's headers.

    Raises:
        DataError: the shard is missing, cannot be read, is cut short, or is not a tar file.
    """
    try:
        with path.open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            for place in _cache_places(path):
                index = _read_cache(place, status)
                if index is not None:
                    return index
            index = _walk_shard(file, status, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    for place in _cache_places(path):
        with contextlib.suppress(OutputError):
            write_atomic(place, _to_bytes(index))
            break
    return index


def index_hash(index: ShardIndex) -> str:
    """SHA-256 over the keys and places of a shard's samples; content of equal length is not told apart."""
    digest = hashlib.sha256(msgspec.msgpack.encode((index.size, index.keys)))
    digest.update(index.spans.astype("<i8").tobytes())
    return digest.hexdigest()


def _cache_places(path: Path) -> tuple[Path, Path]:
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return path.with_name(f"{path.name}.index"), cache_directory("indexes") / f"{name}.index"


def _to_bytes(index: ShardIndex) -> bytes:
    spans = index.spans.astype("<i8").tobytes()
    return msgspec.msgpack.encode(_Stored(_VERSION, index.size, index.mtime_ns, index.keys, spans, index.problems))


def _read_cache(place: Path, shard: os.stat_result) -> ShardIndex | None:
    """The index in a cache file, or None where it is absent, of another shard, or not to be believed."""
    try:
        if place.stat().st_size > shard.st_size + 4096:  # every sample takes more room in the shard than here
            return None
        stored = msgspec.msgpack.decode(place.read_bytes(), type=_Stored)
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


def _walk_shard(file: RawIOBase, status: os.stat_result, path: Path) -> ShardIndex:
    """Group the members of a tar file into samples."""
    rows: dict[str, int] = {}
    spans: list[list[list[int]]] = []
    problems: dict[int, str] = {}

    for member in walk(partial(read_at, file), status.st_size, str(path)):
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
    """The part of a sample that a member is, by its suffix in upper or lower case; None for other files."""
    if is_image_file(name):
        return 0
    suffix = name.rpartition(".")[2].lower()
    return _PARTS.index(suffix) if suffix in _PARTS[1:] else None


def _problem(member: Member, is_repeated: bool) -> str:
    base = member.name.rpartition("/")[2]
    if member.kind:
        return f"{base} is {member.kind}, not a file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"the name {member.name!r} leads out of the shard"
    if is_repeated:
        return f"the key is used twice: {base} is not its first member of that kind"
    return ""
