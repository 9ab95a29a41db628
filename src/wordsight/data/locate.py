"""The images that a table names: in a directory whose layout can differ from that of its author, or anywhere."""

import os
import posixpath
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from wordsight.data.walk import is_file
from wordsight.errors import DataError

_NUM_SHOWN_PATHS = 3
MAX_CHECKED_PATHS = 1000
"""The number of paths at the beginning of a table of which at least one must be a file."""


class ImageRoots(msgspec.Struct, frozen=True):
    """The directories to which the paths in a table are relative.

    Attributes:
        table: the table.
        root: the directory that the user has named; by default that of the table, then the working directory.
    """

    table: Path
    root: Path | None = None

    def find(self, file: str) -> Path:
        """Return the file that the table calls `file`: the first that exists, otherwise where it should be."""
        paths = [directory / file for directory in self._directories]
        if "\\" in file and os.sep == "/":
            paths += [directory / file.replace("\\", "/") for directory in self._directories]
        return next((path for path in paths if is_file(path)), paths[0])

    def check(self, files: Iterable[str | bytes], column: str) -> None:
        """Check that at least one of the first paths of a table is a file.

        Args:
            files: paths as they are in the table, of which the first 1,000 are tried, or bytes of images.
            column: the one that contains them.

        Raises:
            DataError: none is; the message names the first three and the directories that were tried.
        """
        tried: list[str] = []
        for file in files:
            if isinstance(file, bytes) or is_file(self.find(file)):
                return
            tried.append(file)
            if len(tried) == MAX_CHECKED_PATHS:
                break
        if not tried:
            return
        which = f"the first {MAX_CHECKED_PATHS:,}" if len(tried) == MAX_CHECKED_PATHS else f"{len(tried):,}"
        shown = ", ".join(repr(file[:100]) for file in tried[:_NUM_SHOWN_PATHS])
        if all("://" in file for file in tried):
            raise DataError(
                f"{self.table}: the images in column {column!r} are web addresses ({shown}); fetch them first, for "
                "example with img2dataset"
            )
        where = " and ".join(str(path.absolute()) for path in dict.fromkeys(self._directories))
        raise DataError(
            f"{self.table}: none of {which} paths in column {column!r} is a file: {shown}; tried in {where}; name the "
            "directory of the images with --image-root"
        )

    @property
    def _directories(self) -> tuple[Path, ...]:
        return (self.root,) if self.root else (self.table.parent, Path())


class ImageLocator:
    """Finds the file that a listing means by a path.

    Args:
        files: paths relative to the root.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._files = frozenset(files)
        self._by_base: dict[str, list[str]] = {}
        self.ambiguous: dict[str, str] = {}
        """Why a path that `locate` returned is not a file: several files match."""

    def exists(self, path: str) -> bool:
        """Return whether there is such a file."""
        return path in self._files

    def locate(self, directory: str, file: str, hint: str = "") -> str:
        """Return the path of the file that a listing in `directory` calls `file`.

        This is the file with that path relative to the listing or, if there is none, the only file whose path ends with
        it, such as `Images/1.jpg` for `1.jpg`. Files below the directory of the listing are preferred, then those in a
        directory whose name is part of `hint`. A path that points outside the root is returned unchanged.
        """
        path = posixpath.normpath(posixpath.join(directory, file))
        if path in self._files or file.startswith("/") or path.startswith("../"):
            return path
        if "\\" in file:
            return self.locate(directory, file.replace("\\", "/"), hint)
        if not self._by_base:
            grouped = defaultdict(list)
            for name in self._files:
                grouped[posixpath.basename(name)].append(name)
            self._by_base = dict(grouped)
        end = f"/{posixpath.normpath(file)}"
        candidates = [name for name in self._by_base.get(posixpath.basename(file), ()) if f"/{name}".endswith(end)]
        below = [name for name in candidates if name.startswith(f"{directory}/")] if directory else []
        hinted = [
            name for name in candidates if hint and posixpath.basename(posixpath.dirname(name)) in hint.split("_")
        ]
        for preferred in (hinted, below, candidates):
            if len(preferred) == 1:
                return preferred[0]
        if candidates:
            self.ambiguous[path] = f"several images match {file}: {', '.join(sorted(candidates)[:3])}"
        return path
