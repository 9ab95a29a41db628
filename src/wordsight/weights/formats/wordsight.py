"""The format that wordsight writes: a directory with `model.safetensors` and its card, `wordsight.json`.

Such directories may come from untrusted sources: the size of the card is limited, the names, shapes and types of the
tensors are compared with those of the model that the card describes, and nothing in either file is executed.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import torch
from torch import Tensor

from wordsight.cache import require_sha256
from wordsight.config import decode
from wordsight.errors import ConfigError, OutputError, WeightsError
from wordsight.files import atomic_directory, sha256_file, write_atomic
from wordsight.image import Preprocessing
from wordsight.model import CLIP, ModelConfig, preset
from wordsight.progress import tracked
from wordsight.weights.card import CARD_NAME, Card, TokenizerConfig, read_card, read_tokenizer_file
from wordsight.weights.certificate import CERTIFICATE_NAME
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import as_one_precision, read_safetensors, write_safetensors
from wordsight.weights.formats.json_files import write_json
from wordsight.weights.formats.nesting import require_averaged
from wordsight.weights.formats.onnx_directory import EXPORTED_NAME
from wordsight.weights.formats.state_dict import read_state_dict, renamed, with_averaged

WEIGHTS_NAME = "model.safetensors"
RUN_CHECKPOINT_NAME = "checkpoint.pt"

_RUN_MODELS = ("last", "best")
_LEARNER_PREFIX = "clip."


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


def read_wordsight(
    directory: str | Path, weights: str | Path | None = None, averaged: bool | None = None
) -> Checkpoint:
    """Read tensors, card and tokenizer file of a directory.

    Tensors keep the precision of the file, unless it has several, which become float32.

    Args:
        directory: contains `wordsight.json`, `model.safetensors` and the tokenizer's file if the model has its own.
        weights: a weights file of the same architecture to read instead of the directory's.
        averaged: whether averaged (True) or plain weights (False) are required; the card says which ones it has.

    Raises:
        WeightsError: a file is missing or broken, or is not the one that the card describes; the card contradicts
            itself, or it does not have the required weights.
    """
    directory = Path(directory)
    card = read_card(directory / CARD_NAME)
    files = read_tokenizer_file(directory, card)
    if weights is not None and Path(weights).name != WEIGHTS_NAME:
        state_dict = read_state_dict(Path(weights), averaged)
        card = with_averaged(msgspec.structs.replace(card, weights_sha256="", training={}), state_dict.is_averaged)
        return Checkpoint(renamed(state_dict.tensors, str(weights)), card, files)
    if averaged is not None:
        _require_averaged(card, averaged, directory)
    tensors = _read_tensors(directory / WEIGHTS_NAME)
    require_sha256(directory / WEIGHTS_NAME, card.weights_sha256, "weights", WeightsError)
    return Checkpoint(tensors, card, files)


def is_run(value: Any) -> TypeGuard[dict[str, Any]]:
    """Whether the content of a file is that of a training run's `checkpoint.pt`."""
    return isinstance(value, dict) and all(isinstance(value.get(key), dict) for key in ("identity", "learner", "ema"))


def read_run(path: Path, value: Mapping[str, Any], averaged: bool | None) -> Checkpoint:
    """Read the model of a training run's `checkpoint.pt`.

    Args:
        path: the file; the card comes from the run's `last` or `best` model next to it, or else from the recipe.
        value: its content.
        averaged: True for the averaged (EMA) weights, False for the plain ones; by default those that the run
            evaluates and saves, which are averaged if its recipe has an `ema_decay`.

    Raises:
        WeightsError: the run has no averaged weights, or the checkpoint does not fit its card.
    """
    tensors = {
        name.removeprefix(_LEARNER_PREFIX): tensor
        for name, tensor in value["learner"].items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and name.startswith(_LEARNER_PREFIX)
    }
    ema = {name: tensor for name, tensor in value["ema"].items() if isinstance(tensor, Tensor)}
    if averaged and not ema:
        require_averaged(False, averaged, str(path))
    takes_ema = bool(ema) and averaged is not False
    directory = next((path.parent / name for name in _RUN_MODELS if (path.parent / name / CARD_NAME).exists()), None)
    card = read_card(directory / CARD_NAME) if directory else _card_of_recipe(value["identity"], path)
    card = msgspec.structs.replace(card, weights_sha256="", training={"averaged": takes_ema})
    files = read_tokenizer_file(directory or path.parent, card)
    return Checkpoint(tensors | ema if takes_ema else tensors, card, files)


def _card_of_recipe(identity: Mapping[str, Any], path: Path) -> Card:
    """The card of a new model that a recipe describes.

    Raises:
        WeightsError: the recipe does not describe the model, because training started from another one.
    """
    recipe = identity.get("recipe")
    if not isinstance(recipe, dict) or "model" not in recipe or identity.get("start"):
        raise WeightsError(
            f"{path}: describes its model only together with the run's directory; put it back next to "
            f"{' or '.join(_RUN_MODELS)}, or load one of these"
        )
    try:
        name = recipe["model"]
        model = preset(name) if isinstance(name, str) else decode(name, ModelConfig, "recipe.model")
        default = Preprocessing(size_px=model.image.image_size_px)
        images = recipe.get("preprocessing")
        return Card(
            name=path.parent.name or path.stem,
            model=model,
            preprocessing=decode(images, Preprocessing, "recipe.preprocessing") if images else default,
            tokenizer=TokenizerConfig(context_length=model.text.context_length),
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _require_averaged(card: Card, averaged: bool, directory: Path) -> None:
    """Refuse a model that has not the required weights; one that was not trained has plain weights."""
    checkpoint = directory.parent / RUN_CHECKPOINT_NAME
    advice = f"; {checkpoint} may have them" if checkpoint.exists() else ""
    is_averaged = card.training.get("averaged", None if card.training else False)
    if not isinstance(is_averaged, bool):
        raise WeightsError(
            f"{directory}: its card does not say whether its weights are averaged or plain; leave out "
            f"--averaged and --plain{advice}"
        )
    try:
        require_averaged(is_averaged, averaged, str(directory))
    except WeightsError as error:
        raise WeightsError(f"{error}{advice}") from error


def hash_weights(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256 in hexadecimal of the names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in tracked(sorted(state_dict), "hashing weights", "tensors"):
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


def _read_tensors(path: Path) -> Mapping[str, Tensor]:
    if (path.parent / EXPORTED_NAME).exists():
        raise WeightsError(
            f"{path.parent}: an export to ONNX, whose weights cannot be read back; use the model from which it was made"
        )
    if not path.exists() and not path.is_symlink():
        raise WeightsError(f"{path}: no such file; the card is there but its weights are missing: download them again")
    return as_one_precision(read_safetensors(path), str(path), lambda: None)
