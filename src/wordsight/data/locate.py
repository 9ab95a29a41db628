"""The images that a listing names, in a directory whose layout can differ from that of its author."""

import posixpath
from collections import defaultdict
from collections.abc import Sequence


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
