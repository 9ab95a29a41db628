"""Checkpoints: the whole state of a run in one file, written atomically."""

import pickle
from pathlib import Path

import torch

from wordsight.config import decode, differing_keys, plain
from wordsight.errors import ConfigError, OutputError, TrainingError
from wordsight.files import open_atomic
from wordsight.training.state import RunIdentity, State

# raised by torch for a file that is truncated, was not written by torch, or contains code to execute
_DAMAGED = (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


def save_checkpoint(path: Path, state: State) -> None:
    """Write a state to a file; the previous file remains until the new one is complete.

    Raises:
        OutputError: the path is not writable, or the disk is full.
    """
    try:
        with open_atomic(path) as file:
            torch.save(state.parts(), file)
    except RuntimeError as error:  # torch raises it instead of the OSError of a failed write
        raise OutputError(
            f"{path}: cannot be written: {_reason(error)}; free some space, and continue with --resume"
        ) from error


def _reason(error: BaseException) -> str:
    """The message of the OSError that caused an error, or else its own, on one line."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return (cause.strerror if isinstance(cause, OSError) else None) or str(error).partition("\n")[0]


def load_checkpoint(path: Path, state: State) -> None:
    """Restore a state from a checkpoint.

    Keys that are missing from the checkpoint's recipe have their default, so that a key that was added to recipes after
    the checkpoint was written does not count as a difference.

    Raises:
        TrainingError: the file is not a checkpoint that this version can read.
        ConfigError: it belongs to another recipe or other data; the message lists the keys that differ.
    """
    try:
        parts = torch.load(path, map_location="cpu", weights_only=True)
        identity = parts["identity"]
    except _DAMAGED as error:
        raise TrainingError(f"{path}: not a readable checkpoint; remove it to start again") from error
    try:
        saved = decode(identity, RunIdentity, str(path))
    except ConfigError as error:
        raise TrainingError(f"{error}; another version of wordsight wrote this checkpoint; use that version") from error
    if keys := differing_keys(plain(saved), plain(state.identity)):
        names = ", ".join(key.removeprefix("recipe.") for key in keys)
        raise ConfigError(
            f"{path.parent}: the run was started with another configuration; these differ: {names}; "
            "use the original values, or another --out"
        )
    state.restore(parts)
