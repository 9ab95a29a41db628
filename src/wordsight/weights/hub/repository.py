"""Download weights from repositories on the Hugging Face hub, or on a mirror of it.

This module selects the files that a model needs (configurations, vocabularies, one file format of weights, never code)
and downloads them with our own client, because huggingface_hub names files after headers that the server sends, and
does not verify their hashes. `listing.py` asks the server for the files, `snapshots.py` stores them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import quote

from wordsight.cache import is_offline
from wordsight.errors import DownloadError
from wordsight.web import Progress, StatusError, fetch_file
from wordsight.weights.hub.catalogue import REPOSITORY
from wordsight.weights.hub.listing import (
    Endpoint,
    HubFile,
    UnreachableError,
    error_of_status,
    list_repository,
    select_endpoint,
)
from wordsight.weights.hub.snapshots import Snapshots

MAX_FILES = 1000
"""Files of one model; the largest published checkpoints have about 200 shards."""
MAX_DESCRIPTION_BYTES = 1 << 26
"""Size of a configuration or vocabulary; Gemma's tokenizer.json, the largest of a published model, has 34 MB."""
MAX_WEIGHTS_BYTES = 1 << 36
"""Size of one file of weights; the largest published CLIP has 20 GB."""

_MAIN = "main"
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")
_NEEDED = (*_DESCRIPTIONS, "*.safetensors", "*.bin")
_SHARDS = "-?????-of-?????"
_FILE_NAME = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._-]{0,127}")
_REVISION = re.compile(r"[0-9A-Za-z_][0-9A-Za-z._/-]{0,199}")
_MAX_LISTED_NAMES = 20


