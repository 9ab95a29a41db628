"""Shards as one sequence of samples that can be read in any order.

Local shards are read in place. Shards on a web server are fetched whole into a bounded cache (`remote.py`) and then
read like local ones: one way of reading, and the order of samples stays a function of seed and epoch, as a stream's
shuffle buffer would not allow.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from wordsight.data.index import ShardIndex, index_hash, load_index
from wordsight.data.manifest import MANIFEST_NAME, Manifest, ManifestShard, read_manifest
from wordsight.data.remote import RemoteCache, is_remote
from wordsight.data.sample import (
    MAX_IMAGE_BYTES,
    MAX_TEXT_BYTES,
    BrokenSample,
    BrokenSampleError,
    Sample,
    Texts,
    texts_of_json,
    texts_of_txt,
)
from wordsight.data.tar import read_at
from wordsight.errors import DataError, nearest

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_SHARDS = 1_000_000
REMOTE_WINDOW_SHARDS = 8


class Shard:
    """One tar file of samples; its index is read when it is first needed.

    Attributes:
        name: path or address, for errors and for `Sample.shard`.
    """

    def __init__(self, name: str, locate: Callable[[], Path], told: ManifestShard | None) -> None:
        self.name = name
        self._locate = locate
        self._told = told
        self._index: ShardIndex | None = None

    @property
    def index(self) -> ShardIndex:
        """Where the samples lie.

        Raises:
            DataError: not there, cut short, not a tar file, or another one than the manifest says.
        """
        if self._index is None:
            index = load_index(self._locate())
            if self._told is not None and (self._told.bytes, self._told.samples) != (index.size, len(index.keys)):
                raise DataError(
                    f"{self.name}: {index.size} bytes with {len(index.keys)} samples, but {MANIFEST_NAME} says "
                    f"{self._told.bytes} with {self._told.samples}; pack or fetch it again"
                )
            self._index = index
        return self._index

    @property
    def count(self) -> int:
        """How many samples it holds; the manifest's word is enough."""
        return self._told.samples if self._told is not None else len(self.index.keys)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the file where a manifest tells it, else of the index."""
        return self._told.sha256 if self._told is not None else index_hash(self.index)

    def read(self, row: int) -> Sample:
        """Read one sample.

        Raises:
            BrokenSampleError: this sample cannot be used.
            DataError: the shard cannot be read, or was changed since it was opened.
        """
        index = self.index
        key = index.keys[row]
        try:
            if row in index.problems:
                raise DataError(index.problems[row])
            spans = index.spans[row].tolist()
            _check_spans(spans)
        except DataError as error:
            raise BrokenSampleError(BrokenSample(key, self.name, str(error))) from error
        image, in_json, in_txt = self._read_spans(index, spans)
        try:
            texts = _texts(in_json, in_txt)
        except DataError as error:
            raise BrokenSampleError(BrokenSample(key, self.name, str(error))) from error
        return Sample(key=key, image=image, captions=texts.captions, names=texts.names, shard=self.name)

    def _read_spans(self, index: ShardIndex, spans: list[list[int]]) -> list[bytes]:
        path = self._locate()
        try:
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:  # another process made room in the cache of remote shards
                file = self._locate().open("rb", buffering=0)
            with file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (index.size, index.mtime_ns):
                    raise DataError(f"{path}: changed since it was opened; start again")
                return [read_at(file, offset, size) if size > 0 else b"" for offset, size in spans]
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


class ShardSet:
    """The samples of several shards, numbered from 0 in the shards' order."""

    def __init__(self, shards: Sequence[Shard], window: int | None = None) -> None:
        self.shards = tuple(shards)
        self.counts = tuple(shard.count for shard in self.shards)
        self.window = window
        self._ends = np.cumsum(self.counts, dtype=np.int64)
        if not self.counts or not self._ends[-1]:
            raise DataError(
                f"{self.shards[0].name if self.shards else 'shards'}: no samples; pack some with 'wordsight shards'"
            )
        self.fingerprint = hashlib.sha256(msgspec.json.encode([shard.fingerprint for shard in self.shards])).hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, number: int) -> tuple[Shard, int]:
        """The shard that holds a sample, and its row there.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return self.shards[shard], number - int(self._ends[shard]) + self.counts[shard]

    def sample(self, number: int) -> Sample:
        """Read one sample.

        Raises:
            BrokenSampleError: this sample cannot be used; it names the key and the reason.
            DataError: its shard cannot be read.
        """
        shard, row = self.locate(number)
        return shard.read(row)


def open_shards(where: str | Path | Sequence[str | Path], cache: RemoteCache | None = None) -> ShardSet:
    """Open shards for reading.

    Args:
        where: a directory of `*.tar`, one tar file, an address `https://.../{000000..000004}.tar` (ranges also work in
            paths), or several of these.
        cache: where remote shards are kept; by default 16 GiB in the user's cache directory.

    Raises:
        DataError: nothing there, no samples, a shard is cut short, or differs from its manifest.
        DownloadError: of shards on a server.
    """
    if isinstance(where, str | Path):
        where = [where]
    shards: list[Shard] = []
    remote = False
    for place in where:
        for path in _expand(str(place)):
            if is_remote(path):
                remote = True
                cache = cache or RemoteCache()
                shards.append(_remote_shard(path, cache))
            else:
                shards += _local_shards(Path(path))
    return ShardSet(shards, REMOTE_WINDOW_SHARDS if remote else None)


def _expand(text: str) -> Iterable[str]:
    """`a{08..10}.tar` as three names, with leading zeros kept."""
    match = _RANGE.search(text)
    if not match:
        return [text]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MAX_SHARDS:
        raise DataError(f"{text}: the range {match[0]} has no or too many shards; write it as {{000000..000009}}")
    width = len(match[1])
    names = (f"{text[: match.start()]}{number:0{width}d}{text[match.end() :]}" for number in range(first, last + 1))
    return [full for name in names for full in _expand(name)]


def _local_shards(path: Path) -> list[Shard]:
    if not path.exists():
        known = [other.name for other in path.parent.iterdir()] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file or directory{nearest(path.name, known)}")
    if path.is_file():
        told = _manifest_of(path.parent).get(path.name)
        return [_local_shard(path, told)]
    manifest = _manifest_of(path)
    tars = {tar.name: tar for tar in sorted(path.glob("*.tar"))}
    if not tars:
        raise DataError(f"{path}: no shards (*.tar) in this directory; make some with 'wordsight shards SOURCE {path}'")
    if manifest:
        for name in sorted(manifest.keys() ^ tars.keys()):
            how = "missing" if name in manifest else f"not in {MANIFEST_NAME}"
            raise DataError(f"{path / name}: {how}; pack the directory again")
    return [_local_shard(tar, manifest.get(name)) for name, tar in tars.items()]


def _local_shard(path: Path, told: ManifestShard | None) -> Shard:
    shard = Shard(str(path), lambda: path, told)
    _ = shard.index  # what is cut short is known before training starts
    return shard


def _manifest_of(directory: Path) -> dict[str, ManifestShard]:
    manifest = read_manifest(directory / MANIFEST_NAME)
    return _by_name(manifest)


def _by_name(manifest: Manifest | None) -> dict[str, ManifestShard]:
    return {shard.name: shard for shard in manifest.shards} if manifest else {}


def _remote_shard(address: str, cache: RemoteCache) -> Shard:
    directory, _, name = address.partition("?")[0].rpartition("/")
    told = _by_name(cache.manifest(directory)).get(name)
    return Shard(address, lambda: cache.fetch(address, told), told)


def _check_spans(spans: list[list[int]]) -> None:
    """Refuse a sample by what its index says, before any memory is taken."""
    image, in_json, in_txt = (size for _, size in spans)
    if image < 0:
        raise DataError("no image: text only")
    if image == 0:
        raise DataError("the image is empty: 0 bytes")
    if image > MAX_IMAGE_BYTES:
        raise DataError(f"the image has {image:,} bytes, more than {MAX_IMAGE_BYTES:,}")
    if in_json < 0 and in_txt < 0:
        raise DataError("no text: neither .json nor .txt beside the image")
    if max(in_json, in_txt) > MAX_TEXT_BYTES:
        raise DataError(f"its text has {max(in_json, in_txt):,} bytes, more than {MAX_TEXT_BYTES:,}")


def _texts(in_json: bytes, in_txt: bytes) -> Texts:
    texts = texts_of_json(in_json) if in_json else None
    if texts is None and in_txt:
        texts = texts_of_txt(in_txt)
    if texts is None:
        raise DataError("no text: the .json has no captions, names or label" if in_json else "empty text")
    return texts
