"""Download weights from repositories on the Hugging Face hub, or on a mirror of it.

huggingface_hub downloads the files into its own cache, which other programs share. This module selects the files that
are needed (configurations, vocabularies, one file format of weights, never code), verifies them against the hashes that
the hub states, which that library does not do, and converts its errors into one-line errors.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from wordsight.cache import cache_directory, is_offline, remembered_sha256
from wordsight.errors import DownloadError, OutputError

_TIMEOUT_S = 30
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")
_NEEDED = (*_DESCRIPTIONS, "*.safetensors", "*.bin")
_SHARDS = "-?????-of-?????"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def fetch_repository(
    repository: str,
    files: Sequence[str] | None = None,
    revision: str | None = None,
    mirror: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Download the files of a repository that a model needs, unless they are in the cache.

    Args:
        repository: `owner/name`.
        files: names or patterns; by default the configuration files and one format of weights.
        revision: branch, tag or commit; by default the main branch.
        mirror: URL of a server to use instead of the hub; by default that in `HF_ENDPOINT`.
        cache: directory for downloads; by default that of huggingface_hub.

    Returns:
        The directory of that revision.

    Raises:
        DownloadError: the repository does not exist, is gated or cannot be reached, offline mode is on and it is not
            in the cache, or a downloaded file is damaged.
        OutputError: the cache is not writable.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise DownloadError(f"{repository!r}: not a repository; expected owner/name")
    endpoint = (mirror or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
    source = {"repo_id": repository, "revision": revision, "endpoint": endpoint, "cache_dir": cache}
    if is_offline():
        directory, selected = _in_cache(repository, files, source)
    else:
        try:
            selected = _select(repository, _names_on_server(repository, revision, endpoint), files)
            directory = _download(repository, source, selected)
        except _UnreachableError as unreachable:
            try:
                directory, selected = _in_cache(repository, files, source)
            except DownloadError:
                raise unreachable from None
    _verify(repository, [directory / name for name in selected])
    return directory


def _in_cache(repository: str, files: Sequence[str] | None, source: dict[str, Any]) -> tuple[Path, list[str]]:
    """The directory and the names of files that were downloaded earlier."""
    directory = _download(repository, {**source, "local_files_only": True}, files or _weights_by_description())
    names = sorted(path.name for path in directory.iterdir())
    return directory, _select(f"{repository} in the cache (offline)", names, files)


def _names_on_server(repository: str, revision: str | None, endpoint: str | None) -> list[str]:
    """The names of all files in a repository."""
    from huggingface_hub import HfApi

    with _OneLineErrors(repository, endpoint):
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, timeout=_TIMEOUT_S)
    return sorted(file.rfilename for file in info.siblings or [])


def _select(repository: str, names: Iterable[str], files: Sequence[str] | None) -> list[str]:
    """Select the files that are needed from all files of a repository."""
    names = [name for name in names if "/" not in name and any(fnmatch(name, pattern) for pattern in _NEEDED)]
    if files is not None:
        selected = [name for name in names if any(fnmatch(name, pattern) for pattern in files)]
        if not selected:
            raise DownloadError(
                f"{repository}: has none of {', '.join(files)}; it has {', '.join(names) or 'no weights'}"
            )
        return selected
    weights_by_description = _weights_by_description()
    candidates = next((weights for name, weights in weights_by_description.items() if name in names), ())
    for candidate in candidates:
        stem, _, suffix = candidate.rpartition(".")
        weights = [name for name in names if name == candidate or fnmatch(name, f"{stem}{_SHARDS}.{suffix}")]
        if weights:
            return [name for name in names if any(fnmatch(name, pattern) for pattern in _DESCRIPTIONS)] + weights
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


def _download(repository: str, source: dict[str, Any], names: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class OnTerminal(tqdm):
        """Progress bars that are shown only on a terminal."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            is_disabled = options.get("disable") or not sys.stderr.isatty()
            super().__init__(*arguments, **{**options, "disable": is_disabled})  # type: ignore[no-untyped-call]

    with _OneLineErrors(repository, source["endpoint"]):
        return Path(snapshot_download(**source, allow_patterns=list(names), tqdm_class=OnTerminal))


class _UnreachableError(DownloadError):
    """The server does not respond, or its response is not that of a hub."""


class _OneLineErrors:
    """Context manager that converts the errors of huggingface_hub into one-line errors of wordsight.

    Which HTTP library huggingface_hub uses depends on its version. Its own HTTP errors derive from the base class of
    that library's errors, so the class is looked up there instead of being imported.
    """

    def __init__(self, repository: str, endpoint: str | None) -> None:
        self.repository = repository
        self.server = endpoint or "the hub"

    def __enter__(self) -> None:
        pass

    def __exit__(self, error_class: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from huggingface_hub import errors

        connection = (OSError, *errors.HfHubHTTPError.__bases__)
        translatable = (*connection, errors.HFValidationError, errors.EntryNotFoundError)
        if error is not None and isinstance(error, translatable):
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> DownloadError | OutputError:
        from huggingface_hub import errors

        name = self.repository
        if isinstance(error, errors.GatedRepoError):
            return DownloadError(
                f"{name}: the repository is gated: accept its terms on {self.server}, then run `hf auth login`"
            )
        if isinstance(error, errors.RepositoryNotFoundError):
            return DownloadError(
                f"{name}: no such repository on {self.server}, or it is private: check the name, or run `hf auth login`"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return DownloadError(f"{name}: no such revision on {self.server}; omit the revision for the newest")
        if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) and is_offline():
            return DownloadError(
                f"{name}: not in the cache, and offline mode is on (WORDSIGHT_OFFLINE or HF_HUB_OFFLINE is set): "
                "unset the variable to download it"
            )
        if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
            return _UnreachableError(
                f"{name}: {self.server} responded with status {error.response.status_code}; try again later"
            )
        if isinstance(error, OSError) and error.errno:
            return OutputError(
                f"{name}: the cache is not writable: {error.strerror}; "
                "set HF_HOME to another directory, or free some space"
            )
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return _UnreachableError(
            f"{name}: {self.server} cannot be reached, or the connection broke: {reason}; try again, or pass --mirror"
        )


def _verify(repository: str, paths: Iterable[Path]) -> None:
    """Compare files with the hashes by which the cache names them; delete and refuse files that differ.

    Large files are named by their SHA-256, which is computed once; small files by their git blob hash (SHA-1).
    """
    for path in paths:
        blob = path.resolve()
        if len(blob.name) == 64:
            digest = remembered_sha256(blob, cache_directory("weights") / "digests", DownloadError)
        elif len(blob.name) == 40:
            digest = _git_sha1(blob)
        else:  # without symbolic links the cache does not name files by their hashes
            continue
        if digest != blob.name:
            blob.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise DownloadError(
                f"{repository}: {path.name} is damaged: its hash is {digest}, the hub says {blob.name}; "
                "it was deleted: try again"
            )


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
