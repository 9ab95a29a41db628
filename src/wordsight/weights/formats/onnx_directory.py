"""A directory of ONNX graphs, as far as it can be read without torch: card, tokenizer, and the learnt logit scale."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from wordsight.cache import require_sha256
from wordsight.config import Config, decode
from wordsight.errors import ConfigError, WeightsError
from wordsight.files import read_json, sha256_file, write_atomic
from wordsight.weights.card import CARD_NAME, Card, read_card, read_tokenizer_file
from wordsight.weights.formats.json_files import write_json

EXPORTED_NAME = "exported.json"
IMAGE_NAME = "image.onnx"
TEXT_NAME = "text.onnx"
MAX_INLINE_BYTES = 2_000_000_000
"""Protocol buffers are limited to 2 GiB; a graph with more weights than this has them in a separate file."""

_MAX_BYTES = 1 << 20


class Exported(Config, frozen=True):
    """The parts of a model that its two graphs do not contain.

    Attributes:
        scale: factor by which the cosine similarity is multiplied (the exponential of the learnt logit scale).
        bias: learnt bias that is added afterwards; 0 if the model has none.
        weights: SHA-256 of the weights from which the graphs were made, as in the fingerprint of an encoder.
        precision: precision of the matrix products with weights.
        files: SHA-256 of each graph, and of its file of weights if it has one; empty in directories of versions that
            did not write it.
    """

    scale: float
    bias: float
    weights: str
    precision: Literal["float32", "int8"] = "float32"
    files: dict[str, str] = msgspec.field(default_factory=dict)


class ExportedDirectory(NamedTuple):
    """The contents of an ONNX directory, except for its graphs.

    Attributes:
        card: describes the model.
        exported: logit scale and bias, hash of the weights, precision.
        files: bytes of the tokenizer's file under its name.
    """

    card: Card
    exported: Exported
    files: Mapping[str, bytes]


def is_exported(directory: Path) -> bool:
    """Whether a directory contains a model as `wordsight convert --to onnx` writes it."""
    return os.path.isfile(directory / EXPORTED_NAME)  # noqa: PTH113 pathlib raises errors for some names


def read_exported(directory: Path) -> ExportedDirectory:
    """Read the files of an ONNX directory, except for its graphs, of which only the hashes are compared.

    Raises:
        WeightsError: a file is missing or broken, or a graph is not the one that was exported.
    """
    card = read_card(directory / CARD_NAME)
    for name in (IMAGE_NAME, TEXT_NAME):
        if not (directory / name).is_file():
            raise WeightsError(f"{directory / name}: no such file; export the model again")
    path = directory / EXPORTED_NAME
    try:
        exported = decode(read_json(path, _MAX_BYTES, WeightsError), Exported, str(path))
    except WeightsError as error:
        raise WeightsError(f"{error}; export the model again") from error
    except ConfigError as error:
        raise WeightsError(str(error)) from error
    for name, sha256 in exported.files.items():
        if name not in _graph_files(directory):
            raise WeightsError(f"{path}: names the file {name!r}, which is not there; export the model again")
        require_sha256(directory / name, sha256, "weights", WeightsError)
    return ExportedDirectory(card, exported, read_tokenizer_file(directory, card))


def is_intact(directory: Path) -> bool:
    """Whether a directory in the cache contains the files that were exported into it."""
    try:
        return bool(read_exported(directory).exported.files)
    except WeightsError:
        return False


def _graph_files(directory: Path) -> list[str]:
    graphs = (IMAGE_NAME, TEXT_NAME)
    return sorted(path.name for path in directory.iterdir() if path.name.removesuffix(".data") in graphs)


def write_beside_graphs(directory: Path, card: Card, exported: Exported, files: Mapping[str, bytes]) -> None:
    """Write everything that `read_exported` reads, with the hashes of the graphs.

    Raises:
        OutputError: a file cannot be written.
    """
    hashes = {name: sha256_file(directory / name) for name in _graph_files(directory)}
    write_json(directory / EXPORTED_NAME, msgspec.structs.replace(exported, files=hashes))
    write_json(directory / CARD_NAME, card)
    for name, content in files.items():
        write_atomic(directory / name, content)


def cache_name(weights_hash: str, card: Card) -> str:
    """A directory name for a model's graphs: a hash of everything that determines its embeddings."""
    return hashlib.sha256(
        msgspec.json.encode((weights_hash, card.model, card.preprocessing, card.tokenizer))
    ).hexdigest()
