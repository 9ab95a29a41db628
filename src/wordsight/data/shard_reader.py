"""Shards as one sequence of samples that can be read in any order.

Local shards are read in place. Shards on a web server are downloaded whole into a bounded cache (`remote.py`) and then
read like local ones. Because every shard can be read in any order, the order of samples is a function of seed and
epoch, which the shuffle buffer of a stream would not allow.
"""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from wordsight.data.class_names import LabelNames
from wordsight.data.index import ShardIndex, index_hash, load_index
from wordsight.data.manifest import (
    MANIFEST_NAME,
    SKIPPED_NAME,
    Manifest,
    ManifestShard,
    check_shard,
    check_skipped,
    read_manifest,
)
from wordsight.data.remote import RemoteCache, is_remote, restore_address
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
from wordsight.data.walk import check_exists, contains_image_files, is_directory
from wordsight.errors import DataError, encodable
from wordsight.progress import tracked
from wordsight.web import without_credentials

_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CHOICE = re.compile(r"\{([^{}]*,[^{}]*)\}")
_MAX_SHARDS = 1_000_000
REMOTE_WINDOW_SHARDS = 8
"""The number of remote shards whose samples are shuffled together; see `windowed_permutation`."""


class Shard:
    """One tar file of samples; its index is read when it is first needed.

    Attributes:
        name: path or address, for errors and for `Sample.shard`.
    """

    def __init__(self, name: str, locate: Callable[[], Path], entry: ManifestShard | None) -> None:
        self.name = name
        self._locate = locate
        self._entry = entry
        self._index: ShardIndex | None = None

    @property
    def index(self) -> ShardIndex:
        """The location of each sample in the file.

        Raises:
            DataError: the shard is missing, truncated, not a tar file, or differs from its manifest.
        """
        if self._index is None:
            index = load_index(self._locate())
            entry = self._entry
            if entry is not None and (entry.bytes, entry.samples) != (index.size, len(index.keys)):
                raise DataError(
                    f"{self.name}: {index.size} bytes with {len(index.keys)} samples, but {MANIFEST_NAME} says "
                    f"{entry.bytes} with {entry.samples}; pack or fetch it again"
                )
            self._index = index
        return self._index

    @property
    def count(self) -> int:
        """The number of samples: from the manifest if there is one, otherwise from the index."""
        return self._entry.samples if self._entry is not None else len(self.index.keys)

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file if a manifest states it, otherwise of the index."""
        return self._entry.sha256 if self._entry is not None else index_hash(self.index)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Images and texts in the file that belong to no sample, each with the reason."""
        reason = "not read: it belongs to a sample that has an image and a text"
        names = self._index.skipped if self._index is not None else []
        return [(f"{self.name}: {name}", reason) for name in names]

    def read(self, row: int, labels: LabelNames | None = None) -> Sample:
        """Read one sample.

        Args:
            row: its number in this shard.
            labels: names of classes; by default, a class must have a name, not a number.

        Raises:
            BrokenSampleError: this sample cannot be used.
            DataError: the shard cannot be read, or has changed since it was opened.
        """
        spans = self._usable_spans(row, _check_sizes)
        image, json_content, txt_content, cls_content = self._read_spans(spans)
        key = self.index.keys[row]
        try:
            texts = _texts(json_content, txt_content, cls_content, labels)
        except DataError as error:
            raise BrokenSampleError(BrokenSample(key, self.name, str(error))) from error
        return Sample(
            key=key,
            image=image,
            captions=texts.captions,
            names=texts.names,
            shard=self.name,
            columns=texts.columns,
        )

    def read_texts(self, row: int, labels: LabelNames | None = None) -> Texts:
        """Read the texts of one sample, not its image; arguments and errors are as for `read`."""
        spans = self._usable_spans(row, _check_sizes)
        try:
            json_content, txt_content, cls_content = self._read_spans(spans[1:])
            return _texts(json_content, txt_content, cls_content, labels)
        except DataError as error:
            raise BrokenSampleError(BrokenSample(self.index.keys[row], self.name, str(error))) from error

    def read_image(self, row: int) -> bytes:
        """Read the image file of one sample, which needs no text.

        Raises:
            BrokenSampleError: this sample has no usable image.
            DataError: the shard cannot be read, or has changed since it was opened.
        """
        return self._read_spans(self._usable_spans(row, _check_image_size)[:1])[0]

    def _usable_spans(self, row: int, check: Callable[..., None]) -> list[list[int]]:
        """Offset and size of a sample's image, `.json` and `.txt`, after `check` has accepted their sizes."""
        index = self.index
        try:
            if row in index.problems:
                raise DataError(index.problems[row])
            spans = index.spans[row].tolist()
            check(*(size for _, size in spans))
        except DataError as error:
            raise BrokenSampleError(BrokenSample(index.keys[row], self.name, str(error))) from error
        return spans

    def _read_spans(self, spans: list[list[int]]) -> list[bytes]:
        index = self.index
        path = self._locate()
        try:
            try:
                file = path.open("rb", buffering=0)
            except FileNotFoundError:  # another process deleted it to make room in the cache of remote shards
                file = self._locate().open("rb", buffering=0)
            with file:
                status = os.fstat(file.fileno())
                if (status.st_size, status.st_mtime_ns) != (index.size, index.mtime_ns):
                    raise DataError(f"{path}: changed since it was opened; start again")
                return [read_at(file, offset, size) if size > 0 else b"" for offset, size in spans]
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


