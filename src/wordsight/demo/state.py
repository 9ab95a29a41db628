"""What a tour's directory says about itself, in `demo.json`: with which recipe it was begun, and how it ended."""

from pathlib import Path
from typing import Any, Literal

import msgspec

from wordsight.config import Config, decode, differing_keys, plain
from wordsight.errors import ConfigError, OutputError
from wordsight.files import write_atomic
from wordsight.metrics import Score
from wordsight.training import Recipe

_NAME = "demo.json"
_LOCK_NAME = ".lock"


class Side(Config, frozen=True):
    """One side of the split: images, and the different things that they show."""

    images: int
    concepts: int


class Summary(Config, frozen=True):
    """How a tour ended.

    Attributes:
        steps: of the training.
        training_seconds: without validation and pauses.
        training, held_out: what it learned from, and what it was asked about.
        figures: recall at 1, 5 and 10 from image to name and from name to image; then the kinds.
        weights: fingerprint of the model.
    """

    steps: int
    training_seconds: float
    training: Side
    held_out: Side
    figures: tuple[Score, ...]
    weights: str


class State(Config, frozen=True):
    """A tour: its recipe as plain data, and its summary once it is finished."""

    recipe: dict[str, Any]
    summary: Summary | None = None
    format: Literal["wordsight-demo-1"] = "wordsight-demo-1"


def read_state(out: Path, recipe: Recipe) -> State:
    """What an earlier call left in the directory, or a new state.

    Raises:
        OutputError: the directory holds something that is no tour.
        ConfigError: it holds a tour with another recipe.
    """
    identity = plain(recipe)
    identity.pop("about")
    path = out / _NAME
    try:
        state = decode(msgspec.json.decode(path.read_bytes()), State, str(path))
    except (FileNotFoundError, NotADirectoryError):
        _refuse_foreign(out)
        return State(recipe=identity)
    except OSError as error:
        raise OutputError(f"{path}: cannot be read: {error.strerror}; choose another directory with --out") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ConfigError) as error:
        raise OutputError(f"{path}: not of a tour; choose an empty directory with --out") from error
    if not (fields := differing_keys(state.recipe, identity)):
        return state
    schedule = state.recipe.get("schedule")
    steps = schedule.get("steps") if isinstance(schedule, dict) else None
    if isinstance(steps, int) and steps != recipe.schedule.steps:
        raise ConfigError(f"{out}: holds a tour of {steps} steps; go on with --steps {steps}, or choose another --out")
    raise ConfigError(f"{out}: holds a tour with other settings ({', '.join(fields)}); choose another --out")


def write_state(out: Path, state: State) -> None:
    """Write the state whole.

    Raises:
        OutputError: it cannot be written.
    """
    write_atomic(out / _NAME, msgspec.json.encode(state))


def _refuse_foreign(out: Path) -> None:
    try:
        others = sorted({path.name for path in out.iterdir()} - {_LOCK_NAME})
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{out}: cannot be used: {error.strerror}; choose another directory with --out") from error
    if others:
        raise OutputError(f"{out}: holds {others[0]!r}, which is not of a tour; choose an empty directory with --out")
