"""What can be embedded, as names with bytes behind them: pictures in folders, tables of paths, shards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from wordsight.data import BrokenSampleError, open_shards
from wordsight.data.manifest import MANIFEST_NAME
from wordsight.data.tables import IMAGE_NAMES, TABLE_SUFFIXES, Columns, Row, Table, guess_column
from wordsight.errors import DataError, PictureError
from wordsight.image import read_picture
from wordsight.infer.pictures import count_pictures, find_pictures


class Item(NamedTuple):
    """A picture that could be read.

    Attributes:
        name: its path, the value of a table's cell, or shard and key.
        read: gives its bytes, or raises PictureError with a reason.
    """

    name: str
    read: Callable[[], bytes]


def find_items(places: Sequence[str | Path]) -> Iterator[Item]:
    """The pictures at some places, in order; the names stream.

    Args:
        places: folders of pictures, folders of shards or one `.tar`, tables (CSV, TSV, Parquet, JSONL) with a column of
            paths that are relative to the table or of bytes, and files just as given.

    Raises:
        DataError: a folder without pictures, or a table without such a column.
    """
    for place in map(Path, places):
        if _is_shards(place):
            yield from _of_shards(place)
        elif _is_table(place):
            yield from _of_table(place)
        else:
            yield from map(item_of, find_pictures([place]))


def count_items(places: Sequence[str | Path]) -> int | None:
    """How many pictures `find_items` gives; None where a table, which may hold pictures itself, would be read."""
    total = 0
    for place in map(Path, places):
        if _is_table(place):
            return None
        total += len(open_shards(place)) if _is_shards(place) else count_pictures([place])
    return total


def _is_shards(place: Path) -> bool:
    return place.suffix == ".tar" or (place / MANIFEST_NAME).is_file()


def _is_table(place: Path) -> bool:
    return place.is_file() and place.suffix.lower() in TABLE_SUFFIXES


def item_of(path: Path) -> Item:
    """A file."""
    return Item(text_of(path), partial(read_picture, path))


def text_of(path: str | Path) -> str:
    """A path as text that any file can hold; what is not UTF-8 in it is written as escapes."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _of_shards(place: Path) -> Iterator[Item]:
    shards = open_shards(place)
    for number in range(len(shards)):
        shard, row = shards.place(number)

        def read(number: int = number) -> bytes:
            try:
                return shards.sample(number).picture
            except BrokenSampleError as error:
                raise PictureError(str(error)) from error

        yield Item(f"{text_of(shard.name)} {row}", read)


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