class ShardSet:
    """The samples of several shards, numbered from 0 in the order of the shards.

    Attributes:
        shards: in order.
        counts: the number of samples of each shard.
        window: the number of shards that training shuffles together; None shuffles all samples.
        fingerprint: SHA-256 over the fingerprints of the shards.
    """

    def __init__(self, shards: Sequence[Shard], window: int | None = None) -> None:
        self.shards = tuple(shards)
        self.counts = tuple(shard.count for shard in self.shards)
        self.window = window
        self._ends = np.cumsum(self.counts, dtype=np.int64)
        if not self.counts or not self._ends[-1]:
            name = self.shards[0].name if self.shards else "shards"
            raise DataError(f"{name}: no samples; pack some with 'wordsight shards'")
        self.fingerprint = hashlib.sha256(msgspec.json.encode([shard.fingerprint for shard in self.shards])).hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def locate(self, number: int) -> tuple[Shard, int]:
        """Return the shard that holds a sample, and the row of the sample in that shard.

        Raises:
            IndexError: there is no such sample.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"sample {number} of {len(self)}")
        shard = int(np.searchsorted(self._ends, number, side="right"))
        return self.shards[shard], number - int(self._ends[shard]) + self.counts[shard]

    def name_of(self, number: int) -> str:
        """Return the name of a sample in outputs: its shard and its row in it."""
        shard, row = self.locate(number)
        return f"{encodable(shard.name)} {row}"

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """Images and texts that belong to no sample, with reasons, from all shards that have been read so far."""
        return [item for shard in self.shards for item in shard.skipped]

    def sample(self, number: int, labels: LabelNames | None = None) -> Sample:
        """Read one sample; `labels` are names of classes as for `Shard.read`.

        Raises:
            BrokenSampleError: this sample cannot be used; the error names the key and the reason.
            DataError: its shard cannot be read.
        """
        shard, row = self.locate(number)
        return shard.read(row, labels)

    def image(self, number: int) -> bytes:
        """Read the image file of one sample, which needs no text; errors as for `sample`."""
        shard, row = self.locate(number)
        return shard.read_image(row)


def is_shards(path: str | Path) -> bool:
    """Return whether a path is a set of shards, and not another kind of directory or file.

    Shards are a web address, a range such as `{000000..000004}.tar`, a directory with our `manifest.json`, or a
    directory with `*.tar` files and without images in it or below.
    """
    if is_remote(str(path)) or (str(path).endswith(".tar") and _is_pattern(str(path)) and not Path(path).is_file()):
        return True
    directory = Path(path)
    if not is_directory(directory):
        return False
    try:
        return bool(_manifest_entries(directory)) or bool(_tars(directory) and not contains_image_files(directory))
    except (DataError, OSError):  # it cannot be listed, which reading it as a directory reports
        return False


def open_shards(paths: str | Path | Sequence[str | Path], cache: RemoteCache | None = None) -> ShardSet:
    """Open shards for reading.

    Args:
        paths: a directory of `*.tar` files, one tar file, an address `https://.../{000000..000004}.tar` (ranges also
            work in local paths), or several of these.
        cache: local copies of remote shards; by default 16 GiB in the user's cache directory.

    Raises:
        DataError: a path does not exist, there are no samples, or a shard is truncated or differs from its manifest.
        DownloadError: a remote shard cannot be fetched.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    shards: list[Shard] = []
    has_remote = False
    for path in (name for pattern in paths for name in _expand(restore_address(str(pattern)))):
        if is_remote(path):
            has_remote = True
            cache = cache or RemoteCache()
            shards.append(_remote_shard(path, cache))
        else:
            shards += _local_shards(Path(path))
    return ShardSet(shards, REMOTE_WINDOW_SHARDS if has_remote else None)


def _expand(pattern: str) -> Iterable[str]:
    """Expand `a{08..10}.tar` to its three names, keeping leading zeros, and `{a,b}.tar` to two."""
    match = _RANGE.search(pattern)
    choice = _CHOICE.search(pattern)
    if choice and not Path(pattern).is_file():
        if math.prod(len(match[1].split(",")) for match in _CHOICE.finditer(pattern)) > _MAX_SHARDS:
            raise DataError(f"{pattern}: more than {_MAX_SHARDS:,} shards; name their directory")
        before, after = pattern[: choice.start()], pattern[choice.end() :]
        return [name for part in choice[1].split(",") for name in _expand(f"{before}{part}{after}")]
    if not match:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not first <= last < first + _MAX_SHARDS:
        raise DataError(
            f"{pattern}: the range {match[0]} is empty or has more than {_MAX_SHARDS:,} shards; "
            "write it as {000000..000009}"
        )
    width = len(match[1])
    before, after = pattern[: match.start()], pattern[match.end() :]
    names = (f"{before}{number:0{width}d}{after}" for number in range(first, last + 1))
    return [expanded for name in names for expanded in _expand(name)]


