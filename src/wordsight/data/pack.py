"""Packing of records into shards: every image is decoded once, keys are unique, and broken images are listed."""

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from PIL import Image

from wordsight.data.file_listing import read_file
from wordsight.data.manifest import Manifest
from wordsight.data.records import Record, Source
from wordsight.data.sample import MAX_IMAGE_BYTES, BrokenSample, Sample, parse_json
from wordsight.data.shard_writer import MAX_BYTES, MAX_SAMPLES, ShardWriter, writing_parts, writing_shards
from wordsight.data.split import Split, Splitter, check_parts
from wordsight.errors import DataError, ImageError, encodable
from wordsight.image import decode, is_image_file
from wordsight.parallel import ordered_map

_JPEG_QUALITY = 90
_NUM_SHOWN_SKIPPED = 5


class PackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options of packing.

    Attributes:
        size_px: images whose shorter side is longer are reduced to this length and stored as JPEG; None keeps the
            original files.
        max_samples, max_bytes: limits of a shard.
        exclude: keys or file names to leave out.
        only: keys or file names to pack, and no others; None packs all.
        split: the parts into which the images are divided, each in a directory of its own; None writes one set.
    """

    size_px: int | None = None
    max_samples: int = MAX_SAMPLES
    max_bytes: int = MAX_BYTES
    exclude: frozenset[str] = frozenset()
    only: frozenset[str] | None = None
    split: Split | None = None


class PartSummary(msgspec.Struct, frozen=True):
    """One part of a set of shards that was split: its name, and totals as in `PackSummary`."""

    name: str
    samples: int
    shards: int
    bytes: int


class PackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of packing.

    Attributes:
        layout: the detected layout of the source.
        samples, shards, bytes: totals of the written directory.
        both: number of samples with captions and a label.
        skipped: number of images that could not be packed; all are listed in `skipped.jsonl`.
        first_skipped: the first five of these.
        left_out: number of records left out because of `exclude` and `only`.
        not_found: number of names in `exclude` and `only` that are not in the source.
        parts: the parts of a split, in order.
        notes: labels of which a split has a single image, or none in the first part.
    """

    layout: str
    samples: int
    shards: int
    bytes: int
    skipped: int
    first_skipped: tuple[BrokenSample, ...]
    left_out: int
    not_found: int
    both: int = 0
    parts: tuple[PartSummary, ...] = ()
    notes: tuple[str, ...] = ()


def read_keys(path: Path) -> frozenset[str]:
    """Read a list of keys: a JSON list, or a text file with one key per line.

    Raises:
        DataError: the file is missing, not UTF-8 or empty, or is a JSON list with values that are not strings.
    """
    try:
        content = read_file(path, MAX_IMAGE_BYTES)
        if content.lstrip().startswith(b"["):
            keys = parse_json(content)
        else:
            keys = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; expected one key per line, or a JSON list") from error
    if not all(isinstance(key, str) for key in keys):
        raise DataError(f"{path}: a value in the list is not a string; expected a list of keys")
    non_empty = frozenset(key for key in keys if key)
    if not non_empty:
        raise DataError(f"{path}: contains no keys; expected one key per line, or a JSON list")
    return non_empty


def pack(
    source: Source, out: Path, options: PackOptions | None = None, progress: Callable[[int], None] | None = None
) -> PackSummary:
    """Write the records of a source as shards; the directory appears, complete, at the end.

    Args:
        source: from `open_source`; its records are consumed.
        out: a directory that does not exist, is empty, or contains shards written by this function, which are replaced.
        options: limits, selection and split; by default all records, default limits and one set.
        progress: called with the number of records processed so far.

    Raises:
        DataError: nothing could be packed, a part would be empty, or the source is damaged.
        OutputError: `out` contains anything else, or cannot be written.
    """
    options = options or PackOptions()
    if options.size_px is not None and options.size_px < 1:
        raise DataError(f"size {options.size_px} px: expected at least 1")
    source.check()
    packing = _Packing(options)
    limits = options.max_samples, options.max_bytes
    if options.split is None:
        with writing_shards(out, *limits) as writer:
            packing.write(source, {"": writer}, progress)
            manifests = {"": writer.finish()}
    else:
        with writing_parts(out, options.split.parts, *limits) as writers:
            packing.write(source, writers, progress)
            check_parts({name: writer.num_samples for name, writer in writers.items()}, options.split)
            manifests = {name: writer.finish() for name, writer in writers.items()}
    return packing.summary(source.layout, manifests)


