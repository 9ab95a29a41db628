"""What can be embedded, as names with bytes behind them: pictures in folders, tables of paths, shards, videos."""

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordsight.data import BrokenSampleError, ShardSet, open_shards
from wordsight.data.manifest import MANIFEST_NAME
from wordsight.data.sample import PICTURE_SUFFIXES
from wordsight.data.tables import IMAGE_NAMES, TABLE_SUFFIXES, Columns, Row, Table, guess_column
from wordsight.data.video import FRAME_MARK, VIDEO_SUFFIXES, frames_of
from wordsight.errors import DataError, PictureError
from wordsight.files import sha256_file
from wordsight.image import read_picture

_NAMES_AT_ONCE = 1 << 17


class Item(NamedTuple):
    """A picture that could be read.

    Attributes:
        name: its path, the value of a table's cell, or shard and key; of a frame `film.mp4#t=12.500`, the path of the
            video and seconds (W3C Media Fragments, section 4.2.1).
        read: gives the bytes of its file or its pixels, or raises PictureError with a reason; but for a frame it can be
            pickled.
        sha256: of a frame that of the video's file; else empty, as it is that of the bytes.
    """

    name: str
    read: Callable[[], bytes | NDArray[np.uint8]]
    sha256: str = ""


def find_items(places: Sequence[str | Path], frames_per_s: float = 1.0) -> Iterator[Item]:
    """The pictures at some places, in order; the names stream.

    Args:
        places: folders of pictures, folders of shards or one `.tar`, tables (CSV, TSV, Parquet, JSONL) with a column of
            paths that are relative to the table or of bytes, videos, and files just as given.
        frames_per_s: of a video.

    Raises:
        DataError: a folder without pictures, or a table without such a column.
    """
    for place in map(Path, places):
        if _is_shards(place):
            yield from _of_shards(place)
        elif _is_table(place):
            yield from _of_table(place)
        elif _is_video(place):
            yield from _of_video(place, frames_per_s)
        else:
            yield from map(item_of, find_pictures([place]))


def count_items(places: Sequence[str | Path]) -> int | None:
    """How many pictures `find_items` gives; None where a table, which may hold pictures, or a video would be read."""
    total = 0
    for place in map(Path, places):
        if _is_table(place) or _is_video(place):
            return None
        total += len(open_shards(place)) if _is_shards(place) else count_pictures([place])
    return total


def _is_shards(place: Path) -> bool:
    return place.suffix == ".tar" or (place / MANIFEST_NAME).is_file()


def _is_table(place: Path) -> bool:
    return place.is_file() and place.suffix.lower() in TABLE_SUFFIXES


def _is_video(place: Path) -> bool:
    return place.suffix.lower() in VIDEO_SUFFIXES and not place.is_dir()


def item_of(path: Path) -> Item:
    """A file."""
    return Item(text_of(path), partial(read_picture, path))


def text_of(path: str | Path) -> str:
    """A path as text that any file can hold; what is not UTF-8 in it is written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


@lru_cache(maxsize=8)
def _opened(place: Path) -> ShardSet:
    return open_shards(place)


def _of_shards(place: Path) -> Iterator[Item]:
    shards = _opened(place)
    for number in range(len(shards)):
        shard, row = shards.place(number)
        yield Item(f"{text_of(shard.name)} {row}", partial(_read_sample, place, number))


def _read_sample(place: Path, number: int) -> bytes:
    try:
        return _opened(place).sample(number).picture
    except BrokenSampleError as error:
        raise PictureError(str(error)) from error


def _of_video(place: Path, frames_per_s: float) -> Iterator[Item]:
    name = text_of(place)
    try:
        sha256 = sha256_file(place)
        for seconds, read in frames_of(place, frames_per_s):
            yield Item(f"{name}{FRAME_MARK}{seconds:.3f}", read, sha256)
    except PictureError as error:
        yield Item(name, partial(_refuse, str(error)))
    except OSError as error:
        yield Item(name, partial(_refuse, f"{place}: cannot be read: {error.strerror or error}"))


def _of_table(place: Path) -> Iterator[Item]:
    table = Table(place)
    column = guess_column(table.columns, IMAGE_NAMES)
    if column is None:
        there = ", ".join(table.columns) or "none"
        raise DataError(f"{place}: no column of pictures ({', '.join(IMAGE_NAMES[:6])} ...); the columns are: {there}")
    yield from _of_rows(place, table.rows(Columns(image=column)), column)


def _of_rows(place: Path, rows: Iterable[Row], column: str) -> Iterator[Item]:
    for row in rows:
        value = row.values.get(column)
        if isinstance(value, dict):  # as Hugging Face's data sets have pictures
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            yield Item(row.place, partial(bytes, value))
        elif isinstance(value, str) and value and not row.problem:
            yield Item(text_of(value), partial(read_picture, place.parent / value))
        else:
            yield Item(row.place, partial(_refuse, f"{row.place}: {row.problem or f'no picture in column {column!r}'}"))


def _refuse(reason: str) -> bytes:
    raise PictureError(reason)


def find_pictures(places: Sequence[str | Path]) -> Iterator[Path]:
    """The pictures in folders and below, by suffix and in the order of their names, and files just as given.

    Hidden files and folders, and links to folders, are passed over; a folder that cannot be listed is given in place of
    its pictures. A million names in one folder stream: it is read several times, some names at a time.

    Raises:
        DataError: a folder without pictures.
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


def count_pictures(places: Sequence[str | Path]) -> int:
    """How many `find_pictures` gives, without their order and so in one reading; errors as there."""
    total = 0
    for place in map(Path, places):
        count = sum(1 for _ in _walk(place, _names)) if place.is_dir() else 1
        if not count:
            raise _nothing_in(place)
        total += count
    return total


def _nothing_in(folder: Path) -> DataError:
    kinds = ", ".join(sorted(PICTURE_SUFFIXES))
    return DataError(f"{folder}: no pictures in this folder or below ({kinds}); choose another")


def _walk(folder: Path, names_of: Callable[[Path], Iterator[str]]) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        try:
            for name in names_of(folder):
                yield folder / name
            with os.scandir(folder) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            waiting += [folder / name for name in sorted(below, reverse=True) if not name.startswith(".")]
        except OSError:
            yield folder  # whoever reads it is told why it cannot be


def _in_order(folder: Path) -> Iterator[str]:
    """The pictures' names sorted, while no more than some are held."""
    after = ""
    while group := heapq.nsmallest(_NAMES_AT_ONCE, _names(folder, after)):
        yield from group
        if len(group) < _NAMES_AT_ONCE:
            return
        after = group[-1]


def _names(folder: Path, after: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            begin, _, suffix = entry.name.rpartition(".")
            is_picture = begin and begin[0] != "." and suffix.lower() in PICTURE_SUFFIXES
            if is_picture and entry.name > after and not _is_folder(entry):
                yield entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False
