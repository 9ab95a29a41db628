"""The name of published weights becomes a place on this machine; what is not there is downloaded."""

from pathlib import Path

from wordsight.weights.digests import remembered_sha256
from wordsight.weights.download import Progress, fetch_file, mirrored, weights_cache
from wordsight.weights.published import PublishedCard, card_of_sha256, published_card

HUB_PREFIX = "hf-hub:"


def resolve(name: str, mirror: str | None = None, progress: Progress | None = None) -> Path:
    """The file or the folder of published weights, downloaded if it is not there.

    Args:
        name: of a card, or one of its aliases; or `hf-hub:owner/name`, with `@revision` where not the newest is meant.
        mirror: the address of a server that takes the place of the one in the card, or of the hub.
        progress: is told of the bytes of a single file; huggingface_hub shows its own.

    Raises:
        WeightsError: no such name, offline, or not to be had.
        OutputError: the cache cannot be written.
    """
    if name.startswith(HUB_PREFIX):
        repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
        return _fetch_repository(repository, revision or None, mirror)
    card = published_card(name)
    if card.repository:
        return _fetch_repository(card.repository, None, mirror)
    url = mirrored(card.address, mirror) if mirror else card.address
    return fetch_file(url, cached_file(card), card.sha256, card.size_bytes, progress=progress)


def cached_file(card: PublishedCard) -> Path:
    """Where the file of a card with an address lies when it is there."""
    return weights_cache() / card.name.replace("/", "-") / card.address.rpartition("/")[2]


def card_of_file(path: Path) -> PublishedCard | None:
    """The card of a file of weights, known by its SHA-256, which is computed once; None if there is none.

    Raises:
        WeightsError: the file cannot be read.
    """
    return card_of_sha256(remembered_sha256(path, weights_cache() / "digests"))


def _fetch_repository(repository: str, revision: str | None, mirror: str | None) -> Path:
    from wordsight.weights.hub import fetch_repository

    return fetch_repository(repository, revision=revision, mirror=mirror)
