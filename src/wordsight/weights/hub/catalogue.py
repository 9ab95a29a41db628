"""The catalogue of published weights: one TOML card per checkpoint in `cards/`. Reading it does not load torch.

A card says where the weights are, by which SHA-256 they are recognised, what the files themselves do not state
(architecture, activation, preprocessing, tokenizer), and which scores were published, each with its source. Anything
for which no public source was found is omitted. Adding weights of a known architecture means adding one file.
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

REPOSITORY = re.compile(r"(?!.*(?:\.\.|--))[0-9A-Za-z_][0-9A-Za-z._-]{0,95}/[0-9A-Za-z_][0-9A-Za-z._-]{0,95}")
"""`owner/name` of a repository or of a card; as part of a path it stays within its directory."""

_SHA256 = re.compile(r"[0-9a-f]{8,64}")
_ADDRESS = re.compile(r"https://[0-9a-z.-]+(?:/[0-9A-Za-z_~%-][0-9A-Za-z._~%-]*)+")


class PublishedScore(Config, frozen=True):
    """A published score.

    Attributes:
        metric: name of the benchmark and metric, as published.
        value: the score in per cent.
        source: the publication, with table or file.
    """

    metric: str
    value: Percent
    source: str


class PublishedCard(Config, frozen=True, kw_only=True):
    """Describes one published checkpoint.

    Attributes:
        name: name that `wordsight models` lists and `ws.load` accepts.
        title: one-line description.
        family: publisher or series, such as `OpenAI` or `SigLIP 2`.
        format: format of the files.
        aliases: other accepted names: open_clip's `MODEL/TAG`, OpenAI's own name, the repository.
        address: URL of the weights file; empty if the weights are in a repository.
        repository: `owner/name` on the Hugging Face hub; empty if there is an address.
        size_bytes: size of the file at the address; None if it was not published.
        sha256: SHA-256 of that file in lower-case hexadecimal, or as many of its first digits as were published.
        resolution_px: height and width of the image tower's input.
        embed_dim: dimension of the joint embedding space.
        million_parameters: number of parameters of both towers, in millions; None if unknown.
        architecture: name of a preset; empty if the repository's configuration describes the architecture.
        activation: activation of the transformer blocks; None if the repository's configuration specifies it.
        preprocessing: preprocessing of images; None if the repository's configuration describes it.
        tokenizer: family of the tokenizer.
        context_length: number of token ids per text.
        licence: licence of the weights as published; empty if none was stated.
        scores: published scores.

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
        _require(bool(REPOSITORY.fullmatch(self.name)), f"name {self.name!r} is not publisher/name")
        _require(bool(self.address) != bool(self.repository), "expected either an address or a repository")
        if self.address:
            _require(self.address.startswith("https://"), f"address {self.address!r} does not start with https://")
            _require(bool(_ADDRESS.fullmatch(self.address)), f"address {self.address!r} is not the URL of a file")
            stated = self.architecture and self.activation and self.preprocessing
            _require(bool(stated), "a single file needs architecture, activation and preprocessing in its card")
        else:
            _require(bool(REPOSITORY.fullmatch(self.repository)), f"repository {self.repository!r} is not owner/name")
            _require(not self.sha256 and self.size_bytes is None, "sha256 and size_bytes belong to an address")
        is_digest = not self.sha256 or _SHA256.fullmatch(self.sha256)
        _require(bool(is_digest), f"sha256 {self.sha256!r} is not 8 to 64 digits of lower-case hexadecimal")
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
        """The architecture: the preset with the card's activation in both towers; None if the files describe it."""
        if not self.architecture:
            return None
        model = preset(self.architecture)
        if self.activation is None:
            return model
        image = model.image
        if isinstance(image, VisionTransformerConfig):
            image = msgspec.structs.replace(image, activation=self.activation)
        text = msgspec.structs.replace(model.text, activation=self.activation)
        return msgspec.structs.replace(model, image=image, text=text)


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def _require_equal(one: str, value: int, other: str, expected: int) -> None:
    _require(value == expected, f"{one} {value} contradicts {other} {expected}; make them equal")


@cache
def published_cards() -> Mapping[str, PublishedCard]:
    """The cards of this package by name, sorted by file name."""
    return read_cards(CARDS_DIRECTORY)


def read_cards(directory: Path) -> dict[str, PublishedCard]:
    """Read the cards in a directory.

    Returns:
        The cards by name, sorted by file name.

    Raises:
        ConfigError: a file is not a card or is not named after its card, or a name or alias occurs twice.
    """
    cards: dict[str, PublishedCard] = {}
    owners: dict[str, str] = {}
    for path in sorted(directory.glob("*.toml")):
        card = load_toml(path, PublishedCard)
        expected = f"{card.name.replace('/', '-')}.toml"
        _require(
            path.name == expected, f"{path}: the card {card.name!r} must be in {expected}; rename the file or the card"
        )
        for name in (card.name, *card.aliases):
            owner = owners.setdefault(name.casefold(), path.name)
            _require(owner == path.name, f"{path}: the name {name!r} is already used by {owner}; choose another")
        cards[card.name] = card
    return cards


def published_card(name: str) -> PublishedCard:
    """The card with a name or alias; case is ignored.

    Raises:
        WeightsError: there is no such card; the message contains the nearest name.
    """
    cards = published_cards()
    if name in cards:
        return cards[name]
    by_name = {each.casefold(): card for card in cards.values() for each in (card.name, *card.aliases)}
    if card := by_name.get(name.casefold()):
        return card
    names = [each for card in cards.values() for each in (card.name, *card.aliases)]
    raise WeightsError(f"no published weights {name!r}; `wordsight models` lists them{nearest(name, names)}")


def is_published(name: str) -> bool:
    """Whether a card has this name or alias; case is ignored."""
    return any(
        name.casefold() == each.casefold() for card in published_cards().values() for each in (card.name, *card.aliases)
    )


def card_of_sha256(digest: str) -> PublishedCard | None:
    """The card whose file has this SHA-256 (64 hexadecimal digits); None if there is none."""
    cards = (card for card in published_cards().values() if card.sha256)
    return next((card for card in cards if digest.casefold().startswith(card.sha256)), None)
