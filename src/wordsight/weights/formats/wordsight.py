"""The format that wordsight writes: a directory with `model.safetensors` and its card, `wordsight.json`.

Directories come from strangers: the card is read first and bounded, the file's names, shapes and types are compared with
what the card describes, and nothing in either is executed.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from wordsight.errors import OutputError, WeightsError
from wordsight.files import atomic_directory, sha256_file, write_atomic
from wordsight.weights.card import CARD_NAME, Card, read_card, read_tokenizer
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import read_safetensors

WEIGHTS_NAME = "model.safetensors"
CERTIFICATE_NAME = "certificate.json"


def save_directory(
    directory: str | Path, state_dict: Mapping[str, Tensor], card: Card, files: Mapping[str, bytes] | None = None
) -> Card:
    """Write weights and their card as a directory that appears whole; a former model directory of that name is replaced.

    Args:
        state_dict: of the model that `card.model` describes; not changed.
        card: its `weights_sha256` is replaced by the hash of the file.
        files: the tokenizer's, by name, where it is not the published one.

    Returns:
        The card as written.

    Raises:
        OutputError: the place cannot be written, or holds files that are not a model's.
    """
    directory = Path(directory)
    _refuse_to_replace(directory)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state_dict.items()}
    with atomic_directory(directory.absolute()) as temporary:
        weights = temporary / WEIGHTS_NAME
        try:
            save_file(tensors, weights)
        except SafetensorError as error:  # how the library tells a full disk
            raise OutputError(f"{directory}: cannot be written: {error}; choose another place or make room") from error
        _sync(weights)
        written = msgspec.structs.replace(card, weights_sha256=sha256_file(weights))
        write_atomic(temporary / CARD_NAME, msgspec.json.format(msgspec.json.encode(written), indent=2) + b"\n")
        for name, content in (files or {}).items():
            write_atomic(temporary / name, content)
    return written


def read_wordsight(directory: str | Path) -> Checkpoint:
    """Read tensors, card and the tokenizer's file, in the precision of the file.

    Raises:
        WeightsError: a file is missing or broken, or the card contradicts itself.
    """
    directory = Path(directory)
    card = read_card(directory / CARD_NAME)
    return Checkpoint(_read_tensors(directory / WEIGHTS_NAME), card, read_tokenizer(directory, card))


def hash_weights(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256, hexadecimal, of the names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse_to_replace(directory: Path) -> None:
    """Saving replaces a whole directory, so only a former model may be there."""
    if not directory.is_dir():
        return
    ours = {WEIGHTS_NAME, CARD_NAME, CERTIFICATE_NAME}
    with suppress(WeightsError):
        ours.add(read_card(directory / CARD_NAME).tokenizer.file)
    strange = sorted({path.name for path in directory.iterdir()} - ours)
    if strange:
        raise OutputError(f"{directory}: holds other files ({strange[0]}); choose a new directory for the model")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise WeightsError(f"{path}: no such file; the card is there but not the weights: fetch them again")
    return read_safetensors(path)
