"""Downloaded repositories on disk: our own, and read-only those in the cache of Hugging Face's libraries.

    weights/hub/OWNER--NAME/COMMIT/     the files of one revision, under their own names
    weights/hub/OWNER--NAME/index.json  sizes and hashes of all files, and the commit of each branch or tag
    weights/hub/OWNER--NAME/downloads/  files that are not complete yet, each named after its hash

Every name is derived here from a name, commit or hash that has been checked. Nothing outside the cache is ever opened,
linked or removed: a link in the other cache is followed only if it ends within its repository.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from wordsight.cache import cache_directory, remembered_sha256
from wordsight.config import Config
from wordsight.errors import DownloadError, OutputError
from wordsight.files import as_output_error, make_directory, read_limited, remove_partial, write_atomic
from wordsight.locks import lock
from wordsight.web import git_sha1_file
from wordsight.weights.hub.listing import COMMIT, HASH, HubFile, hugging_face_home

Download = Callable[[str, HubFile, Path], None]
"""Downloads the file with a name, and verifies its size and hash, to a path."""

_INDEX_NAME = "index.json"
_MAX_INDEX_BYTES = 1 << 24
_MAX_REFERENCE_BYTES = 100


class _Index(Config, frozen=True):
    """What is known about the files of a repository.

    Attributes:
        revisions: the commit by branch or tag.
        commits: sizes and hashes of the files by commit and name.
    """

    revisions: dict[str, str] = msgspec.field(default_factory=dict)
    commits: dict[str, dict[str, HubFile]] = msgspec.field(default_factory=dict)


class Snapshots:
    """The downloaded revisions of one repository.

    Args:
        repository: `owner/name`, already checked.
        cache: the directory of all repositories; by default that in the cache.
    """

    def __init__(self, repository: str, cache: Path | None = None) -> None:
        self.repository = repository
        name = repository.replace("/", "--")
        self._directory = (cache or cache_directory("weights") / "hub") / name
        self._downloads = self._directory / "downloads"
        home = os.environ.get("HF_HUB_CACHE")
        self._other = (Path(home).expanduser() if home else hugging_face_home() / "hub") / f"models--{name}"

    def fetch(self, revision: str, commit: str, files: Mapping[str, HubFile], download: Download) -> Path:
        """Return the directory of a commit, in which all `files` are complete; missing ones are downloaded.

        Raises:
            DownloadError: a download failed.
            OutputError: the cache is not writable.
        """
        directory = self._directory / commit
        is_complete = not self._downloads.exists() and not any(self._missing(directory, files))
        index = self._index()
        if is_complete and index == _with(index, revision, commit, files):
            return directory
        read_only = contextlib.suppress(OutputError) if is_complete else contextlib.nullcontext()
        with read_only, lock(self._directory / ".lock", wait=True):
            remove_partial(self._directory)
            for name in self._missing(directory, files):
                self._add(directory / name, files[name], commit, download)
            changed = _with(self._index(), revision, commit, files)
            write_atomic(self._directory / _INDEX_NAME, msgspec.json.encode(changed))
            shutil.rmtree(self._downloads, ignore_errors=True)
        return directory

    def offline(self, revision: str) -> tuple[Path, dict[str, HubFile | None]] | None:
        """Return the directory of a revision that was downloaded earlier, and its files; None if there is none.

        A file of the other cache that is not named after its hash, as on Windows, has no description.

        Raises:
            DownloadError: a link in the other cache has a target that is not named after a hash.
        """
        index = self._index()
        commit = revision if COMMIT.fullmatch(revision) else index.revisions.get(revision, "")
        if commit in index.commits:
            return self._directory / commit, dict(index.commits[commit])
        reference = self._within(self._other / "refs" / revision)
        if not COMMIT.fullmatch(revision):
            commit = _read_start(reference).strip() if reference else ""
        directory = self._other / "snapshots" / commit
        if not COMMIT.fullmatch(commit) or not directory.is_dir():
            return None
        return directory, {path.name: self._described(path) for path in directory.iterdir() if self._within(path)}

    def damaged(self, directory: Path, files: Mapping[str, HubFile | None], names: Iterable[str]) -> list[str]:
        """Return the names of files that differ from their description; those without one are not checked."""
        described = ((name, files[name]) for name in names)
        paths = ((name, self._within(directory / name) or directory / name, file) for name, file in described)
        return [name for name, path, file in paths if file and not is_intact(path, file)]

    def _missing(self, directory: Path, files: Mapping[str, HubFile]) -> Iterator[str]:
        return (name for name, file in files.items() if not is_intact(directory / name, file))

    def _add(self, path: Path, file: HubFile, commit: str, download: Download) -> None:
        """Copy a file from another revision or cache, or download it."""
        temporary = self._downloads / file.hash
        try:
            make_directory(self._downloads)
            for copy in self._copies(path.name, file, commit):
                if is_intact(copy, file):
                    _link(copy, temporary)
                    break
            else:
                download(path.name, file, temporary)
            make_directory(path.parent)
            temporary.replace(path)
        except OSError as error:
            raise as_output_error(error, path) from error
        if not is_intact(path, file):  # this also stores the hash, by which loading recognises published weights
            raise DownloadError(f"{self.repository}: {path} changed after its download; check the disk, and try again")

    def _copies(self, name: str, file: HubFile, commit: str) -> Iterator[Path]:
        """Paths at which the same file may be, in other revisions and in the other cache."""
        yield from (self._directory / other / name for other in self._index().commits)
        for path in (self._other / "blobs" / file.hash, self._other / "snapshots" / commit / name):
            if target := self._within(path):
                yield target

    def _within(self, path: Path) -> Path | None:
        """Return the file that a path of the other cache leads to; None if it is outside its repository."""
        try:
            target = path.resolve(strict=True)
            return target if target.is_file() and target.is_relative_to(self._other.resolve()) else None
        except (OSError, RuntimeError):  # RuntimeError: a loop of links
            return None

    def _described(self, path: Path) -> HubFile | None:
        """The size and hash of a file in the other cache, according to the name of the link's target."""
        if not path.is_symlink():
            return None
        target = path.resolve()
        if not HASH.fullmatch(target.name):
            raise DownloadError(
                f"{self.repository}: {path} is a link to a file that is not named after its hash; delete the link"
            )
        return HubFile(size_bytes=target.stat().st_size, hash=target.name)

    def _index(self) -> _Index:
        path = self._directory / _INDEX_NAME
        try:
            index = msgspec.json.decode(read_limited(path, _MAX_INDEX_BYTES, DownloadError), type=_Index)
        except (DownloadError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return _Index()  # it is written again with the next download
        return index if all(COMMIT.fullmatch(commit) for commit in index.commits) else _Index()


def _with(index: _Index, revision: str, commit: str, files: Mapping[str, HubFile]) -> _Index:
    """The index with the files of a commit, to which a branch or tag points now."""
    complete = {**index.commits.get(commit, {}), **files}
    return _Index(revisions={**index.revisions, revision: commit}, commits={**index.commits, commit: complete})


def is_intact(path: Path, file: HubFile) -> bool:
    """Return whether a path is a file, and not a link, of the stated size and hash."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size != file.size_bytes:
            return False
        is_git = len(file.hash) == 40
        directory = cache_directory("weights") / "digests"
        digest = git_sha1_file(path) if is_git else remembered_sha256(path, directory, DownloadError)
    except (OSError, DownloadError):
        return False
    return digest == file.hash


def _link(source: Path, path: Path) -> None:
    """Make a second name for a file, which takes no space, or a copy if they are on different disks."""
    path.unlink(missing_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


def _read_start(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_REFERENCE_BYTES).decode("ascii", errors="replace")
    except OSError:
        return ""
