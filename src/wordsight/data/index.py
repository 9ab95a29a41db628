"""The index of a shard: the location of each sample, so that samples can be read in any order.

A tar file has no table of contents. Its headers are read once, and the resulting index is stored next to the shard or,
if that is not writable, in the user's cache directory. A stored index is not trusted: it is used only if it states the
size and modification time of the shard and if all its spans are within the shard; otherwise it is rebuilt.
"""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from io import RawIOBase
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.cache import cache_directory
from wordsight.data.sample import sample_key
from wordsight.data.tar import BLOCK_BYTES, END_OF_ARCHIVE, Member, read_at, walk_members
from wordsight.data.walk import check_regular
from wordsight.errors import DataError, OutputError
from wordsight.files import read_limited, write_atomic
from wordsight.image import is_image_file

_VERSION = 2
_PARTS = ("image", "json", "txt", "cls")
_TEXT_PARTS = {"json": 1, "txt": 2, "caption": 2, "captions": 2, "cls": 3}


class ShardIndex(msgspec.Struct, frozen=True):
    """The locations of the N samples of one shard.

    Attributes:
        size: size of the shard in bytes.
        mtime_ns: modification time of the shard.
        keys: keys of the samples, in the order of their first members.
        spans: (N, 4, 2) int64; offset and size of the image, `.json`, `.txt` and `.cls`; -1 for a missing one.
        problems: the reason why a sample cannot be used, by row; most samples have none.
        skipped: names of images and texts that belong to no sample.
    """

    size: int
    mtime_ns: int
    keys: list[str]
    spans: NDArray[np.int64]
    problems: dict[int, str]
    skipped: list[str]


class _Stored(msgspec.Struct, frozen=True):
    version: int
    size: int
    mtime_ns: int
    keys: list[str]
    spans: bytes
    problems: dict[int, str]
    skipped: list[str] = []


def load_index(path: Path) -> ShardIndex:
    """Load the index of a shard from a stored index that is still valid, or build it from the headers of the shard.

    Raises:
        DataError: the shard is missing, cannot be read, is truncated, or is not a tar file.
    """
    check_regular(path)
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
    num_parts = 4 if (index.spans[:, 3] >= 0).any() else 3  # so that runs from before `.cls` was read can be resumed
    digest.update(index.spans[:, :num_parts].astype("<i8").tobytes())
    return digest.hexdigest()


def _stored_paths(path: Path) -> tuple[Path, Path]:
    name = hashlib.sha256(str(path.resolve()).encode("utf-8", "surrogateescape")).hexdigest()
    return path.with_name(f"{path.name}.index"), cache_directory("indexes") / f"{name}.index"


def _to_bytes(index: ShardIndex) -> bytes:
    spans = index.spans.astype("<i8").tobytes()
    return msgspec.msgpack.encode(
        _Stored(_VERSION, index.size, index.mtime_ns, index.keys, spans, index.problems, index.skipped)
    )


def _read_stored(path: Path, shard: os.stat_result) -> ShardIndex | None:
    """Read a stored index; None if it is missing, belongs to another state of the shard, or is inconsistent."""
    try:
        # a sample takes more bytes in the shard than in its index
        stored = msgspec.msgpack.decode(read_limited(path, shard.st_size + 4096, DataError), type=_Stored)
        num_parts = 3 if stored.version == 1 else len(_PARTS)
        spans = np.frombuffer(stored.spans, "<i8").reshape(len(stored.keys), num_parts, 2)
    except (DataError, msgspec.DecodeError, ValueError):
        return None
    if (stored.size, stored.mtime_ns) != (shard.st_size, shard.st_mtime_ns) or stored.version not in (1, _VERSION):
        return None
    offset, size = spans[..., 0], spans[..., 1]
    present = (offset >= 0) & (size >= 0) & (offset <= shard.st_size) & (size <= shard.st_size - offset)
    absent = (offset == -1) & (size == -1)
    if not (present | absent).all() or any(not 0 <= row < len(stored.keys) for row in stored.problems):
        return None
    if stored.version == 1:
        if not _is_complete(size, shard.st_size):
            return None
        spans = np.concatenate([spans, np.full_like(spans[:, :1], -1)], axis=1)
    return ShardIndex(
        stored.size, stored.mtime_ns, stored.keys, spans.astype(np.int64), stored.problems, stored.skipped
    )


