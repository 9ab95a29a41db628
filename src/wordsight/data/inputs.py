"""Input paths: what kind of data each one is, and the stream of images in all of them.

`detect_input` is the only detector, shared by `shards` (`records.py`), `classify` and `embed` (`iter_images`), so that
the commands agree on every path. `train` opens shards directly (`open_shards`).
"""

import stat
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, TypeAlias

from wordsight.data.sample import BrokenSampleError
from wordsight.data.shard_reader import ShardSet, is_shards, open_shards
from wordsight.data.tables import Columns, Row, Table, guess_image_column, is_table
from wordsight.data.video import FRAME_MARK, is_video, read_frames
from wordsight.data.walk import (
    contains_image_files,
    count_image_files,
    find_image_files,
    is_directory,
)
from wordsight.errors import DataError, ImageError, encodable
from wordsight.files import sha256_file
from wordsight.image import ImageRef, read_image
from wordsight.progress import phase

__all__ = ["InputKind", "count_image_files", "count_images", "detect_input", "find_image_files", "iter_images"]

InputKind: TypeAlias = Literal["file", "directory", "table", "tables", "shards", "tar", "video"]
"""The kind of data at a path: `tables` are a directory of Parquet files; `shards` are a directory of tar files, a range
of them or a web address; `tar` is one tar file; `file` is anything else, including a path that does not exist."""


def detect_input(path: str | Path) -> InputKind:
    """Detect what kind of data a path is.

    Directories and shards are recognised by their content, everything else by its suffix:

    - `shards`: a web address, a range such as `{000000..000004}.tar`, a directory with a `manifest.json` of
      `wordsight shards`, or a directory with `*.tar` files and without images in it or below;
    - `tables`: a directory with `*.parquet` files and without images in it or below, such as a Hugging Face dataset;
    - `directory`: any other directory;
    - `table`: an existing `.csv`, `.tsv`, `.parquet` or `.jsonl` file, `captions.txt` or `*.token.txt`;
    - `tar`: a single `.tar` file. `wordsight shards` reads it as an archive of a directory, so that it can have any of
      the layouts of a directory; `iter_images` yields its images and needs no captions;
    - `video`: a file with the suffix of a video;
    - `file`: anything else.
    """
    if is_shards(path):
        return "shards"
    path = Path(path)
    if is_directory(path):
        return "directory" if contains_image_files(path) or not find_tables(path) else "tables"
    if is_table(path):
        return "table"
    if path.suffix.lower() == ".tar":
        return "tar"
    return "video" if is_video(path) else "file"


def find_tables(directory: Path) -> list[Path]:
    """Return the Parquet files in a directory and below, sorted; hidden ones are left out."""
    paths = (path for path in directory.rglob("*.parquet") if path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(directory).parts))


def iter_images(paths: Sequence[str | Path], frames_per_s: float = 1.0) -> Iterator[ImageRef]:
    """Stream the images of several inputs, in order.

    Args:
        paths: inputs of any kind that `detect_input` distinguishes. A table needs a column of images: bytes, or paths
            relative to the table. Files are yielded without being opened.
        frames_per_s: how many frames of a video to use per second.

    Raises:
        DataError: a directory contains no images, a table has no such column, or shards cannot be opened.
    """
    for path in paths:
        kind = detect_input(path)
        if kind in ("shards", "tar"):
            yield from _shard_images(path)
        elif kind == "table":
            yield from _table_images(Path(path))
        elif kind == "tables":
            for table in find_tables(Path(path)):
                yield from _table_images(table)
        elif kind == "video":
            yield from _video_images(Path(path), frames_per_s)
        else:
            yield from map(file_image, find_image_files([path]))


@phase("counting images")
def count_images(paths: Sequence[str | Path]) -> int | None:
    """Count the images that `iter_images` yields; None if a table or a video would have to be read for that.

    Raises:
        DataError: a directory contains no images, or shards cannot be opened.
    """
    total = 0
    for path in paths:
        kind = detect_input(path)
        if kind in ("table", "tables", "video"):
            return None
        if kind in ("shards", "tar"):
            shards = _cached_shards(path)
            total += len(shards) + len(shards.skipped)
        else:
            total += count_image_files([path])
    return total


def file_image(path: Path) -> ImageRef:
    """Return a reference to an image file."""
    return ImageRef(encodable(path), partial(read_image, path, encodable(path)))


@lru_cache(maxsize=8)
def _cached_shards(path: str | Path) -> ShardSet:
    return open_shards(path)


def _shard_images(path: str | Path) -> Iterator[ImageRef]:
    shards = _cached_shards(path)
    for number in range(len(shards)):
        shard, row = shards.locate(number)
        yield ImageRef(f"{encodable(shard.name)} {row}", partial(_read_shard_image, path, number))
    for name, reason in shards.skipped:
        yield ImageRef(name, partial(_raise_image_error, f"{name}: {reason}"))


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
        yield ImageRef(name, partial(_raise_image_error, str(error)))
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        yield ImageRef(name, partial(_raise_image_error, f"{name}: cannot be read: {reason}"))


def _table_images(path: Path) -> Iterator[ImageRef]:
    table = Table(path)
    column = guess_image_column(table, "; rename it, for example to image")
    yield from _row_images(path, table.rows(Columns(image=column)), column)


def _row_images(path: Path, rows: Iterable[Row], column: str) -> Iterator[ImageRef]:
    row = None
    for row in rows:
        value = row.values.get(column)
        if isinstance(value, dict):  # the image column of Hugging Face datasets
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes):
            yield ImageRef(row.name, partial(bytes, value))
        elif isinstance(value, str) and value and not row.problem:
            yield ImageRef(encodable(value), partial(read_image, path.parent / value, encodable(path.parent / value)))
        else:
            reason = f"{row.name}: {row.problem or f'no image in column {column!r}'}"
            yield ImageRef(row.name, partial(_raise_image_error, reason))
    if row is None:
        raise DataError(f"{path}: no rows")


def _raise_image_error(reason: str) -> bytes:
    raise ImageError(reason)
