"""Image files in directories, sorted by name without holding millions of names in memory."""

import contextlib
import heapq
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from wordsight.errors import DataError, nearest
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
        if not is_directory(path):
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
        count = sum(1 for _ in _walk(path, _names)) if is_directory(path) else 1
        if not count:
            raise _no_images(path)
        total += count
    return total


def contains_image_files(directory: Path) -> bool:
    """Return whether `find_image_files` finds an image in or below a directory."""
    return any(is_image_file(path.name) for path in _walk(directory, _names))


def is_directory(path: Path) -> bool:
    """Return whether a path is a directory; False if that cannot be found out, which using the path reports."""
    try:
        return path.is_dir()
    except OSError:  # not searchable, or a name that is too long
        return False


def is_file(path: Path) -> bool:
    """Return whether a path is a regular file; False if that cannot be found out, which reading it reports."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return False


def check_exists(path: Path) -> None:
    """Check that a path exists.

    Raises:
        DataError: it does not exist, or cannot be reached; the message names a similar path.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if path.is_symlink():
            raise DataError(f"{path}: a broken link; remove it or restore its target") from error
        known: list[str] = []
        with contextlib.suppress(OSError):
            known = [other.name for other in path.parent.iterdir()]
        raise DataError(f"{path}: no such file or directory{nearest(path.name, known)}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def check_regular(path: Path) -> None:
    """Check that a path is a regular file.

    Raises:
        DataError: it is not; the message names it.
    """
    try:
        size_of_regular(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def size_of_regular(path: Path) -> int:
    """Return the size of a regular file in bytes; opening another kind, such as a pipe, could block for ever.

    Raises:
        DataError: it is missing, cannot be reached, or is not a regular file; the message does not name it.
    """
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise DataError("a broken link" if path.is_symlink() else "no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError("not a regular file")
    return status.st_size


def _no_images(directory: Path) -> DataError:
    tar = next((path for path in _walk(directory, partial(_names, is_wanted=_is_tar)) if _is_tar(path.name)), None)
    if tar is not None:
        return DataError(
            f"{directory}: no images in this directory or below, but shards in {tar.parent}: name that directory"
        )
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return DataError(f"{directory}: no images in this directory or below ({suffixes}); choose another directory")


def _is_tar(name: str) -> bool:
    return name.lower().endswith(".tar") and not name.startswith(".")


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


def _names(directory: Path, after: str = "", is_wanted: Callable[[str], bool] = is_image_file) -> Iterator[str]:
    """Yield the names of a directory's images that sort after `after`, in the order of the file system."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if is_wanted(entry.name) and entry.name > after and not _is_directory(entry):
                yield entry.name


def _is_directory(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # for example a link to itself
        return False