def _is_complete(sizes: NDArray[np.int64], total: int) -> bool:
    """Return whether a shard has no other members; version 1 left out `.cls` and names with dots."""
    blocks = np.where(sizes >= 0, BLOCK_BYTES + -(-sizes // BLOCK_BYTES) * BLOCK_BYTES, 0)
    return int(blocks.sum()) + len(END_OF_ARCHIVE) == total


class _Sample:
    """The members that share a name without its last suffix."""

    def __init__(self) -> None:
        self.spans = [[-1, -1] for _ in _PARTS]
        self.problem = ""

    @property
    def has_image(self) -> bool:
        return self.spans[0][0] >= 0 or bool(self.problem)

    @property
    def has_text(self) -> bool:
        return any(offset >= 0 for offset, _ in self.spans[1:])

    def take_texts(self, others: Sequence["_Sample"]) -> None:
        """Take the texts of others; the first of each kind."""
        for part in range(1, len(_PARTS)):
            self.spans[part] = next((other.spans[part] for other in others if other.spans[part][0] >= 0), [-1, -1])


def _build_index(file: RawIOBase, status: os.stat_result, path: Path) -> ShardIndex:
    """Group the members of a tar file, which can be in any order, into samples."""
    samples: dict[str, _Sample] = {}
    suffixes: dict[str, str] = {}  # the first one of each sample
    for member in walk_members(partial(read_at, file), status.st_size, str(path)):
        name = member.name.removeprefix("./")
        part = _part(name)
        if part is None:
            continue
        stem, _, suffix = name.rpartition(".")
        sample = samples.get(stem)
        if sample is None:
            sample = samples[stem] = _Sample()
            suffixes[stem] = suffix
        problem = _problem(member, sample.spans[part][0] >= 0)
        if problem and not (part == 2 and suffix.lower() != "txt"):  # a .caption beside a .txt is no duplicate
            sample.problem = sample.problem or problem
        elif not problem:
            sample.spans[part] = [member.offset, member.size]
    keys, skipped = _resolve_dots(samples)
    spans = np.array([samples[stem].spans for stem in keys], np.int64).reshape(len(keys), len(_PARTS), 2)
    problems = {row: samples[stem].problem for row, stem in enumerate(keys) if samples[stem].problem}
    names = [f"{stem}.{suffixes[stem]}" for stem in skipped]
    return ShardIndex(status.st_size, status.st_mtime_ns, list(keys.values()), spans, problems, names)


def _resolve_dots(samples: dict[str, _Sample]) -> tuple[dict[str, str], list[str]]:
    """Decide which of the names that are equal up to the first dot are separate samples.

    WebDataset would make one sample of `a.input.jpg` and `a.output.txt`, but also of `photo.1.jpg` and `photo.2.jpg`.
    Here every image is a sample, and its texts are those with the same name. An image without texts gets those of the
    group. It is skipped if another one in the group has the name without dots and a text, because then it is an
    additional output such as a mask, `a.mask.png`.

    Returns:
        Keys of the samples by their stems, and the stems that are skipped.
    """
    has_dots = {sample_key(stem) for stem in samples if "." in stem.rpartition("/")[2]}
    groups: dict[str, list[str]] = {}
    for stem in samples if has_dots else ():
        if (key := sample_key(stem)) in has_dots:
            groups.setdefault(key, []).append(stem)
    keys = {stem: stem for stem in samples}
    skipped: list[str] = []
    for key, stems in groups.items():
        images = [stem for stem in stems if samples[stem].has_image]
        texts = [stem for stem in stems if not samples[stem].has_image]
        if not images or len(stems) == 1:
            continue
        is_complete = key in images and samples[key].has_text
        extra = [stem for stem in images if is_complete and stem != key and not samples[stem].has_text]
        needy = [stem for stem in images if not samples[stem].has_text and stem not in extra]
        for stem in needy:
            samples[stem].take_texts([samples[text] for text in texts])
        if needy and texts and len(images) == 1:
            keys[needy[0]] = key
        for stem in [*extra, *texts]:
            del keys[stem]
        skipped += extra if needy else [*extra, *texts]
    return keys, skipped


def _part(name: str) -> int | None:
    """Return which part of a sample a member is, by its suffix in upper or lower case; None for other files."""
    if is_image_file(name):
        return 0
    stem, _, suffix = name.rpartition("/")[2].rpartition(".")
    return _TEXT_PARTS.get(suffix.lower()) if stem and not stem.startswith(".") else None


def _problem(member: Member, is_repeated: bool) -> str:
    base = member.name.rpartition("/")[2]
    if member.kind:
        return f"{base} is {member.kind}, not a file"
    if member.name.startswith("/") or ".." in member.name.split("/"):
        return f"the name {member.name!r} points outside the shard"
    if is_repeated:
        return f"duplicate key: {base} is not the first member of its kind with this key"
    return ""
