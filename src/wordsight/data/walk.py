"""Image files in directories, sorted by name without holding millions of names in memory."""

import heapq
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from wordsight.errors import DataError
from wordsight.image import IMAGE_SUFFIXES, is_image_file

_MAX_NAMES = 1 << 17
"""The number of names held at once; a directory with more is scanned several times."""


def find_image_files(paths: Sequence[str | Path]) -> Iterator[Path]:
    """Yield the image files in and below directories, and other paths unchanged.

    Files are selected by suffix and sorted by name within each directory, before its subdirectories. Hidden files and
    directories and links to directories are skipped. A directory that cannot be listed is itself yielded, so that
    reading it fails with the reason. Names stream: at most 131,072 of them are held, whatever the size of a directory.

    Raises:
        DataError: a directory contains no images.
    """
    for path in map(Path, paths):
        if not path.is_dir():
            yield path
            continue
        is_empty = True
        for file in _walk(path, _sorted_names):
            is_empty = False
            yield file
        if is_empty:
            raise _no_images(path)


def count_image_files(paths: Sequence[str | Path]) -> int:
    """Count the files that `find_image_files` yields, in a single scan because the order does not matter.

    Raises:
        DataError: a directory contains no images.
    """
    total = 0
    for path in map(Path, paths):
        count = sum(1 for _ in _walk(path, _names)) if path.is_dir() else 1
        if not count:
            raise _no_images(path)
        total += count
    return total


def contains_image_files(directory: Path) -> bool:
    """Return whether `find_image_files` finds an image in or below a directory."""
    return any(is_image_file(path.name) for path in _walk(directory, _names))


def _no_images(directory: Path) -> DataError:
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return DataError(f"{directory}: no images in this directory or below ({suffixes}); choose another directory")


def _walk(directory: Path, names_in: Callable[[Path], Iterator[str]]) -> Iterator[Path]:
    stack = [directory]
    while stack:
        directory = stack.pop()
        try:
            for name in names_in(directory):
                yield directory / name
            with os.scandir(directory) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            stack += [directory / name for name in sorted(below, reverse=True) if not name.startswith(".")]
        except OSError:
            yield directory  # reading it raises the same error, which becomes the reason of this row


def _sorted_names(directory: Path) -> Iterator[str]:
    """Yield the names of a directory's images, sorted; the directory is scanned once per `_MAX_NAMES` of them."""
    after = ""
    while group := heapq.nsmallest(_MAX_NAMES, _names(directory, after)):
        yield from group
        if len(group) < _MAX_NAMES:
            return
        after = group[-1]


def _names(directory: Path, after: str = "") -> Iterator[str]:
    """Yield the names of a directory's images that sort after `after`, in the order of the file system."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_image_file(entry.name) and entry.name > after and not _is_directory(entry):
                yield entry.name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link to itself
        return False
