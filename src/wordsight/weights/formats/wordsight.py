"""The format that wordsight writes: a directory with `model.safetensors` and its card, `wordsight.json`.

Such directories may come from untrusted sources: the size of the card is limited, the names, shapes and types of the
tensors are compared with those of the model that the card describes, and nothing in either file is executed.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from wordsight.cache import require_sha256
from wordsight.errors import OutputError, WeightsError
from wordsight.files import atomic_directory, sha256_file, write_atomic
from wordsight.model import CLIP
from wordsight.weights.card import CARD_NAME, Card, read_card, read_tokenizer_file
from wordsight.weights.certificate import CERTIFICATE_NAME
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import read_safetensors, write_safetensors
from wordsight.weights.formats.json_files import write_json

WEIGHTS_NAME = "model.safetensors"


def save_directory(
    directory: str | Path, state_dict: Mapping[str, Tensor], card: Card, files: Mapping[str, bytes] | None = None
) -> Card:
    """Write weights and their card as a directory, atomically; an earlier model in that directory is replaced.

    Args:
        directory: the output directory.
        state_dict: state dict of the model that `card.model` describes; not modified.
        card: its `weights_sha256` is replaced by the hash of the written file.
        files: the tokenizer's file under its name, unless it is the published CLIP tokenizer.

    Returns:
        The card as written.

    Raises:
        OutputError: the directory is not writable, or contains files that do not belong to a model.
    """
    directory = Path(directory)
    _refuse_to_replace(directory)
    with atomic_directory(directory.absolute()) as temporary:
        try:
            return _write(temporary, state_dict, card, files or {})
        except OutputError as error:
            raise OutputError(f"{directory}: {error}") from error


def write_wordsight(checkpoint: Checkpoint, model: CLIP, directory: Path) -> None:
    """Write a model into an existing directory in this format; `save_directory` creates one."""
    _write(directory, model.state_dict(), checkpoint.card, checkpoint.files)


def _write(directory: Path, state_dict: Mapping[str, Tensor], card: Card, files: Mapping[str, bytes]) -> Card:
    tensors = {name: tensor.detach().contiguous() for name, tensor in state_dict.items()}
    weights = directory / WEIGHTS_NAME
    write_safetensors(weights, tensors)
    _sync(weights)
    written = msgspec.structs.replace(card, weights_sha256=sha256_file(weights))
    write_json(directory / CARD_NAME, written)
    for name, content in files.items():
        write_atomic(directory / name, content)
    return written


def read_wordsight(directory: str | Path) -> Checkpoint:
    """Read tensors, card and tokenizer file of a directory; tensors keep the precision of the file.

    Raises:
        WeightsError: a file is missing or broken, or is not the one that the card describes; or the card contradicts
            itself.
    """
    directory = Path(directory)
    card = read_card(directory / CARD_NAME)
    tensors = _read_tensors(directory / WEIGHTS_NAME)
    require_sha256(directory / WEIGHTS_NAME, card.weights_sha256, "weights", WeightsError)
    return Checkpoint(tensors, card, read_tokenizer_file(directory, card))


def hash_weights(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal of the names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _refuse_to_replace(directory: Path) -> None:
    """Refuse a directory that contains anything other than an earlier model, because saving replaces all of it."""
    if not directory.is_dir():
        return
    replaceable = {WEIGHTS_NAME, CARD_NAME, CERTIFICATE_NAME}
    with suppress(WeightsError):
        replaceable.add(read_card(directory / CARD_NAME).tokenizer.file)
    other = sorted({path.name for path in directory.iterdir()} - replaceable)
    if other:
        raise OutputError(f"{directory}: contains other files ({other[0]}); choose a new directory for the model")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise WeightsError(f"{path}: no such file; the card is there but its weights are missing: download them again")
    return read_safetensors(path)
