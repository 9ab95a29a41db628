"""The stream of images in inputs of every kind: directories, tables, shards, videos and single files.

`iter_images` yields the images of an input as they are found, for `classify` and `embed`. `iter_labelled` yields the
records that `shards` packs, with the captions and labels of any layout, for `evaluate`.
"""

import stat
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import msgspec

from wordsight.data.carried import carried_values
from wordsight.data.class_names import LabelNames, read_label_names
from wordsight.data.columns import InputOptions, choose_columns, other_columns, refuse_table_options
from wordsight.data.detect import InputKind, detect_input, find_tables
from wordsight.data.entries import Record, bytes_of, path_of, texts_of_row
from wordsight.data.locate import ImageRoots
from wordsight.data.records import open_source
from wordsight.data.sample import BrokenSampleError, Texts
from wordsight.data.shard_reader import ShardSet, open_shards
from wordsight.data.tables import Columns, Row, Table
from wordsight.data.video import FRAME_MARK, read_frames
from wordsight.data.walk import count_image_files, find_image_files, size_of_regular
from wordsight.errors import DataError, ImageError, encodable
from wordsight.files import sha256_file
from wordsight.image import ImageRef, read_image
from wordsight.progress import phase

__all__ = [
    "InputKind",
    "InputOptions",
    "count_image_files",
    "count_images",
    "detect_input",
    "file_of",
    "find_image_files",
    "iter_images",
    "iter_labelled",
]

MAX_COUNTED_BYTES = 1 << 24
"""Rows of a larger CSV, TSV or JSON Lines table are not counted in advance, which takes about a second per 5 MB."""


def iter_images(
    paths: Sequence[str | Path], frames_per_s: float = 1.0, options: InputOptions | None = None
) -> Iterator[ImageRef]:
    """Stream the images of several inputs, in order.

    The images of tables and shards have their captions and labels, if there are any, and the other columns.

    Args:
        paths: inputs of any kind that `detect_input` distinguishes. A table needs a column of images: bytes, or paths
            relative to the table or to the working directory. Files are yielded without being opened.
        frames_per_s: how many frames of a video to use per second.
        options: columns of tables, directory of their images, and names of labels.

    Raises:
        DataError: a directory contains no images, a table has no such column or none of its images exist, shards cannot
            be opened, or the options name columns although no input is a table.
    """
    options = options or InputOptions()
    labels = read_label_names(options.names) if options.names else None
    _check_options(paths, options)
    for path in paths:
        kind = detect_input(path)
        if kind in ("shards", "tar"):
            yield from _shard_images(path, labels)
        elif kind == "table":
            yield from _table_images(Path(path), options, labels)
        elif kind == "tables":
            for table in find_tables(Path(path)):
                yield from _table_images(table, options, labels)
        elif kind == "video":
            yield from _video_images(Path(path), frames_per_s)
        else:
            yield from map(file_image, find_image_files([path]))


@phase("counting images")
def count_images(paths: Sequence[str | Path], options: InputOptions | None = None) -> int | None:
    """Count the images that `iter_images` yields; None if a large text table or a video would have to be read for that.

    Raises:
        DataError: as for `iter_images`, before any image is read.
    """
    options = options or InputOptions()
    labels = read_label_names(options.names) if options.names else None
    _check_options(paths, options)
    counts: list[int | None] = []
    for path in paths:
        kind = detect_input(path)
        if kind in ("table", "tables"):
            tables = find_tables(Path(path)) if kind == "tables" else [Path(path)]
            counts += [_count_rows(Table(table, names=options.columns), options, labels) for table in tables]
        elif kind == "video":
            counts.append(None)
        elif kind in ("shards", "tar"):
            shards = _cached_shards(path)
            counts.append(len(shards) + len(shards.skipped))
        else:
            counts.append(count_image_files([path]))
    return None if None in counts else sum(filter(None, counts))


def iter_labelled(path: str | Path, options: InputOptions | None = None) -> Iterator[ImageRef]:
    """Stream the records of one input, as `wordsight shards` reads it: each image once, with its captions and label.

    Args:
        path: a directory in any layout that has texts, a tar file of one, a table or shards; see `open_source`.
        options: as for `iter_images`.

    Yields:
        Images with captions, the names of a label, or both; one that has neither fails to be read, with the reason.

    Raises:
        DataError: the input has no texts, or cannot be opened.
    """
    source = open_source(Path(path), options)
    source.check()
    return map(_labelled_image, source.records)


def file_image(path: Path) -> ImageRef:
    """Return a reference to an image file."""
    return ImageRef(encodable(path), partial(read_image, path, encodable(path)))


def file_of(image: ImageRef) -> Path | None:
    """Return the file that an image is read from; None for one that is in a table, shards or a video."""
    if not isinstance(image.read, partial):
        return None
    if image.read.func is _read_row_image:
        roots, file = image.read.args
        path: Path = roots.find(file)
        return path
    return Path(image.read.args[0]) if image.read.func is read_image else None


def _check_options(paths: Sequence[str | Path], options: InputOptions) -> None:
    if paths and not any(detect_input(path) in ("table", "tables") for path in paths):
        refuse_table_options(paths[0], options)


def _labelled_image(record: Record) -> ImageRef:
    texts = record.texts
    read = partial(_read_record, record)
    return ImageRef(record.name, read, captions=texts.captions, names=texts.names, columns=texts.columns)


