"""One card a weight file: all that must agree about a checkpoint, in one frozen object.

Architecture and preprocessing that lie apart, joined by a name, can contradict each other; here a contradiction is
refused when the card is made. No torch is needed to read a card.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from wordsight.config import Config, decode
from wordsight.errors import ConfigError, WeightsError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig
from wordsight.text import TokenizerConfig

__all__ = ["CARD_NAME", "Card", "TokenizerConfig", "read_card", "read_tokenizer"]

CARD_NAME = "wordsight.json"

_CLIP_VOCABULARY_SIZE = 49408
_MAX_CARD_BYTES = 1 << 24
_MAX_TOKENIZER_BYTES = 1 << 27


class Card(Config, frozen=True):
    """What a file of weights is.

    Attributes:
        name: what people call the model.
        model: the architecture, activation included.
        preprocessing: what the image tower expects of images.
        tokenizer: what the text tower expects of texts.
        source: where the weights come from, an address or a sentence.
        licence: under which they may be used.
        weights_sha256: of the file of weights; empty until there is a file.
        training: plain data: recipe, data fingerprints, steps, seed, scores with intervals.
        format: of this card, for readers to come.

    Raises:
        ConfigError: parts of the card contradict each other.
    """

    name: str
    model: ModelConfig
    preprocessing: Preprocessing
    tokenizer: TokenizerConfig
    source: str = ""
    licence: str = ""
    weights_sha256: str = ""
    training: dict[str, Any] = msgspec.field(default_factory=dict)
    format: Literal["wordsight-model-1"] = "wordsight-model-1"

    def __post_init__(self) -> None:
        text, size_px = self.model.text, self.model.image.image_size_px
        if self.tokenizer.context_length != text.context_length:
            raise ConfigError(
                f"tokenizer.context_length {self.tokenizer.context_length} contradicts "
                f"model.text.context_length {text.context_length}; make them equal"
            )
        if self.tokenizer.family == "clip" and text.vocabulary_size < _CLIP_VOCABULARY_SIZE:
            raise ConfigError(
                f"model.text.vocabulary_size {text.vocabulary_size}: "
                f"the clip tokenizer has {_CLIP_VOCABULARY_SIZE} ids; give the tower as many"
            )
        greatest_id = max([self.tokenizer.pad_id, *self.tokenizer.around])
        if greatest_id >= text.vocabulary_size:
            raise ConfigError(
                f"model.text.vocabulary_size {text.vocabulary_size}: the tokenizer's begin, end or padding is "
                f"id {greatest_id}; give the tower the vocabulary of its tokenizer"
            )
        if self.preprocessing.size_px != size_px:
            raise ConfigError(
                f"preprocessing.size_px {self.preprocessing.size_px} contradicts "
                f"model.image.image_size_px {size_px}; make them equal"
            )


def read_card(path: Path) -> Card:
    """The card in a JSON file; no torch is used.

    Raises:
        WeightsError: missing, too large, not JSON, not a card, or it contradicts itself.
    """
    try:
        if path.stat().st_size > _MAX_CARD_BYTES:
            raise WeightsError(f"{path}: larger than {_MAX_CARD_BYTES} bytes, not a card; fetch the directory again")
        return decode(msgspec.json.decode(path.read_bytes()), Card, str(path))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: no such file; weights without their card cannot be understood: "
            f"put the {CARD_NAME} that was saved with them beside them"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the directory") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not JSON: {error}; fetch the directory again") from error
    except ConfigError as error:
        raise WeightsError(str(error)) from error


def read_tokenizer(directory: Path, card: Card) -> dict[str, bytes]:
    """The tokenizer's file that a card names, by its name; empty where it names none.

    Raises:
        WeightsError: missing, or too large.
    """
    name = card.tokenizer.file
    if not name:
        return {}
    try:
        if (directory / name).stat().st_size > _MAX_TOKENIZER_BYTES:
            raise WeightsError(f"{directory / name}: larger than {_MAX_TOKENIZER_BYTES} bytes, no tokenizer")
        return {name: (directory / name).read_bytes()}
    except OSError as error:
        raise WeightsError(f"{directory / name}: the card wants this tokenizer: {error.strerror or error}") from error
