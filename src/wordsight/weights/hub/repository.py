"""Weights in repositories of the Hugging Face hub, or of a mirror of it.

huggingface_hub does the work and keeps its own cache, which other programs share; here is decided which files are
needed (configurations, vocabularies, one file format of weights, never code), what came is compared with the hashes
that the hub gives, which that library does not do, and its many errors become one line.
"""

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from wordsight.cache import cache_directory, is_offline
from wordsight.errors import DownloadError, OutputError
from wordsight.weights.hub.digests import remembered_sha256

_TIMEOUT_S = 30
_DESCRIPTIONS = ("*.json", "*.txt", "*.model")
_NEEDED = (*_DESCRIPTIONS, "*.safetensors", "*.bin")
_SHARDS = "-?????-of-?????"
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")

_WEIGHTS = {
    "wordsight.json": ("model.safetensors",),
    "open_clip_config.json": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "config.json": ("model.safetensors", "pytorch_model.bin"),
}
"""By the file that describes the model, the weights that may be beside it, the best first."""


def fetch_repository(
    repository: str,
    files: Sequence[str] | None = None,
    revision: str | None = None,
    mirror: str | None = None,
    cache: Path | None = None,
) -> Path:
    """Download the files of a repository that a model needs, unless they are there already.

    Args:
        repository: `owner/name`.
        files: names or patterns; by default the descriptions and the one format of weights that is best to read.
        revision: a branch, a tag or a commit; by default the main branch.
        mirror: the address of a server that takes the place of the hub; by default that in `HF_ENDPOINT`.
        cache: the directory of downloads; by default that of huggingface_hub.

    Returns:
        The directory of that revision.

    Raises:
        DownloadError: no such repository, closed, offline, unreachable, or what came is damaged.
        OutputError: the cache cannot be written.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise DownloadError(f"{repository!r}: not a repository; expected owner/name")
    endpoint = (mirror or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
    places = {"repo_id": repository, "revision": revision, "endpoint": endpoint, "cache_dir": cache}
    if is_offline():
        directory, chosen = _in_cache(repository, files, places)
    else:
        try:
            chosen = _choose(repository, _names_there(repository, revision, endpoint), files)
            directory = _download(repository, places, chosen)
        except _UnreachableError as unreachable:
            try:
                directory, chosen = _in_cache(repository, files, places)
            except DownloadError:
                raise unreachable from None
    _verify(repository, [directory / name for name in chosen])
    return directory


def _in_cache(repository: str, files: Sequence[str] | None, places: dict[str, Any]) -> tuple[Path, list[str]]:
    """The directory and the names of what was downloaded before."""
    directory = _download(repository, {**places, "local_files_only": True}, files or _WEIGHTS)
    names = sorted(path.name for path in directory.iterdir())
    return directory, _choose(f"{repository} in the cache (offline)", names, files)


def _names_there(repository: str, revision: str | None, endpoint: str | None) -> list[str]:
    """The names of all files in a repository."""
    from huggingface_hub import HfApi

    with _OneLine(repository, endpoint):
        info = HfApi(endpoint=endpoint).model_info(repository, revision=revision, timeout=_TIMEOUT_S)
    return sorted(file.rfilename for file in info.siblings or [])


def _choose(repository: str, names: Iterable[str], files: Sequence[str] | None) -> list[str]:
    """The names of the files that are needed, of those that are there."""
    names = [name for name in names if "/" not in name and any(fnmatch(name, pattern) for pattern in _NEEDED)]
    if files is not None:
        chosen = [name for name in names if any(fnmatch(name, pattern) for pattern in files)]
        if not chosen:
            raise DownloadError(
                f"{repository}: has none of {', '.join(files)}; it has {', '.join(names) or 'no weights'}"
            )
        return chosen
    candidates = next((found for described, found in _WEIGHTS.items() if described in names), ())
    for candidate in candidates:
        stem, _, suffix = candidate.rpartition(".")
        weights = [name for name in names if name == candidate or fnmatch(name, f"{stem}{_SHARDS}.{suffix}")]
        if weights:
            return [name for name in names if any(fnmatch(name, pattern) for pattern in _DESCRIPTIONS)] + weights
    expected = ", ".join(candidates) if candidates else f"a model: none of {', '.join(_WEIGHTS)}"
    raise DownloadError(f"{repository}: not there: {expected}; give a repository of CLIP or SigLIP weights")


def _download(repository: str, places: dict[str, Any], names: Iterable[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils.tqdm import tqdm

    class OnTerminal(tqdm):
        """Its bars, silent where no terminal would rewrite them."""

        def __init__(self, *arguments: Any, **options: Any) -> None:
            silent = options.get("disable") or not sys.stderr.isatty()
            super().__init__(*arguments, **{**options, "disable": silent})  # type: ignore[no-untyped-call]

    with _OneLine(repository, places["endpoint"]):
        return Path(snapshot_download(**places, allow_patterns=list(names), tqdm_class=OnTerminal))


class _UnreachableError(DownloadError):
    """The server does not answer, or not as a hub."""


class _OneLine:
    """Turns the errors of huggingface_hub into ours.

    Its errors of HTTP have the base class of whatever library it speaks HTTP with; that class is all that we need.
    """

    def __init__(self, repository: str, endpoint: str | None) -> None:
        self.repository = repository
        self.server = endpoint or "the hub"

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from huggingface_hub import errors

        connection = (OSError, *errors.HfHubHTTPError.__bases__)
        theirs = (*connection, errors.HFValidationError, errors.EntryNotFoundError)
        if error is not None and isinstance(error, theirs):
            raise self._translated(error) from error

    def _translated(self, error: BaseException) -> DownloadError | OutputError:
        from huggingface_hub import errors

        name = self.repository
        if isinstance(error, errors.GatedRepoError):
            return DownloadError(f"{name}: closed: accept its terms on {self.server}, then `hf auth login`")
        if isinstance(error, errors.RepositoryNotFoundError):
            return DownloadError(
                f"{name}: no such repository on {self.server}, or private: check the name, or `hf auth login`"
            )
        if isinstance(error, errors.RevisionNotFoundError):
            return DownloadError(f"{name}: no such revision on {self.server}; leave it out for the newest")
        if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) and is_offline():
            return DownloadError(
                f"{name}: not in the cache, and offline (WORDSIGHT_OFFLINE or HF_HUB_OFFLINE is set); fetch it where "
                "there is a network, or unset it"
            )
        if isinstance(error, errors.HfHubHTTPError) and getattr(error, "response", None) is not None:
            return _UnreachableError(f"{name}: {self.server} answers {error.response.status_code}; try again later")
        if isinstance(error, OSError) and error.errno:
            return OutputError(f"{name}: the cache cannot be written: {error.strerror}; set HF_HOME, or make room")
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return _UnreachableError(
            f"{name}: {self.server} cannot be reached, or broke off: {reason}; try again, or take a --mirror"
        )


def _verify(repository: str, paths: Iterable[Path]) -> None:
    """Compare files with the hashes by which the cache names them; delete and refuse what differs.

    Large files are named by their SHA-256, which is computed once; small ones by what git calls them.
    """
    for path in paths:
        blob = path.resolve()
        if len(blob.name) == 64:
            found = remembered_sha256(blob, cache_directory("weights") / "digests")
        elif len(blob.name) == 40:
            found = _git_sha1(blob)
        else:  # a cache without links does not name its files by their hashes
            continue
        if found != blob.name:
            blob.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise DownloadError(
                f"{repository}: {path.name} is damaged: its hash is {found}, the hub says {blob.name}; it was deleted: "
                "try again"
            )


def _git_sha1(path: Path) -> str:
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
