"""From records to shards: images are looked at once, keys made unique, and what does not pack is listed."""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from PIL import Image

from wordsight.data.file_listing import read_file
from wordsight.data.manifest import Manifest
from wordsight.data.records import Record, Source
from wordsight.data.sample import MAX_IMAGE_BYTES, BrokenSample, Sample, read_json
from wordsight.data.shard_writer import MAX_BYTES, MAX_SAMPLES, writing_shards
from wordsight.errors import DataError, ImageError
from wordsight.image import decode
from wordsight.parallel import ordered_map

_JPEG_QUALITY = 90
_SHOWN_SKIPPED = 5


class PackOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is packed, and how.

    Attributes:
        size_px: images whose shorter side is longer are made so small and stored as JPEG; None keeps all as they are.
        max_samples, max_bytes: bounds of a shard.
        exclude: keys or file names that are left out.
        only: keys or file names beside which all others are left out; None for no such bound.
    """

    size_px: int | None = None
    max_samples: int = MAX_SAMPLES
    max_bytes: int = MAX_BYTES
    exclude: frozenset[str] = frozenset()
    only: frozenset[str] | None = None


class PackSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What was packed.

    Attributes:
        form: of the source, as it was recognised.
        samples, shards, bytes: what is in the directory now.
        skipped: how many could not be packed; all are in `skipped.jsonl`.
        first_skipped: the first few of them.
        left_out: how many `exclude` and `only` left out.
        not_found: how many names of `exclude` and `only` are not in the source.
    """

    form: str
    samples: int
    shards: int
    bytes: int
    skipped: int
    first_skipped: tuple[BrokenSample, ...]
    left_out: int
    not_found: int


def read_keys(path: Path) -> frozenset[str]:
    """A list of keys: a JSON list, or a text file with a key a line.

    Raises:
        DataError: missing, not UTF-8, empty, or JSON that is not a list of texts.
    """
    try:
        content = read_file(path, MAX_IMAGE_BYTES)
        if content.lstrip().startswith(b"["):
            keys = read_json(content)
        else:
            keys = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except (DataError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}; expected a key a line, or a JSON list") from error
    if not all(isinstance(key, str) for key in keys):
        raise DataError(f"{path}: not only texts in the list; expected keys")
    found = frozenset(key for key in keys if key)
    if not found:
        raise DataError(f"{path}: no keys in it")
    return found


def pack(
    source: Source, out: Path, options: PackOptions | None = None, progress: Callable[[int], None] | None = None
) -> PackSummary:
    """Write a source's records as shards; the directory appears, complete, at the end.

    Args:
        source: from `open_source`; its records are used up.
        out: absent, empty, or a directory of our own shards, which is replaced.
        options: bounds and choices.
        progress: called with the number of records gone through.

    Raises:
        DataError: nothing could be packed, or the source is damaged.
        OutputError: `out` holds something else, or cannot be written.
    """
    options = options or PackOptions()
    if options.size_px is not None and options.size_px < 1:
        raise DataError(f"size {options.size_px} px: expected at least 1")
    choice = _Choice(options)
    skipped: list[BrokenSample] = []
    with writing_shards(out, options.max_samples, options.max_bytes) as writer:
        prepared = ordered_map(lambda task: _prepare(*task, options.size_px), choice.keyed(source.records))
        for number, result in enumerate(prepared, start=1):
            if isinstance(result, Sample):
                writer.add(result)
            else:
                writer.skip(result)
                skipped = [*skipped, result][:_SHOWN_SKIPPED]
            if progress is not None:
                progress(number + choice.left_out)
        manifest = writer.finish()
    return _summary(source.form, manifest, skipped, choice)


def _summary(form: str, manifest: Manifest, skipped: list[BrokenSample], choice: "_Choice") -> PackSummary:
    return PackSummary(
        form=form,
        samples=manifest.samples,
        shards=len(manifest.shards),
        bytes=sum(shard.bytes for shard in manifest.shards),
        skipped=manifest.skipped,
        first_skipped=tuple(skipped),
        left_out=choice.left_out,
        not_found=len(choice.unseen),
    )


class _Choice:
    """Gives keys to records and leaves out those that the user does not want."""

    def __init__(self, options: PackOptions) -> None:
        self._options = options
        self.unseen = set(options.exclude) | set(options.only or ())
        self.left_out = 0
        self._used: Counter[str] = Counter()

    def keyed(self, records: Iterable[Record]) -> Iterator[tuple[str, Record]]:
        """The records that are wanted, each with a key that no other has."""
        only, exclude = self._options.only, self._options.exclude
        for record in records:
            plain = key_of(record.file)
            names = {record.file, record.file.rpartition(".")[0], plain}
            self.unseen -= names
            if names & exclude or (only is not None and not names & only):
                self.left_out += 1
                continue
            yield self._unique(plain), record

    def _unique(self, plain: str) -> str:
        key = plain
        while self._used[key]:
            key = f"{plain}_{self._used[plain] + 1}"
            self._used[plain] += 1
        self._used[key] += 1
        return key


def key_of(file: str) -> str:
    """The key of a file: its path without suffix, with the dots of its last part as `_`.

    Of a path that leads elsewhere (absolute, or through `..`) only the last part is used.
    """
    parts = [part for part in file.split("/") if part not in ("", ".")]
    if file.startswith("/") or ".." in parts:
        parts = [part for part in parts[-1:] if part != ".."]
    stem = parts[-1].rpartition(".")[0] or parts[-1] if parts else ""
    text = "/".join([*parts[:-1], stem.replace(".", "_")])[-1000:].lstrip("/")
    return "".join(letter if letter.isprintable() else "_" for letter in text) or "_"


def _prepare(key: str, record: Record, size_px: int | None) -> Sample | BrokenSample:
    """Read and look at one image."""
    try:
        if record.problem:
            raise DataError(record.problem)
        image = record.read()
        if not image:
            raise DataError("the image is empty: 0 bytes")
        pixels = decode(image, "viewer", name=record.file)
        if size_px is not None and min(pixels.shape[:2]) > size_px:
            image = _shrink(Image.fromarray(pixels), size_px)
    except (DataError, ImageError) as error:
        return BrokenSample(key, record.file, str(error).removeprefix(f"{record.file}: "))
    return Sample(key=key, image=image, captions=record.texts.captions, names=record.texts.names)


def _shrink(image: Image.Image, size_px: int) -> bytes:
    """A JPEG whose shorter side has `size_px` pixels."""
    scale = size_px / min(image.size)
    size = (max(size_px, round(image.width * scale)), max(size_px, round(image.height * scale)))
    file = io.BytesIO()
    image.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
