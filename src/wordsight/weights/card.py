"""The card of a checkpoint: everything about it that must be consistent, in one frozen object.

If architecture and preprocessing were stored separately and joined by a name, they could contradict each other. Here a
contradiction is refused when the card is created. Reading a card does not load torch.
"""

from pathlib import Path
from typing import Any, Literal

import msgspec

from wordsight.config import Config, decode
from wordsight.errors import ConfigError, WeightsError
from wordsight.files import read_json, read_limited
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig
from wordsight.text import TokenizerConfig
from wordsight.text.untrusted import MAX_FILE_BYTES
from wordsight.weights.mistaken import mistaken_for_text

__all__ = ["CARD_NAME", "CLIP_VOCABULARY_SIZE", "Card", "TokenizerConfig", "read_card", "read_tokenizer_file"]

CARD_NAME = "wordsight.json"
CLIP_VOCABULARY_SIZE = 49408
"""Number of ids of the published CLIP tokenizer."""

MAX_TOKENIZER_BYTES = MAX_FILE_BYTES

MAX_CARD_BYTES = 1 << 24
"""Upper limit of a card; a published one has 4 kB, and the scores of a training run may follow."""


MAX_CARD_DEPTH = 50
"""Upper limit of the nesting of a card; `training`, which may contain anything, needs 5."""


class Card(Config, frozen=True):
    """Describes a checkpoint.

    Attributes:
        name: human-readable name of the model.
        model: architecture, including the activation.
        preprocessing: how an image becomes the input of the image tower.
        tokenizer: how a text becomes the input of the text tower.
        source: where the weights come from: a URL, `hf-hub:owner/name` or a sentence.
        licence: licence of the weights.
        weights_sha256: SHA-256 of the weights file in lower-case hexadecimal; empty until that file is written.
        training: how the weights were trained, as plain data: recipe, data fingerprints, steps, seed, scores with
            confidence intervals; empty if unknown.
        format: version of this card's format.

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
        if self.tokenizer.family == "clip" and text.vocabulary_size < CLIP_VOCABULARY_SIZE:
            raise ConfigError(
                f"model.text.vocabulary_size {text.vocabulary_size}: "
                f"the clip tokenizer has {CLIP_VOCABULARY_SIZE} ids; make the vocabulary at least this large"
            )
        max_id = max([self.tokenizer.pad_id, *self.tokenizer.special_ids])
        if max_id >= text.vocabulary_size:
            raise ConfigError(
                f"model.text.vocabulary_size {text.vocabulary_size}: one of the tokenizer's begin, end and padding "
                f"ids is {max_id}; the model needs the vocabulary of its tokenizer"
            )
        if self.preprocessing.size_px != size_px:
            raise ConfigError(
                f"preprocessing.size_px {self.preprocessing.size_px} contradicts "
                f"model.image.image_size_px {size_px}; make them equal"
            )


def read_card(path: Path) -> Card:
    """Read the card in a JSON file.

    Raises:
        WeightsError: the file is missing, too large, not JSON or not a card, or the card contradicts itself.
    """
    try:
        content = read_json(path, MAX_CARD_BYTES, WeightsError)
        if _depth(content) > MAX_CARD_DEPTH:
            raise WeightsError(f"{path}: nested in more than {MAX_CARD_DEPTH} levels")
        return decode(content, Card, str(path))
    except WeightsError as error:
        if reason := mistaken_for_text(path):
            raise WeightsError(f"{path}: {reason}") from error
        raise WeightsError(
            f"{error}; a model needs the {CARD_NAME} that was saved with its weights: put it next to them"
        ) from error
    except ConfigError as error:
        raise WeightsError(str(error)) from error


def _depth(value: Any) -> int:
    """The number of nested lists and dictionaries in plain data, counted up to the limit."""
    level, depth = [value], 0
    while depth <= MAX_CARD_DEPTH and (level := [each for each in level if isinstance(each, list | dict)]):
        level = [inner for each in level for inner in (each.values() if isinstance(each, dict) else each)]
        depth += 1
    return depth


def read_tokenizer_file(directory: Path, card: Card) -> dict[str, bytes]:
    """Read the tokenizer file that a card names.

    Returns:
        The file's bytes under its name; empty if the card names no file.

    Raises:
        WeightsError: the file is missing or too large.
    """
    name = card.tokenizer.file
    if not name:
        return {}
    try:
        return {name: read_limited(directory / name, MAX_TOKENIZER_BYTES, WeightsError)}
    except WeightsError as error:
        raise WeightsError(f"{error}; the card names this tokenizer file: put it next to the card") from error
