"""Resolve the name of published weights to a path, downloading them if they are not in the cache."""

import urllib.parse
from pathlib import Path

from wordsight.cache import cache_directory, is_offline, remembered_sha256
from wordsight.errors import ConfigError, DownloadError, WeightsError, printable
from wordsight.web import MAX_FILE_BYTES, Progress, fetch_file, is_there, parse_address, without_credentials
from wordsight.weights.hub.catalogue import PublishedCard, card_of_sha256, published_card

HUB_PREFIX = "hf-hub:"

_MAX_BYTES_PER_PARAMETER = 8
_MAX_OTHER_BYTES = 1 << 26


def resolve(name: str, mirror: str | None = None, progress: Progress | None = None) -> Path:
    """The path of published weights in the cache; they are downloaded if they are not there.

    Args:
        name: the name or an alias of a card; or `hf-hub:owner/name`, followed by `@revision` for a revision other than
            the newest.
        mirror: URL of a server to use instead of the one in the card, or instead of the hub.
        progress: called with the number of bytes received and the total, if known.

    Returns:
        The weights file, or the directory of a repository.

    Raises:
        WeightsError: the name is unknown.
        ConfigError: `mirror` is not a web address.
        DownloadError: the weights are not in the cache, and either offline mode is on or the download failed.
        OutputError: the cache is not writable.
    """
    if name.startswith(HUB_PREFIX):
        repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        return _fetch_repository(repository, revision or None, mirror, progress)
    card = published_card(name)
    if card.repository:
        return _fetch_repository(card.repository, None, mirror, progress)
    address = parse_address(mirrored(card.address, mirror) if mirror else card.address)
    path = cached_file(card)
    if is_offline() and not is_there(path, card.size_bytes):
        raise DownloadError(
            f"{path}: not in the cache, and offline mode is on (WORDSIGHT_OFFLINE or HF_HUB_OFFLINE is set): "
            f"download {address} to this path, or unset the variable"
        )
    try:
        return fetch_file(address, path, card.sha256, card.size_bytes, progress=progress, max_bytes=_max_bytes(card))
    except DownloadError as error:
        raise DownloadError(f"{error}; to use another server, pass --mirror") from error


def mirrored(url: str, mirror: str) -> str:
    """The URL of the same path on another server; if `mirror` has a path, it is prepended.

    Raises:
        ConfigError: `mirror` is not a web address; the message does not contain its password.
    """
    try:
        parse_address(mirror)
    except DownloadError as error:
        shown = printable(without_credentials(mirror))
        raise ConfigError(
            f"mirror {shown!r} is not a web address; expected a URL such as https://mirror.example.org"
        ) from error
    server, original = urllib.parse.urlsplit(mirror), urllib.parse.urlsplit(url)
    path = server.path.rstrip("/") + original.path
    return urllib.parse.urlunsplit((server.scheme, server.netloc, path, original.query, ""))


def _max_bytes(card: PublishedCard) -> int:
    """The largest size of a card's file, if the card does not state it: twice that of float32 weights."""
    if card.million_parameters is None:
        return MAX_FILE_BYTES
    return int(card.million_parameters * 1e6 * _MAX_BYTES_PER_PARAMETER) + _MAX_OTHER_BYTES


def cached_file(card: PublishedCard) -> Path:
    """The path in the cache for the file of a card with an address; the file may not exist."""
    return cache_directory("weights") / card.name.replace("/", "-") / card.address.rpartition("/")[2]


def card_of_file(path: Path) -> PublishedCard | None:
    """The card of a weights file, recognised by its SHA-256, which is computed once; None if there is none.

    Raises:
        WeightsError: the file cannot be read.
    """
    return card_of_sha256(remembered_sha256(path, cache_directory("weights") / "digests", WeightsError))


def _fetch_repository(repository: str, revision: str | None, mirror: str | None, progress: Progress | None) -> Path:
    from wordsight.weights.hub.repository import fetch_repository  # which imports the formats, and with them torch

    return fetch_repository(repository, revision=revision, mirror=mirror, progress=progress)
