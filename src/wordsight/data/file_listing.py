"""The files of a directory, or of a tar file of a directory, behind one interface.

A tar file is never unpacked: members are read in place, and their names never reach the file system.
"""

import os
from functools import partial
from pathlib import Path
from typing import Protocol

from wordsight.data.sample import MAX_IMAGE_BYTES
from wordsight.data.tar import Member, read_at, walk_members
from wordsight.errors import DataError


class FileListing(Protocol):
    """Files below one root.

    Attributes:
        name: path of the directory or tar file, for errors.
        files: sorted paths relative to the root, with `/` between directories; hidden files are left out.
    """

    name: str
    files: tuple[str, ...]

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """Return the content of a file.

        Raises:
            DataError: the file is missing, not a regular file, or larger than `max_bytes`; the message does not name
                the file.
        """
        ...


class DirectoryListing:
    """The files below a directory; see `FileListing`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._root = path
        files: list[str] = []
        for directory, below, names in os.walk(path, onerror=_raise_error):
            below[:] = [name for name in below if not name.startswith(".")]
            relative = Path(directory).relative_to(path)
            files += [(relative / name).as_posix() for name in names if not name.startswith(".")]
        self.files = tuple(sorted(files))

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """See `FileListing.read`."""
        return read_file(self._root / file, max_bytes)


class TarListing:
    """The members of a tar file, relative to the single directory at its top, if there is one; see `FileListing`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            with path.open("rb", buffering=0) as file:
                if file.read(4)[:2] == b"\x1f\x8b":
                    raise DataError(f"{path}: compressed; unpack it with 'gunzip' first")
                total = os.fstat(file.fileno()).st_size
                members = list(walk_members(partial(read_at, file), total, str(path)))
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
            raise DataError("its name points outside the archive")
        _check_size(member.size, max_bytes)
        with self._path.open("rb", buffering=0) as archive:
            return read_at(archive, member.offset, member.size)


def open_listing(path: Path) -> FileListing:
    """List the files of a directory or of a tar file.

    Raises:
        DataError: the path cannot be read, or is not a tar file.
    """
    try:
        return DirectoryListing(path) if path.is_dir() else TarListing(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file of at most `max_bytes`.

    Raises:
        DataError: the file is missing, not a regular file, or larger than that; the message does not name the file.
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


def _raise_error(error: OSError) -> None:
    raise error