class _Packing:
    """What happens to the records of a source.

    Args:
        options: selection and split.
    """

    def __init__(self, options: PackOptions) -> None:
        self._size_px = options.size_px
        self._selection = _Selection(options)
        self._splitter = Splitter(options.split) if options.split else None
        self._skipped: list[BrokenSample] = []
        self._num_both = 0

    def write(
        self, source: Source, writers: dict[str, ShardWriter], progress: Callable[[int], None] | None = None
    ) -> None:
        """Write each sample to its part, and list images that cannot be packed in the first one."""
        first = next(iter(writers.values()))
        prepared = ordered_map(lambda task: _prepare(*task, self._size_px), self._selection.keyed(source.records))
        for number, result in enumerate(prepared, start=1):
            if isinstance(result, _Prepared):
                sample = result.sample
                label = sample.names[0] if sample.names else ""
                writers[self._splitter.part_of(result.digest, label) if self._splitter else ""].add(sample)
                self._num_both += bool(sample.captions and sample.names)
            else:
                first.skip(result)
                self._skipped = [*self._skipped, result][:_NUM_SHOWN_SKIPPED]
            if progress is not None:
                progress(number + self._selection.left_out)

    def summary(self, layout: str, manifests: dict[str, Manifest]) -> PackSummary:
        """Return the result."""
        parts = [
            PartSummary(name, manifest.samples, len(manifest.shards), sum(shard.bytes for shard in manifest.shards))
            for name, manifest in manifests.items()
        ]
        return PackSummary(
            layout=layout,
            samples=sum(part.samples for part in parts),
            shards=sum(part.shards for part in parts),
            bytes=sum(part.bytes for part in parts),
            skipped=sum(manifest.skipped for manifest in manifests.values()),
            first_skipped=tuple(self._skipped),
            left_out=self._selection.left_out,
            not_found=len(self._selection.unseen),
            both=self._num_both,
            parts=tuple(parts) if self._splitter else (),
            notes=tuple(self._splitter.notes()) if self._splitter else (),
        )


class _Selection:
    """Selects the records to pack and assigns their keys.

    Attributes:
        unseen: names in `exclude` and `only` that no record has had so far.
        left_out: number of records left out so far.
    """

    def __init__(self, options: PackOptions) -> None:
        self._options = options
        self.unseen = set(options.exclude) | set(options.only or ())
        self.left_out = 0
        self._used: Counter[str] = Counter()

    def keyed(self, records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
        """Yield the selected records, each with a unique key."""
        only, exclude = self._options.only, self._options.exclude
        for record in records:
            base = key_of(record.file)
            names = {record.file, record.file.rpartition(".")[0], base}
            self.unseen -= names
            if names & exclude or (only is not None and not names & only):
                self.left_out += 1
                continue
            yield self._unique(base), record

    def _unique(self, base: str) -> str:
        key = base
        while self._used[key]:
            key = f"{base}_{self._used[base] + 1}"
            self._used[base] += 1
        self._used[key] += 1
        return key


def key_of(file: str) -> str:
    """Derive a sample's key from a file's path: without the suffix of an image, and with `_` for dots in the file name.

    Only the file name is used if the path is absolute or contains `..`.
    """
    parts = [part for part in file.split("/") if part not in ("", ".")]
    if file.startswith("/") or ".." in parts:
        parts = [part for part in parts[-1:] if part != ".."]
    stem = parts[-1] if parts else ""
    stem = stem.rpartition(".")[0] if is_image_file(stem) else stem
    text = "/".join([*parts[:-1], stem.replace(".", "_")])[-1000:].lstrip("/")
    return "".join(letter if letter.isprintable() else "_" for letter in text) or "_"


class _Prepared(NamedTuple):
    """A sample that can be packed, and the SHA-256 of the image file in the source."""

    sample: Sample
    digest: bytes


def _prepare(key: str, record: Record, size_px: int | None) -> _Prepared | BrokenSample:
    """Read and decode the image of one record; it is broken if either fails."""
    try:
        if record.problem:
            raise DataError(record.problem)
        image = record.read()
        if not image:
            raise DataError("the image is empty: 0 bytes")
        digest = hashlib.sha256(image).digest()
        pixels = decode(image, "viewer", name=encodable(record.file))
        if size_px is not None and min(pixels.shape[:2]) > size_px:
            image = _shrink(Image.fromarray(pixels), size_px)
    except (DataError, ImageError) as error:
        file = encodable(record.file)
        return BrokenSample(key, file, encodable(str(error)).removeprefix(f"{file}: "))
    texts = record.texts
    sample = Sample(key=key, image=image, captions=texts.captions, names=texts.names, columns=texts.columns)
    return _Prepared(sample, digest)


def _shrink(image: Image.Image, size_px: int) -> bytes:
    """Encode an image as a JPEG whose shorter side has `size_px` pixels."""
    scale = size_px / min(image.size)
    size = (max(size_px, round(image.width * scale)), max(size_px, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
