"""The writer of shards: WebDataset tar files of bounded size and a manifest, which appear only when complete.

A sample consists of two consecutive members: `KEY.jpg` (or another suffix, depending on the format of the bytes) and
`KEY.json`, which is `{"captions": [...], "label": "Egyptian cat", "names": ["Egyptian cat", ...], "columns": {...}}`
without the keys that are empty: captions, the names of the label, and the other values of its row in a table. Headers
contain no time, owner or machine, so that equal samples in the same order produce equal bytes.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

from wordsight.data.manifest import MANIFEST_NAME, SKIPPED_NAME, Manifest, ManifestShard, read_manifest, sample_sha256
from wordsight.data.sample import BrokenSample, Sample
from wordsight.data.tar import END_OF_ARCHIVE, header_of, padding_of
from wordsight.errors import DataError, OutputError, encodable
from wordsight.files import atomic_directory, open_atomic, write_atomic

MAX_SAMPLES = 10_000
MAX_BYTES = 256_000_000
_SIGNATURES = {
    b"\xff\xd8\xff": "jpg",
    b"\x89PNG": "png",
    b"GIF8": "gif",
    b"II*\0": "tif",
    b"MM\0*": "tif",
    b"BM": "bmp",
}


class _OpenShard:
    """A shard that is being written."""

    def __init__(self, directory: Path, number: int) -> None:
        self.name = f"{number:06d}.tar"
        self._path = directory / self.name
        self.samples = 0
        self.bytes = 0
        self._digest = hashlib.sha256()
        self._stack = contextlib.ExitStack()
        self._file: BinaryIO = self._stack.enter_context(open_atomic(self._path))

    def add(self, block: bytes) -> None:
        self._file.write(block)
        self._digest.update(block)
        self.bytes += len(block)

    def close(self) -> ManifestShard:
        self.add(END_OF_ARCHIVE)
        self._stack.close()
        sample = sample_sha256(self._path)
        return ManifestShard(self.name, self._digest.hexdigest(), self.samples, self.bytes, sample)

    def abandon(self, error_type: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        self._stack.__exit__(error_type, error, traceback)


class ShardWriter:
    """Writes samples as shards into an existing directory; `writing_shards` creates one that appears complete.

    Args:
        directory: an existing directory.
        max_samples: limit for the samples of a shard.
        max_bytes: limit for the bytes of a shard, which only a single larger sample can exceed.
    """

    def __init__(self, directory: Path, max_samples: int = MAX_SAMPLES, max_bytes: int = MAX_BYTES) -> None:
        if max_samples < 1 or max_bytes < 1:
            raise DataError(
                f"limits of a shard, {max_samples} samples and {max_bytes} bytes: expected at least 1 of each"
            )
        self._directory = directory
        self._max_samples = max_samples
        self._max_bytes = max_bytes
        self._open: _OpenShard | None = None
        self._done: list[ManifestShard] = []
        self._keys: set[str] = set()
        self._skipped: list[BrokenSample] = []

    def add(self, sample: Sample) -> None:
        """Append a sample; its `shard` is ignored.

        Raises:
            DataError: the key has been used before, or cannot be the name of a member.
            OutputError: the disk is full.
        """
        check_key(sample.key)
        if sample.key in self._keys:
            raise DataError(f"{sample.key}: duplicate key; rename one of the two samples")
        parts = [
            (f"{sample.key}.{suffix_of(sample.image)}", sample.image),
            (f"{sample.key}.json", _to_json(sample)),
        ]
        block = b"".join(header_of(name, len(part)) + part + padding_of(len(part)) for name, part in parts)
        shard = self._room_for(len(block))
        shard.add(block)
        shard.samples += 1
        self._keys.add(sample.key)

    def skip(self, broken: BrokenSample) -> None:
        """Record an image that could not be packed, for `skipped.jsonl`; its texts may have come from file names."""
        self._skipped.append(BrokenSample(encodable(broken.key), encodable(broken.shard), encodable(broken.reason)))

    def finish(self) -> Manifest:
        """Close the last shard, and write the list of skipped images and the manifest.

        Raises:
            DataError: no sample was added.
            OutputError: the disk is full.
        """
        if self._open is not None:
            self._done.append(self._open.close())
            self._open = None
        if not self._done:
            reason = f"; the first: {self._skipped[0].key}: {self._skipped[0].reason}" if self._skipped else ""
            raise DataError(f"no sample could be packed, {len(self._skipped)} skipped{reason}")
        skipped = b"".join(msgspec.json.encode(broken) + b"\n" for broken in self._skipped)
        write_atomic(self._directory / SKIPPED_NAME, skipped)
        manifest = Manifest(
            format="wordsight-shards-1",
            samples=len(self._keys),
            skipped=len(self._skipped),
            shards=tuple(self._done),
            skipped_sha256=hashlib.sha256(skipped).hexdigest(),
        ).sealed()
        write_atomic(self._directory / MANIFEST_NAME, manifest.to_bytes())
        return manifest

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._open is not None:
            shard, self._open = self._open, None
            with contextlib.suppress(BaseException):
                stop = error or DataError("the shard writer was closed before finish()")
                shard.abandon(type(stop), stop, traceback)

    def _room_for(self, size: int) -> _OpenShard:
        shard = self._open
        if shard is not None and (
            shard.samples >= self._max_samples or shard.bytes + size + len(END_OF_ARCHIVE) > self._max_bytes
        ):
            self._done.append(shard.close())
            shard = self._open = None
        if shard is None:
            shard = self._open = _OpenShard(self._directory, len(self._done))
        return shard


@contextlib.contextmanager
def writing_shards(out: Path, max_samples: int = MAX_SAMPLES, max_bytes: int = MAX_BYTES) -> Iterator[ShardWriter]:
    """Yield a writer whose directory appears, complete, if the block succeeds; call `finish` in the block.

    Shards that were written there earlier are replaced; a directory with anything else in it is refused.

    Raises:
        OutputError: `out` contains anything other than our shards, or cannot be written.
    """
    refuse_foreign(out)
    with atomic_directory(out) as directory, ShardWriter(directory, max_samples, max_bytes) as writer:
        yield writer


def refuse_foreign(out: Path) -> None:
    """Check that an output directory does not exist, is empty, or contains only shards that this module wrote.

    Raises:
        OutputError: the path is a file, cannot be read, or contains anything else.
    """
    try:
        if not out.is_dir():
            if out.exists():
                raise OutputError(f"{out}: a file, not a directory; choose another output path")
            return
        names = {path.name for path in out.iterdir()}
    except OSError as error:
        raise OutputError(f"{out}: cannot be read: {error.strerror or error}") from error
    manifest = read_manifest(out / MANIFEST_NAME)
    ours = {MANIFEST_NAME, SKIPPED_NAME}
    for shard in manifest.shards if manifest else ():
        ours |= {shard.name, f"{shard.name}.index"}
    of_index = re.compile(r"\.(.+\.index)\.[a-z0-9_]{8}\.partial")  # left by a reader that was killed
    names -= {name for name in names if (match := of_index.fullmatch(name)) and match[1] in ours}
    foreign = sorted(names - ours) if manifest else sorted(names)
    if foreign:
        raise OutputError(f"{out}: contains {foreign[0]!r}, which is not one of our shards; choose an empty directory")


def check_key(key: str) -> None:
    """Check that a key can be the name of a member of a tar file.

    Raises:
        DataError: the key is empty or too long, has a dot in its last part, unprintable characters, or empty, `.` or
            `..` parts.
    """
    parts = key.split("/")
    is_clean = all(part not in ("", ".", "..") for part in parts) and key.isprintable()
    if not is_clean or "." in parts[-1] or len(key) > 1000:
        raise DataError(f"{key[:80]!r}: not a usable key; expected printable characters, '/' and no dots")


def suffix_of(image: bytes) -> str:
    """Return the suffix of the format that the first bytes of an image identify; `jpg` if they identify none."""
    for signature, suffix in _SIGNATURES.items():
        if image.startswith(signature):
            return suffix
    return "webp" if image[:4] == b"RIFF" and image[8:12] == b"WEBP" else "jpg"


def _to_json(sample: Sample) -> bytes:
    if not sample.captions and not sample.names:
        raise DataError(f"{sample.key}: neither captions nor names; add one of them")
    values: dict[str, Any] = {}
    if sample.captions:
        values["captions"] = [encodable(caption) for caption in sample.captions]
    if sample.names:  # of directories, whose names need not be UTF-8
        names = [encodable(name) for name in sample.names]
        values |= {"label": names[0], "names": names}
    if sample.columns:
        values["columns"] = dict(sample.columns)
    return msgspec.json.encode(values)
