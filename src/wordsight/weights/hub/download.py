"""The name of published weights becomes a place on this machine; what is not there is downloaded."""

import urllib.parse
from pathlib import Path

from wordsight.cache import cache_directory, is_offline
from wordsight.errors import ConfigError, DownloadError
from wordsight.web import Progress, fetch_file, is_there
from wordsight.weights.hub.catalogue import PublishedCard, card_of_sha256, published_card
from wordsight.weights.hub.digests import remembered_sha256

HUB_PREFIX = "hf-hub:"


def resolve(name: str, mirror: str | None = None, progress: Progress | None = None) -> Path:
    """The file or the directory of published weights, downloaded if it is not there.

    Args:
        name: of a card, or one of its aliases; or `hf-hub:owner/name`, with `@revision` where not the newest is meant.
        mirror: the address of a server that takes the place of the one in the card, or of the hub.
        progress: is told of the bytes of a single file; huggingface_hub shows its own.

    Raises:
        WeightsError: no such name.
        ConfigError: `mirror` is not a web address.
        DownloadError: offline, or not to be had.
        OutputError: the cache cannot be written.
    """
    if name.startswith(HUB_PREFIX):
        repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        return _fetch_repository(repository, revision or None, mirror)
    card = published_card(name)
    if card.repository:
        return _fetch_repository(card.repository, None, mirror)
    url = mirrored(card.address, mirror) if mirror else card.address
    path = cached_file(card)
    if is_offline() and not is_there(path, card.size_bytes):
        raise DownloadError(
            f"{path}: not there, and offline (WORDSIGHT_OFFLINE or HF_HUB_OFFLINE is set); put {url} there, or unset it"
        )
    try:
        return fetch_file(url, path, card.sha256, card.size_bytes, progress=progress)
    except DownloadError as error:
        raise DownloadError(f"{error}; --mirror names another server") from error


def mirrored(url: str, mirror: str) -> str:
    """The same path on another server, below the path of `mirror` if it has one.

    Raises:
        ConfigError: `mirror` is not a web address.
    """
    there, here = urllib.parse.urlsplit(mirror), urllib.parse.urlsplit(url)
    if there.scheme not in ("http", "https") or not there.netloc:
        raise ConfigError(f"mirror {mirror!r} is not an address; expected such as https://mirror.example.org")
    path = there.path.rstrip("/") + here.path
    return urllib.parse.urlunsplit((there.scheme, there.netloc, path, here.query, ""))


def cached_file(card: PublishedCard) -> Path:
    """Where the file of a card with an address lies when it is there."""
    return cache_directory("weights") / card.name.replace("/", "-") / card.address.rpartition("/")[2]


def card_of_file(path: Path) -> PublishedCard | None:
    """The card of a file of weights, known by its SHA-256, which is computed once; None if there is none.

    Raises:
        WeightsError: the file cannot be read.
    """
    return card_of_sha256(remembered_sha256(path, cache_directory("weights") / "digests"))


def _fetch_repository(repository: str, revision: str | None, mirror: str | None) -> Path:
    from wordsight.weights.hub.repository import fetch_repository

    return fetch_repository(repository, revision=revision, mirror=mirror)