def _read_record(record: Record) -> bytes:
    try:
        if record.problem:
            raise DataError(record.problem)
        return record.read()
    except DataError as error:
        raise ImageError(f"{record.name}: {encodable(error).removeprefix(f'{record.name}: ')}") from error


# --- shards and videos ---


@lru_cache(maxsize=8)
def _cached_shards(path: str | Path) -> ShardSet:
    return open_shards(path)


def _shard_images(path: str | Path, labels: LabelNames | None) -> Iterator[ImageRef]:
    shards = _cached_shards(path)
    for number in range(len(shards)):
        shard, row = shards.locate(number)
        try:
            texts = shard.read_texts(row, labels)
        except BrokenSampleError:  # an image needs no text
            texts = Texts()
        yield ImageRef(
            shards.name_of(number),
            partial(_read_shard_image, path, number),
            captions=texts.captions,
            names=texts.names,
            columns=texts.columns,
        )
    for name, reason in shards.skipped:
        yield _unreadable(name, f"{name}: {reason}")


def _read_shard_image(path: str | Path, number: int) -> bytes:
    try:
        return _cached_shards(path).image(number)
    except BrokenSampleError as error:
        raise ImageError(str(error)) from error


def _video_images(path: Path, frames_per_s: float) -> Iterator[ImageRef]:
    name = encodable(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ImageError(f"{path}: not a regular file; save the video first")
        sha256 = sha256_file(path)
        for time_s, read in read_frames(path, frames_per_s):
            yield ImageRef(f"{name}{FRAME_MARK}{time_s:.3f}", read, sha256)
    except ImageError as error:
        yield _unreadable(name, str(error))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        yield _unreadable(name, f"{name}: cannot be read: {reason}")


def _unreadable(name: str, reason: str) -> ImageRef:
    return ImageRef(name, partial(_raise_image_error, reason))


def _raise_image_error(reason: str) -> bytes:
    raise ImageError(reason)


# --- tables ---


class _TableRows(NamedTuple):
    """The rows of a table, and how they are read."""

    rows: Iterator[Row]
    columns: Columns
    roots: ImageRoots
    labels: LabelNames


def _open_rows(table: Table, options: InputOptions, labels: LabelNames | None) -> _TableRows:
    """Check a table's columns, its first label and that there are images; only the rows needed for that are read."""
    columns = choose_columns(table, options, needs_texts=False)
    columns = msgspec.structs.replace(columns, others=other_columns(table, [columns.image]))
    classes = table.class_names(columns.label) if columns.label else ()
    labels = labels or LabelNames(origin=table.path.name, classes=classes)
    roots = ImageRoots(table.path, options.image_root)
    rows = table.rows(columns)
    first: list[Row] = []
    roots.check(_beginning(rows, columns.image, first), columns.image)
    if not first:
        raise DataError(f"{table.path}: no rows")
    _check_label(first, columns, labels)
    return _TableRows(chain(first, rows), columns, roots, labels)


def _count_rows(table: Table, options: InputOptions, labels: LabelNames | None) -> int | None:
    """Check a table, and return the number of its rows if counting them does not take long."""
    columns = _open_rows(table, options, labels).columns
    if table.num_rows is not None:
        return table.num_rows
    is_small = size_of_regular(table.path) <= MAX_COUNTED_BYTES
    return sum(1 for _ in table.rows(Columns(image=columns.image))) if is_small else None


def _table_images(path: Path, options: InputOptions, labels: LabelNames | None) -> Iterator[ImageRef]:
    rows, columns, roots, names = _open_rows(Table(path, names=options.columns), options, labels)
    for row in rows:
        yield _row_image(row, columns, roots, names)


def _beginning(rows: Iterator[Row], column: str, seen: list[Row]) -> Iterator[str | bytes]:
    """Yield the images of rows, as paths or bytes, and collect the rows that were read for that."""
    for row in rows:
        seen.append(row)
        value = row.values.get(column)
        image = bytes_of(value) or path_of(value)
        if image and not row.problem:
            yield image


def _check_label(rows: Sequence[Row], columns: Columns, labels: LabelNames) -> None:
    """Refuse a column of labels that the user has named if its first label has no name, as numbers have none."""
    if not columns.label or columns.is_label_guessed:
        return
    for row in rows:
        if row.values.get(columns.label) not in (None, ""):
            try:
                labels.names_of(row.values[columns.label], row.values)
            except DataError as error:
                raise DataError(f"{row.name}: {error}") from error
            return


def _row_image(row: Row, columns: Columns, roots: ImageRoots, labels: LabelNames) -> ImageRef:
    value = row.values.get(columns.image)
    image, file = bytes_of(value), path_of(value)
    try:
        texts = texts_of_row(row, columns, labels, tuple((file or "").split("/")[:-1]))
    except DataError:  # an image needs no text
        texts = Texts(columns=carried_values(row.values, columns.others))
    make = partial(ImageRef, captions=texts.captions, names=texts.names, columns=texts.columns)
    if image is not None:
        return make(row.name, partial(bytes, image))
    if file is None or row.problem:
        reason = f"{row.name}: {row.problem or f'no image in column {columns.image!r}'}"
        return make(row.name, partial(_raise_image_error, reason))
    name = encodable(value.get("path") if isinstance(value, dict) else value)
    return make(name, partial(_read_row_image, roots, file))


def _read_row_image(roots: ImageRoots, file: str) -> bytes:
    if "://" in file:
        raise ImageError(f"{encodable(file)}: a web address; fetch the images first")
    path = roots.find(file)
    return read_image(path, encodable(path))
