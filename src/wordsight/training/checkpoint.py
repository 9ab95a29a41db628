"""Checkpoints: the whole state of a run in one file that appears whole."""

import pickle
from pathlib import Path

import torch

from wordsight.config import differing_keys
from wordsight.errors import ConfigError, TrainingError
from wordsight.files import open_atomic
from wordsight.training.state import State

# what torch raises for a file that is cut short, is none of its own, or would have to run code
_DAMAGED = (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


def save_checkpoint(path: Path, state: State) -> None:
    """Write a state as a whole file; the former one stays until the new one is complete.

    Raises:
        OutputError: the place cannot be written, or the disk is full.
    """
    with open_atomic(path) as file:
        torch.save(state.parts(), file)


def load_checkpoint(path: Path, state: State) -> None:
    """Bring a state to where a checkpoint was.

    Raises:
        TrainingError: the file is not a checkpoint of this program.
        ConfigError: it belongs to another recipe or other data; the fields that differ are named.
    """
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
        found = parts["identity"]
    except _DAMAGED as error:
        raise TrainingError(f"{path}: not a checkpoint that can be read; remove it to start again") from error
    fields = differing_keys(found, state.identity)
    if fields:
        raise ConfigError(
            f"{path.parent}: the run was started with another configuration; these differ: {', '.join(fields)}; "
            "use the former values, or another --out"
        )
    state.take(parts)