def fetch_repository(
    repository: str,
    files: Sequence[str] | None = None,
    revision: str | None = None,
    mirror: str | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download the files of a repository that a model needs, unless they are in the cache.

    Args:
        repository: `owner/name`.
        files: names or patterns; by default the configuration files and one format of weights.
        revision: branch, tag or commit; by default the main branch.
        mirror: URL of a server to use instead of the hub; by default that in `HF_ENDPOINT`.
        cache: directory for downloads; by default `hub` in the cache of weights.
        progress: called with the number of bytes received, and the size of all files that are downloaded.

    Returns:
        The directory of that revision.

    Raises:
        DownloadError: the repository does not exist, is gated or cannot be reached, offline mode is on and it is not
            in the cache, or a file is not what the hub states.
        ConfigError: `mirror` or `HF_ENDPOINT` is not a web address.
        OutputError: the cache is not writable.
    """
    if not REPOSITORY.fullmatch(repository):
        raise DownloadError(f"{repository!r}: not a repository; expected owner/name")
    revision = revision or _MAIN
    if not _is_safe(revision, _REVISION):
        raise DownloadError(f"{repository}: {revision!r} is not a revision; expected a branch, a tag or a commit")
    snapshots = Snapshots(repository, cache)
    if is_offline():
        return _in_cache(snapshots, revision, files)
    endpoint = select_endpoint(mirror)
    try:
        listing = list_repository(endpoint, repository, revision)
        stated = listing.describe(_select(repository, listing.names, files))
    except UnreachableError as unreachable:
        try:
            return _in_cache(snapshots, revision, files)
        except DownloadError:
            raise unreachable from None
    _check_sizes(repository, stated)
    download = _Download(endpoint, repository, listing.commit, stated, progress)
    return snapshots.fetch(revision, listing.commit, stated, download)


def _is_safe(name: str, pattern: re.Pattern[str]) -> bool:
    return bool(pattern.fullmatch(name)) and ".." not in name


def _in_cache(snapshots: Snapshots, revision: str, files: Sequence[str] | None) -> Path:
    """The directory of a revision that was downloaded earlier, after a check of its files."""
    repository = snapshots.repository
    snapshot = snapshots.offline(revision)
    if snapshot is None:
        raise DownloadError(
            f"{repository}: not in the cache, and offline mode is on (WORDSIGHT_OFFLINE or HF_HUB_OFFLINE is set): "
            "unset the variable to download it"
        )
    directory, stated = snapshot
    present = [name for name in stated if (directory / name).is_file()]
    selected = _select(f"{repository} in the cache (offline)", present, files)
    missing = set(_select(repository, stated, files)) - set(present)
    if broken := sorted(missing) or snapshots.damaged(directory, stated, selected):
        state = "missing" if missing else "damaged: its size or hash has changed"
        raise DownloadError(
            f"{repository}: {directory / broken[0]} is {state}; download the repository again, without offline mode"
        )
    return directory


def _check_sizes(repository: str, files: Mapping[str, HubFile]) -> None:
    if len(files) > MAX_FILES:
        raise DownloadError(f"{repository}: {len(files):,} files, expected at most {MAX_FILES:,}; is it a model?")
    for name, file in files.items():
        limit = MAX_DESCRIPTION_BYTES if _is_description(name) else MAX_WEIGHTS_BYTES
        if file.size_bytes > limit:
            raise DownloadError(f"{repository}: {name} has {file.size_bytes:,} bytes, expected at most {limit:,}")


def _is_description(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _DESCRIPTIONS)


class _Download:
    """Downloads files of one commit, each with its stated size and hash."""

    def __init__(
        self,
        endpoint: Endpoint,
        repository: str,
        commit: str,
        files: Mapping[str, HubFile],
        progress: Progress | None,
    ) -> None:
        self._endpoint, self._repository, self._commit, self._progress = endpoint, repository, commit, progress
        self._total_bytes = sum(file.size_bytes for file in files.values())
        self._done_bytes = 0

    def __call__(self, name: str, file: HubFile, path: Path) -> None:
        address = self._endpoint.address(f"/{self._repository}/resolve/{self._commit}/{quote(name)}")
        is_git = len(file.hash) == 40
        try:
            fetch_file(
                address,
                path,
                sha256="" if is_git else file.hash,
                size_bytes=file.size_bytes,
                progress=self._show,
                git_sha1=file.hash if is_git else "",
            )
        except StatusError as error:
            if error.status in (401, 403):
                raise error_of_status(self._endpoint, self._repository, error) from error
            raise DownloadError(f"{self._repository}: {error}") from error
        except DownloadError as error:
            raise DownloadError(f"{self._repository}: {error}") from error
        self._done_bytes += file.size_bytes

    def _show(self, received: int, total: int | None) -> None:
        if self._progress:
            self._progress(self._done_bytes + received, self._total_bytes)


def _select(repository: str, names: Iterable[str], files: Sequence[str] | None) -> list[str]:
    """Select the files that are needed from all files of a repository."""
    names = [
        name for name in names if _is_safe(name, _FILE_NAME) and any(fnmatchcase(name, pattern) for pattern in _NEEDED)
    ]
    if files is not None:
        selected = [name for name in names if any(fnmatchcase(name, pattern) for pattern in files)]
        if not selected:
            listed = ", ".join(names[:_MAX_LISTED_NAMES]) + (", ..." if len(names) > _MAX_LISTED_NAMES else "")
            raise DownloadError(f"{repository}: has none of {', '.join(files)}; it has {listed or 'no weights'}")
        return selected
    weights_by_description = _weights_by_description()
    candidates = next((weights for name, weights in weights_by_description.items() if name in names), ())
    for candidate in candidates:
        stem, _, suffix = candidate.rpartition(".")
        weights = [name for name in names if name == candidate or fnmatchcase(name, f"{stem}{_SHARDS}.{suffix}")]
        if weights:
            return [name for name in names if _is_description(name)] + weights
    expected = ", ".join(candidates or weights_by_description)
    raise DownloadError(f"{repository}: has none of {expected}; choose a repository of CLIP or SigLIP weights")


def _weights_by_description() -> dict[str, list[str]]:
    """The names that weights may have, preferred first, by the name of the file that describes the model.

    Names of indexes are omitted: an index matches the patterns of configuration files, and its shards are matched by
    the name of the single file.
    """
    from wordsight.weights.containers.safetensors import INDEX_SUFFIX
    from wordsight.weights.formats.registry import FORMATS

    return {
        each.description_name: [name for name in each.weights_names if not name.endswith(INDEX_SUFFIX)]
        for each in FORMATS.values()
        if each.description_name
    }