def _is_pattern(path: str) -> bool:
    return bool(_RANGE.search(path) or _CHOICE.search(path))


def _local_shards(path: Path) -> list[Shard]:
    check_exists(path)
    if not is_directory(path):
        return [_local_shard(path, _checked_entries(path.parent).get(path.name))]
    entries = _checked_entries(path)
    try:
        tars = {tar.name: tar for tar in _tars(path)}
    except OSError as error:
        raise DataError(f"{path}: cannot be listed: {error.strerror or error}") from error
    if not tars:
        raise DataError(f"{path}: no shards (*.tar) in this directory; make some with 'wordsight shards SOURCE {path}'")
    if entries:
        for name in sorted(entries.keys() ^ tars.keys()):
            difference = "missing" if name in entries else f"not in {MANIFEST_NAME}"
            raise DataError(f"{path / name}: {difference}; pack the directory again")
    named = tracked(tars.items(), "opening shards", "shards")
    return [_local_shard(tar, entries.get(name)) for name, tar in named]


def _local_shard(path: Path, entry: ManifestShard | None) -> Shard:
    shard = Shard(str(path), lambda: path, entry)
    _ = shard.index  # read now, so that a truncated shard is reported before training starts
    if entry is not None:
        check_shard(path, entry, path.with_name(MANIFEST_NAME))
    return shard


def _tars(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:  # Path.glob would hold all names of a large directory
        return sorted(
            directory / entry.name for entry in entries if entry.name.lower().endswith(".tar") and not entry.is_dir()
        )


def _manifest_entries(directory: Path) -> dict[str, ManifestShard]:
    return _entries_by_name(read_manifest(directory / MANIFEST_NAME))


def _checked_entries(directory: Path) -> dict[str, ManifestShard]:
    """Return the entries of a manifest that nobody has edited, next to the list of skipped images that it describes."""
    path = directory / MANIFEST_NAME
    manifest = read_manifest(path)
    if manifest is None:
        return {}
    names = [shard.name for shard in manifest.shards]
    num_samples = sum(shard.samples for shard in manifest.shards)
    if not manifest.is_intact() or len(set(names)) < len(names) or num_samples != manifest.samples:
        raise DataError(f"{path}: was edited or damaged after the shards were written; restore it, or pack them again")
    check_skipped(directory / SKIPPED_NAME, manifest)
    return _entries_by_name(manifest)


def _entries_by_name(manifest: Manifest | None) -> dict[str, ManifestShard]:
    return {shard.name: shard for shard in manifest.shards} if manifest else {}


def _remote_shard(address: str, cache: RemoteCache) -> Shard:
    directory, _, name = address.partition("?")[0].rpartition("/")
    entry = _entries_by_name(cache.manifest(directory)).get(name)
    return Shard(without_credentials(address), lambda: cache.fetch(address, entry), entry)


def _check_image_size(image: int, *text_sizes: int) -> None:
    """Refuse an image because of its size in the index, before any memory is allocated; -1 is a missing member."""
    if image < 0:
        raise DataError("no image: text only")
    if image == 0:
        raise DataError("the image is empty: 0 bytes")
    if image > MAX_IMAGE_BYTES:
        raise DataError(f"the image has {image:,} bytes, more than {MAX_IMAGE_BYTES:,}")


def _check_sizes(image: int, *text_sizes: int) -> None:
    """Refuse a sample because of its sizes in the index, before any memory is allocated; -1 is a missing member."""
    _check_image_size(image)
    if max(text_sizes) < 0:
        raise DataError("no text: neither .json nor .txt next to the image")
    if max(text_sizes) > MAX_TEXT_BYTES:
        raise DataError(f"its text has {max(text_sizes):,} bytes, more than {MAX_TEXT_BYTES:,}")


def _texts(json_content: bytes, txt_content: bytes, cls_content: bytes, labels: LabelNames | None) -> Texts:
    texts = texts_of_json(json_content, labels.names_of if labels else None) if json_content else None
    texts = texts_of_txt(txt_content) if texts is None and txt_content else texts
    if cls_content and (texts is None or not texts.names):
        try:
            (label,) = texts_of_txt(cls_content).captions
            names = (labels or LabelNames()).names_of(label, {})
        except DataError:
            if texts is None:
                raise
            return texts
        return msgspec.structs.replace(texts or Texts(), names=names)
    if texts is None:
        raise DataError("no text: the .json has no captions, names or label" if json_content else "empty text")
    return texts
