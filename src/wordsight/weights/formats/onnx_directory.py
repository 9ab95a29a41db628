"""A directory that was exported to ONNX, as far as it can be read without torch: card, tokenizer, and the learnt scale."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from wordsight.config import Config, decode
from wordsight.errors import ConfigError, WeightsError
from wordsight.files import write_atomic
from wordsight.weights.card import CARD_NAME, Card, read_card, read_tokenizer

EXPORTED_NAME = "exported.json"
IMAGE_NAME = "image.onnx"
TEXT_NAME = "text.onnx"
MOST_INLINE_BYTES = 2_000_000_000
"""Protocol buffers end at 2 GiB; a graph with more has its weights in a file beside it."""

_MAX_BYTES = 1 << 20


class Exported(Config, frozen=True):
    """What a model knows beside its two graphs.

    Attributes:
        scale: what multiplies the cosine.
        bias: what is added to it.
        weights: SHA-256 of the weights from which the graphs were made, as a fingerprint has it.
        precision: of their products with weights.
    """

    scale: float
    bias: float
    weights: str
    precision: Literal["float32", "int8"] = "float32"


class ExportedDirectory(NamedTuple):
    """Everything but the graphs."""

    card: Card
    exported: Exported
    files: Mapping[str, bytes]


def is_exported(directory: Path) -> bool:
    """Whether a directory holds a model as `wordsight convert --to onnx` writes it."""
    return (directory / EXPORTED_NAME).is_file()


def read_exported(directory: Path) -> ExportedDirectory:
    """Read the card, the tokenizer's files and what stands beside the graphs.

    Raises:
        WeightsError: a file is missing or broken.
    """
    card = read_card(directory / CARD_NAME)
    for name in (IMAGE_NAME, TEXT_NAME):
        if not (directory / name).is_file():
            raise WeightsError(f"{directory / name}: no such file; export the model again")
    path = directory / EXPORTED_NAME
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise WeightsError(f"{path}: larger than {_MAX_BYTES} bytes; export the model again")
        exported = decode(msgspec.json.decode(path.read_bytes()), Exported, str(path))
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the directory") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not JSON: {error}; export the model again") from error
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    return ExportedDirectory(card, exported, read_tokenizer(directory, card))


def write_beside_graphs(directory: Path, card: Card, exported: Exported, files: Mapping[str, bytes]) -> None:
    """Write what `read_exported` reads."""
    for name, content in ((EXPORTED_NAME, exported), (CARD_NAME, card)):
        write_atomic(directory / name, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")
    for name, raw in files.items():
        write_atomic(directory / name, raw)


def cache_name(weights_hash: str, card: Card) -> str:
    """A name for a model's graphs, of all that decides what they answer."""
    return hashlib.sha256(
        msgspec.json.encode((weights_hash, card.model, card.preprocessing, card.tokenizer))
    ).hexdigest()
