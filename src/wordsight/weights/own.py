"""The format that wordsight writes: a folder with `model.safetensors` and its card, `wordsight.json`.

Folders come from strangers: the card is read first and bounded, the file's names, shapes and types are compared with
what the card describes, and nothing in either is executed.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from wordsight.config import decode
from wordsight.errors import ConfigError, OutputError, WeightsError
from wordsight.files import folder_whole, sha256_file, write_whole
from wordsight.model import CLIP, ModelConfig, build_empty
from wordsight.weights.card import Card

WEIGHTS_NAME = "model.safetensors"
CARD_NAME = "wordsight.json"

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_MAX_CARD_BYTES = 1 << 24
_MAX_COUNT = 1 << 24
_NAMES_IN_ERROR = 5


def save_folder(folder: str | Path, state_dict: Mapping[str, Tensor], card: Card) -> Card:
    """Write weights and their card as a folder that appears whole; a former model folder of that name is replaced.

    Args:
        state_dict: of the model that `card.model` describes; not changed.
        card: its `weights_sha256` is replaced by the hash of the file.

    Returns:
        The card as written.

    Raises:
        OutputError: the place cannot be written, or holds files that are not a model's.
    """
    folder = Path(folder)
    _refuse_to_replace(folder)
    tensors = {name: tensor.detach().contiguous() for name, tensor in state_dict.items()}
    with folder_whole(folder.absolute()) as temporary:
        weights = temporary / WEIGHTS_NAME
        try:
            save_file(tensors, weights)
        except SafetensorError as error:  # how the library tells a full disk
            raise OutputError(f"{folder}: cannot be written: {error}; choose another place or make room") from error
        _sync(weights)
        written = msgspec.structs.replace(card, weights_sha256=sha256_file(weights))
        write_whole(temporary / CARD_NAME, msgspec.json.format(msgspec.json.encode(written), indent=2) + b"\n")
    return written


def is_model_folder(folder: Path) -> bool:
    """Whether a folder holds what `save_folder` writes, or a part of it."""
    return (folder / WEIGHTS_NAME).exists() or (folder / CARD_NAME).exists()


def load_folder(folder: str | Path) -> tuple[CLIP, Card]:
    """Read a model and its card, on the CPU, in the precision of the file.

    Raises:
        WeightsError: a file is missing or broken, or weights and card contradict each other.
    """
    folder = Path(folder)
    card = read_card(folder / CARD_NAME)
    weights = folder / WEIGHTS_NAME
    tensors = _read_tensors(weights)
    _check_counts(weights, card.model, len(tensors))
    model = build_empty(card.model)
    _compare(weights, tensors, model.state_dict())
    model.load_state_dict(tensors, assign=True)
    return model.eval(), card


def read_card(path: Path) -> Card:
    """The card in a JSON file; no torch is used.

    Raises:
        WeightsError: missing, too large, not JSON, not a card, or it contradicts itself.
    """
    try:
        if path.stat().st_size > _MAX_CARD_BYTES:
            raise WeightsError(f"{path}: larger than {_MAX_CARD_BYTES} bytes, not a card; fetch the folder again")
        return decode(msgspec.json.decode(path.read_bytes()), Card, str(path))
    except FileNotFoundError as error:
        raise WeightsError(
            f"{path}: no such file; weights without their card cannot be understood: "
            f"put the {CARD_NAME} that was saved with them beside them"
        ) from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the folder") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not JSON: {error}; fetch the folder again") from error
    except ConfigError as error:
        raise WeightsError(str(error)) from error


def _refuse_to_replace(folder: Path) -> None:
    """Saving replaces a whole folder, so only a former model may be there."""
    if not folder.is_dir():
        return
    strange = sorted({path.name for path in folder.iterdir()} - {WEIGHTS_NAME, CARD_NAME})
    if strange:
        raise OutputError(f"{folder}: holds other files ({strange[0]}); choose a new folder for the model")


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; the card is there but not the weights: fetch them again") from error
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise WeightsError(f"{path}: not a whole safetensors file: {reason}; fetch or save it again") from error


def _check_counts(path: Path, config: ModelConfig, num_tensors: int) -> None:
    """Refuse a card that would keep us building: absurd widths, or more layers than the file has tensors."""
    counts = list(_counts(msgspec.to_builtins(config)))
    for key, count in counts:
        if count > _MAX_COUNT:
            raise WeightsError(f"{path}: the card says {key} {count}, more than any model has; fetch both again")
    num_layers = sum(count for key, count in counts if key in ("layers", "blocks"))
    if num_layers > num_tensors:
        raise WeightsError(f"{path}: {num_tensors} tensors cannot be the card's {num_layers} layers; fetch both again")


def _counts(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """The whole numbers in plain data, each with the key under which it lies."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _counts(inner, name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _counts(inner, key)
    elif isinstance(value, int):
        yield key, value


def _compare(path: Path, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse names, shapes or types other than those of the model that the card describes."""
    differences = {"missing": expected.keys() - found.keys(), "unexpected": found.keys() - expected.keys()}
    wrong = [f"{label} {_first(names)}" for label, names in differences.items() if names]
    if wrong:
        raise WeightsError(f"{path}: not the model of its card: {'; '.join(wrong)}; fetch both again")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {name} is {tuple(found[name].shape)}, the card says {tuple(tensor.shape)}; fetch both again"
            )
    floats = {found[name].dtype for name, tensor in expected.items() if tensor.is_floating_point()}
    others = [name for name, tensor in expected.items() if not tensor.is_floating_point()]
    if len(floats) != 1 or not floats <= set(_FLOATS):
        kinds = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in floats))
        raise WeightsError(f"{path}: the weights are {kinds}; expected one of float32, float16, bfloat16 throughout")
    for name in others:
        if found[name].dtype != expected[name].dtype:
            raise WeightsError(f"{path}: {name} is {found[name].dtype}, expected {expected[name].dtype}; save it again")


def _first(names: set[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMES_IN_ERROR])
    more = f", ... ({len(names)} in all)" if len(names) > _NAMES_IN_ERROR else ""
    return shown + more
