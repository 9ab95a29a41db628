"""The files of a directory, or of a tar file of a directory, behind one interface.

A tar file is never unpacked: members are read in place, and their names never reach the file system.
"""

import io
import os
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from wordsight.data.sample import MAX_IMAGE_BYTES
from wordsight.data.tar import Member, read_at, walk_members
from wordsight.data.walk import check_regular, is_directory, size_of_regular
from wordsight.errors import DataError


class FileListing(Protocol):
    """Files below one root.

    Attributes:
        name: path of the directory or tar file, for errors.
        files: sorted paths relative to the root, with `/` between directories; hidden files are left out.
        problems: directories that cannot be listed and members that are stored twice, with the reasons.
    """

    name: str
    files: tuple[str, ...]
    problems: dict[str, str]

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """Return the content of a file.

        Raises:
            DataError: the file is missing, not a regular file, or larger than `max_bytes`; the message does not name
                the file.
        """
        ...

    def open(self, file: str) -> BinaryIO:
        """Open a file for reading in parts; errors are as for `read`."""
        ...


class DirectoryListing:
    """The files below a directory; see `FileListing`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._root = path
        self.problems: dict[str, str] = {}
        files: list[str] = []
        for directory, below, names in os.walk(path, onerror=self._add_problem):
            below[:] = [name for name in below if not name.startswith(".")]
            relative = Path(directory).relative_to(path)
            files += [(relative / name).as_posix() for name in names if not name.startswith(".")]
        self.files = tuple(sorted(files))
        if "." in self.problems:
            raise DataError(f"{path}: {self.problems['.']}")

    def _add_problem(self, error: OSError) -> None:
        directory = Path(error.filename).relative_to(self._root).as_posix()
        self.problems[directory] = f"cannot be listed: {error.strerror or error}; check its permissions"

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """See `FileListing.read`."""
        return read_file(self._root / file, max_bytes)

    def open(self, file: str) -> BinaryIO:
        """See `FileListing.open`."""
        size_of_regular(self._root / file)
        return (self._root / file).open("rb")


class TarListing:
    """The members of a tar file, relative to the single directory at its top, if there is one; see `FileListing`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self.problems: dict[str, str] = {}
        check_regular(path)
        try:
            with path.open("rb", buffering=0) as file:
                total = os.fstat(file.fileno()).st_size
                members = list(walk_members(partial(read_at, file), total, str(path)))
        except OSError as error:
            raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
        names = [member.name.removeprefix("./") for member in members]
        roots = {name.partition("/")[0] + "/" for name in names}
        root = roots.pop() if len(roots) == 1 and all("/" in name for name in names) else ""
        self._members: dict[str, Member] = {}
        for name, member in zip((name.removeprefix(root) for name in names), members, strict=True):
            if name in self._members:
                self.problems[name] = "stored more than once; the last one is used"
            if not name.rpartition("/")[2].startswith("."):
                self._members[name] = member
        self.files = tuple(sorted(self._members))

    def read(self, file: str, max_bytes: int = MAX_IMAGE_BYTES) -> bytes:
        """See `FileListing.read`."""
        member = self._usable(file)
        _check_size(member.size, max_bytes)
        with self._path.open("rb", buffering=0) as archive:
            return read_at(archive, member.offset, member.size)

    def open(self, file: str) -> BinaryIO:
        """See `FileListing.open`."""
        member = self._usable(file)
        return io.BufferedReader(_Section(self._path.open("rb", buffering=0), member.offset, member.size))

    def _usable(self, file: str) -> Member:
        member = self._members.get(file)
        if member is None:
            raise DataError("no such file in the archive")
        if member.kind:
            raise DataError(f"{member.kind}, not a file")
        if member.name.startswith("/") or ".." in member.name.split("/"):
            raise DataError("its name points outside the archive")
        return member


class _Section(io.RawIOBase):
    """A part of a file, as a file that owns the whole one."""

    def __init__(self, file: io.RawIOBase | io.FileIO, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(start + offset, 0)
        return self._at

    def readinto(self, buffer: Any) -> int:
        content = read_at(self._file, self._offset + self._at, max(min(len(buffer), self._size - self._at), 0))
        buffer[: len(content)] = content
        self._at += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def open_listing(path: Path) -> FileListing:
    """List the files of a directory or of a tar file.

    Raises:
        DataError: the path cannot be read, or is not a tar file.
    """
    try:
        return DirectoryListing(path) if is_directory(path) else TarListing(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file of at most `max_bytes`.

    Raises:
        DataError: the file is missing, not a regular file, or larger than that; the message does not name the file.
    """
    _check_size(size_of_regular(path), max_bytes)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}") from error


def _check_size(size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise DataError(f"{size:,} bytes, more than {max_bytes:,}")
