"""A directory, or a tar file of a directory, as names and contents: what a source of images and texts is read from.

A tar file is never unpacked: its members are read where they lie, and their names are only names.
"""

import os
from functools import partial
from pathlib import Path
from typing import Protocol

from wordsight.data.sample import MAX_IMAGE_BYTES
from wordsight.data.tar import Member, read_at, walk
from wordsight.errors import DataError


class FileListing(Protocol):
    """Files below one root.

    Attributes:
        name: path of the directory or tar file, for errors.
        files: names relative to the root with `/` between directories, sorted; hidden files are left out.
    """

    name: str
    files: tuple[str, ...]

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """The content of a file.

        Raises:
            DataError: missing, not a plain file, or larger than the bound; the message is a reason without a place.
        """
        ...


class DirectoryListing:
    """The files below a directory; see `FileListing`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._root = path
        found = []
        for directory, below, names in os.walk(path, onerror=_raise):
            below[:] = [name for name in below if not name.startswith(".")]
            relative = Path(directory).relative_to(path)
            found += [(relative / name).as_posix() for name in names if not name.startswith(".")]
        self.files = tuple(sorted(found))

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """See `FileListing.read`."""
        return read_file(self._root / file, max_bytes)


class TarListing:
    """The members of a tar file, without the one directory in which they may all lie; see `FileListing`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            with path.open("rb", buffering=0) as file:
                if file.read(4)[:2] == b"\x1f\x8b":
                    raise DataError(f"{path}: compressed; unpack it with 'gunzip' first")
                total = os.fstat(file.fileno()).st_size
                members = list(walk(partial(read_at, file), total, str(path)))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        names = [member.name.removeprefix("./") for member in members]
        roots = {name.partition("/")[0] + "/" for name in names}
        root = roots.pop() if len(roots) == 1 and all("/" in name for name in names) else ""
        self._members: dict[str, Member] = {
            name.removeprefix(root): member
            for name, member in zip(names, members, strict=True)
            if not name.rpartition("/")[2].startswith(".")
        }
        self.files = tuple(sorted(self._members))

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """See `FileListing.read`."""
        member = self._members.get(file)
        if member is None:
            raise DataError("no such file in the archive")
        if member.kind:
            raise DataError(f"{member.kind}, not a file")
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise DataError("its name leads out of the archive")
        _check_size(member.size, max_bytes)
        with self._path.open("rb", buffering=0) as archive:
            return read_at(archive, member.offset, member.size)


def open_listing(path: Path) -> FileListing:
    """The files of a directory or of a tar file.

    Raises:
        DataError: it cannot be read, or is not a tar file.
    """
    try:
        return DirectoryListing(path) if path.is_dir() else TarListing(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_file(path: Path, max_bytes: int) -> bytes:
    """The content of a file of bounded size.

    Raises:
        DataError: missing, not a plain file, or larger than the bound; the message is a reason without a place.
    """
    try:
        if not path.is_file():
            raise DataError("no such file" if not path.exists() else "not a file")
        _check_size(path.stat().st_size, max_bytes)
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DataError(f"{size:,} bytes, more than {max_bytes:,}")


def _raise(error: OSError) -> None:
    raise error
