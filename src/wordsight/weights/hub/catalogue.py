"""What is known of published weights, one TOML file a checkpoint in `cards/`; no torch is needed to read them.

A card says where the weights lie, how to know them again (their SHA-256), what must agree about them where the file
itself does not say it (architecture, activation, preprocessing, tokenizer), and what was published of them, each figure
with its source. Where something could not be seen in public it is left out. Adding weights of a known architecture is
adding one file.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from wordsight.config import Config, load_toml
from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, VisionTransformerConfig, preset
from wordsight.model.config import Activation, Count

CARDS_DIRECTORY = Path(__file__).parent / "cards"

Format = Literal["openai", "open_clip", "hugging_face"]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100)]

_SHA256 = re.compile(r"[0-9a-f]{8,64}")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class PublishedScore(Config, frozen=True):
    """One published figure, in per cent, and where it was published."""

    metric: str
    value: Percent
    source: str


class PublishedCard(Config, frozen=True, kw_only=True):
    """What is known of one published checkpoint.

    Attributes:
        name: by which `wordsight models` lists it and `ws.load` takes it.
        title: one line for people.
        family: who published it.
        format: which reader understands its files.
        aliases: other names: open_clip's `MODEL/TAG`, OpenAI's own, the repository.
        address: of the one file of weights; empty where they lie in a repository.
        repository: `owner/name` on the Hugging Face hub; empty where there is an address.
        size_bytes: of the file at the address.
        sha256: of that file in lower-case hexadecimal, or as many of its first digits as were published.
        resolution_px: side of the square that the image tower sees.
        embed_dim: width of the shared space.
        million_parameters: of both towers.
        architecture: a preset; empty where the repository's own configuration says it.
        activation: of the transformers' blocks; None where the repository's own configuration says it.
        preprocessing: what the weights expect of images; None where the repository's own configuration says it.
        tokenizer: the family of the tokenizer.
        context_length: ids in a text.
        licence: of the weights, as published; empty where none was stated.
        scores: published figures.

    Raises:
        ConfigError: parts of the card contradict each other.
    """

    name: str
    title: str
    family: str
    format: Format
    aliases: tuple[str, ...] = ()
    address: str = ""
    repository: str = ""
    size_bytes: Count | None = None
    sha256: str = ""
    resolution_px: Count
    embed_dim: Count
    million_parameters: Annotated[float, msgspec.Meta(gt=0)] | None = None
    architecture: str = ""
    activation: Activation | None = None
    preprocessing: Preprocessing | None = None
    tokenizer: Literal["clip", "siglip", "siglip2"] = "clip"
    context_length: Count = 77
    licence: str = ""
    scores: tuple[PublishedScore, ...] = ()

    def __post_init__(self) -> None:
        _require(bool(self.address) != bool(self.repository), "expected an address or a repository, one of the two")
        if self.address:
            _require(self.address.startswith("https://"), f"address {self.address!r} does not start with https://")
            stated = self.architecture and self.activation and self.preprocessing
            _require(bool(stated), "a single file needs architecture, activation and preprocessing in its card")
        else:
            _require(bool(_REPOSITORY.fullmatch(self.repository)), f"repository {self.repository!r} is not owner/name")
            _require(not self.sha256 and self.size_bytes is None, "sha256 and size_bytes belong to an address")
        right_digits = not self.sha256 or _SHA256.fullmatch(self.sha256)
        _require(bool(right_digits), f"sha256 {self.sha256!r} is not 8 to 64 digits of lower-case hexadecimal")
        if self.preprocessing:
            _require_equal("preprocessing.size_px", self.preprocessing.size_px, "resolution_px", self.resolution_px)
        if self.architecture:
            model = preset(self.architecture)
            _require_equal("the preset's image_size_px", model.image.image_size_px, "resolution_px", self.resolution_px)
            _require_equal("the preset's embed_dim", model.embed_dim, "embed_dim", self.embed_dim)
            _require_equal(
                "the preset's context_length", model.text.context_length, "context_length", self.context_length
            )

    def model(self) -> ModelConfig | None:
        """The preset with the card's activation in both towers; None where the files say what they are."""
        if not self.architecture:
            return None
        found = preset(self.architecture)
        if self.activation is None:
            return found
        image = found.image
        if isinstance(image, VisionTransformerConfig):
            image = msgspec.structs.replace(image, activation=self.activation)
        text = msgspec.structs.replace(found.text, activation=self.activation)
        return msgspec.structs.replace(found, image=image, text=text)


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def _require_equal(one: str, value: int, other: str, expected: int) -> None:
    _require(value == expected, f"{one} {value} contradicts {other} {expected}; make them equal")


@cache
def published_cards() -> Mapping[str, PublishedCard]:
    """The cards of the package by name, sorted."""
    return read_cards(CARDS_DIRECTORY)


def read_cards(directory: Path) -> dict[str, PublishedCard]:
    """The cards in a directory by name, sorted.

    Raises:
        ConfigError: a file is not a card, is not called as its card's name, or a name or an alias is given twice.
    """
    cards: dict[str, PublishedCard] = {}
    owners: dict[str, str] = {}
    for path in sorted(directory.glob("*.toml")):
        card = load_toml(path, PublishedCard)
        expected = f"{card.name.replace('/', '-')}.toml"
        _require(path.name == expected, f"{path}: name {card.name!r} belongs into {expected}; rename one of the two")
        for name in (card.name, *card.aliases):
            owner = owners.setdefault(name.casefold(), path.name)
            _require(owner == path.name, f"{path}: the name {name!r} is that of {owner}; choose another")
        cards[card.name] = card
    return cards


def published_card(name: str) -> PublishedCard:
    """The card of a name or an alias; upper and lower case are the same.

    Raises:
        WeightsError: no such name; the message has the nearest one.
    """
    cards = published_cards()
    if name in cards:
        return cards[name]
    names = {known.casefold(): card for card in cards.values() for known in (card.name, *card.aliases)}
    if found := names.get(name.casefold()):
        return found
    known = [known for card in cards.values() for known in (card.name, *card.aliases)]
    raise WeightsError(f"no published weights {name!r}{nearest(name, known)}; `wordsight models` lists them")


def is_published(name: str) -> bool:
    """Whether a name or an alias is that of a card."""
    return any(
        name.casefold() == known.casefold()
        for card in published_cards().values()
        for known in (card.name, *card.aliases)
    )


def card_of_sha256(digest: str) -> PublishedCard | None:
    """The card of the file with this SHA-256 (64 digits), if there is one."""
    cards = (card for card in published_cards().values() if card.sha256)
    return next((card for card in cards if digest.casefold().startswith(card.sha256)), None)
