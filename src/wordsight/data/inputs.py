"""What can be embedded, as names with bytes behind them: images in directories, tables of paths, shards, videos."""

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path

from wordsight.data import BrokenSampleError, ShardSet, open_shards
from wordsight.data.manifest import MANIFEST_NAME
from wordsight.data.tables import IMAGE_NAMES, TABLE_SUFFIXES, Columns, Row, Table, guess_column
from wordsight.data.video import FRAME_MARK, VIDEO_SUFFIXES, frames_of
from wordsight.errors import DataError, ImageError
from wordsight.files import sha256_file
from wordsight.image import IMAGE_SUFFIXES, ImageRef, is_image_file, read_image

_NAMES_AT_ONCE = 1 << 17


def iter_images(places: Sequence[str | Path], frames_per_s: float = 1.0) -> Iterator[ImageRef]:
    """The images at some places, in order; the names stream.

    Args:
        places: directories of images, directories of shards or one `.tar`, tables (CSV, TSV, Parquet, JSONL) with a column of
            paths that are relative to the table or of bytes, videos, and files just as given.
        frames_per_s: of a video.

    Raises:
        DataError: a directory without images, or a table without such a column.
    """
    for place in map(Path, places):
        if _is_shards(place):
            yield from _of_shards(place)
        elif _is_table(place):
            yield from _of_table(place)
        elif _is_video(place):
            yield from _of_video(place, frames_per_s)
        else:
            yield from map(file_image, find_image_files([place]))


def count_images(places: Sequence[str | Path]) -> int | None:
    """How many images `iter_images` gives; None where a table, which may hold images, or a video would be read."""
    total = 0
    for place in map(Path, places):
        if _is_table(place) or _is_video(place):
            return None
        total += len(open_shards(place)) if _is_shards(place) else count_image_files([place])
    return total


def _is_shards(place: Path) -> bool:
    return place.suffix == ".tar" or (place / MANIFEST_NAME).is_file()


def _is_table(place: Path) -> bool:
    return place.is_file() and place.suffix.lower() in TABLE_SUFFIXES


def _is_video(place: Path) -> bool:
    return place.suffix.lower() in VIDEO_SUFFIXES and not place.is_dir()


def file_image(path: Path) -> ImageRef:
    """A file."""
    return ImageRef(text_of(path), partial(read_image, path))


def text_of(path: str | Path) -> str:
    """A path as text that any file can hold; what is not UTF-8 in it is written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=8)
def _opened(place: Path) -> ShardSet:
    return open_shards(place)


def _of_shards(place: Path) -> Iterator[ImageRef]:
    shards = _opened(place)
    for number in range(len(shards)):
        shard, row = shards.locate(number)
        yield ImageRef(f"{text_of(shard.name)} {row}", partial(_read_sample, place, number))


def _read_sample(place: Path, number: int) -> bytes:
    try:
        return _opened(place).sample(number).image
    except BrokenSampleError as error:
        raise ImageError(str(error)) from error


def _of_video(place: Path, frames_per_s: float) -> Iterator[ImageRef]:
    name = text_of(place)
    try:
        sha256 = sha256_file(place)
        for seconds, read in frames_of(place, frames_per_s):
            yield ImageRef(f"{name}{FRAME_MARK}{seconds:.3f}", read, sha256)
    except ImageError as error:
        yield ImageRef(name, partial(_refuse, str(error)))
    except OSError as error:
        yield ImageRef(name, partial(_refuse, f"{place}: cannot be read: {error.strerror or error}"))


def _of_table(place: Path) -> Iterator[ImageRef]:
    table = Table(place)
    column = guess_column(table.columns, IMAGE_NAMES)
    if column is None:
        there = ", ".join(table.columns) or "none"
        raise DataError(f"{place}: no column of images ({', '.join(IMAGE_NAMES[:6])} ...); the columns are: {there}")
    yield from _of_rows(place, table.rows(Columns(image=column)), column)


def _of_rows(place: Path, rows: Iterable[Row], column: str) -> Iterator[ImageRef]:
    for row in rows:
        value = row.values.get(column)
        if isinstance(value, dict):  # as Hugging Face's data sets have images
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            yield ImageRef(row.place, partial(bytes, value))
        elif isinstance(value, str) and value and not row.problem:
            yield ImageRef(text_of(value), partial(read_image, place.parent / value))
        else:
            yield ImageRef(
                row.place, partial(_refuse, f"{row.place}: {row.problem or f'no image in column {column!r}'}")
            )


def _refuse(reason: str) -> bytes:
    raise ImageError(reason)


def find_image_files(places: Sequence[str | Path]) -> Iterator[Path]:
    """The images in directories and below, by suffix and in the order of their names, and files just as given.

    Hidden files and directories, and links to directories, are passed over; a directory that cannot be listed is given in place of
    its images. A million names in one directory stream: it is read several times, some names at a time.

    Raises:
        DataError: a directory without images.
    """
    for place in map(Path, places):
        if not place.is_dir():
            yield place
            continue
        found = False
        for path in _walk(place, _in_order):
            found = True
            yield path
        if not found:
            raise _nothing_in(place)


def count_image_files(places: Sequence[str | Path]) -> int:
    """How many `find_image_files` gives, without their order and so in one reading; errors as there."""
    total = 0
    for place in map(Path, places):
        count = sum(1 for _ in _walk(place, _names)) if place.is_dir() else 1
        if not count:
            raise _nothing_in(place)
        total += count
    return total


def _nothing_in(directory: Path) -> DataError:
    kinds = ", ".join(sorted(IMAGE_SUFFIXES))
    return DataError(f"{directory}: no images in this directory or below ({kinds}); choose another")


def _walk(directory: Path, names_of: Callable[[Path], Iterator[str]]) -> Iterator[Path]:
    waiting = [directory]
    while waiting:
        directory = waiting.pop()
        try:
            for name in names_of(directory):
                yield directory / name
            with os.scandir(directory) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            waiting += [directory / name for name in sorted(below, reverse=True) if not name.startswith(".")]
        except OSError:
            yield directory  # whoever reads it is told why it cannot be


def _in_order(directory: Path) -> Iterator[str]:
    """The images' names sorted, while no more than some are held."""
    after = ""
    while group := heapq.nsmallest(_NAMES_AT_ONCE, _names(directory, after)):
        yield from group
        if len(group) < _NAMES_AT_ONCE:
            return
        after = group[-1]


def _names(directory: Path, after: str = "") -> Iterator[str]:
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_image_file(entry.name) and entry.name > after and not _is_directory(entry):
                yield entry.name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
