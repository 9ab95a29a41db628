"""Checkpoints: the whole state of a run in one file, written atomically."""

import pickle
from pathlib import Path
from typing import Any

import msgspec
import torch

from wordsight.config import decode, differing_keys, plain
from wordsight.errors import ConfigError, OutputError, TrainingError
from wordsight.files import open_atomic
from wordsight.progress import phase
from wordsight.training.state import Change, RunIdentity, State

CHANGEABLE = (
    "checkpoint_every_steps",
    "max_broken_share",
    "optimizer.gradient_clip",
    "optimizer.learning_rate",
    "schedule.steps",
    "validation.every_steps",
    "validation.max_unreadable_share",
)
"""Keys of the recipe that may differ when a run is resumed; all others would make it another run."""

# raised by torch for a file that is truncated, was not written by torch, or contains code to execute, and by
# `State.restore` for parts of another model
_DAMAGED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    msgspec.ValidationError,
    pickle.UnpicklingError,
)


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


@phase("loading the checkpoint")
def load_checkpoint(path: Path, state: State) -> tuple[Change, ...]:
    """Restore a state from a checkpoint.

    Keys that are missing from the checkpoint's recipe have their default, so that a key that was added to recipes after
    the checkpoint was written does not count as a difference.

    Returns:
        The keys of `CHANGEABLE` whose values are new; those before are in `state.changes` too.

    Raises:
        TrainingError: the file is not a checkpoint that this version can read.
        ConfigError: it belongs to another recipe or other data; the message lists the keys that differ.
    """
    parts = _read(path)
    try:
        saved = decode(parts["identity"], RunIdentity, str(path))
    except ConfigError as error:
        raise TrainingError(f"{error}; another version of wordsight wrote this checkpoint; use that version") from error
    before, after = plain(saved), plain(state.identity)
    differing = [key.removeprefix("recipe.") for key in differing_keys(before, after)]
    if other := [key for key in differing if key not in CHANGEABLE]:
        raise ConfigError(
            f"{path.parent}: the run was started with another configuration; these differ: {', '.join(other)}; "
            f"use the original values, or another --out (only {', '.join(CHANGEABLE)} may change)"
        )
    try:
        state.restore(parts)
    except _DAMAGED as error:
        raise _unreadable(path) from error
    changes = tuple(
        Change(step=state.steps, key=key, before=_value(before["recipe"], key), after=_value(after["recipe"], key))
        for key in differing
    )
    state.changes += changes
    return changes


def saved_start(path: Path) -> str:
    """Return the fingerprint of the start model of a checkpoint; empty if it has none.

    Raises:
        TrainingError: the file is not a checkpoint.
    """
    identity = _read(path)["identity"]
    return str(identity.get("start", "")) if isinstance(identity, dict) else ""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise TrainingError(f"{path}: not a file; remove it to start again")
    try:
        parts: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        _ = parts["identity"]
    except OSError as error:  # the file itself may be intact
        raise TrainingError(
            f"{path}: cannot be read: {error.strerror or error}; check the disk and permissions"
        ) from error
    except _DAMAGED as error:
        if "allocate memory" in str(error):
            raise MemoryError(f"{path}: reading the checkpoint") from error
        raise _unreadable(path) from error
    return parts


def _unreadable(path: Path) -> TrainingError:
    return TrainingError(f"{path}: not a readable checkpoint; remove it to start again")


def _value(recipe: dict[str, Any], key: str) -> Any:
    """Return the value at a dotted key of plain data; None if there is none."""
    value: Any = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value
