"""`demo.json`, the state of a demo directory: the recipe it was started with, and its results once it is finished."""

import re
from pathlib import Path
from typing import Literal

import msgspec

from wordsight.config import Config, decode, differing_keys, plain
from wordsight.errors import ConfigError, OutputError
from wordsight.files import write_atomic
from wordsight.metrics import Score
from wordsight.training import Recipe

_NAME = "demo.json"
_LOCK_NAME = ".lock"
_LEFT_BY_A_KILL = re.compile(re.escape(f".{_NAME}.") + r"[a-z0-9_]{8}\.partial")  # deleted by the next write


class SplitSize(Config, frozen=True):
    """The size of one part of the data.

    Attributes:
        images: number of images.
        concepts: number of different concepts that they show.
    """

    images: int
    concepts: int


class Summary(Config, frozen=True):
    """The results of a demo.

    Attributes:
        steps: number of training steps.
        training_seconds: duration of the training, without validation and interruptions.
        training: size of the training data.
        held_out: size of the held-out data.
        scores: recall@1, @5 and @10 from images to names, the same from names to images, and the accuracy of
            classification into kinds; all on the held-out images.
        weights: fingerprint of the model.
    """

    steps: int
    training_seconds: float
    training: SplitSize
    held_out: SplitSize
    scores: tuple[Score, ...]
    weights: str


class DemoState(Config, frozen=True):
    """The content of `demo.json`.

    Attributes:
        recipe: of the training, without `about`.
        summary: the results; None until the demo is finished.
        format: identifies the file.
    """

    recipe: Recipe
    summary: Summary | None = None
    format: Literal["wordsight-demo-1"] = "wordsight-demo-1"


def read_state(out: Path, recipe: Recipe) -> DemoState:
    """Return the state that an earlier call left in the directory, or a new state.

    Raises:
        OutputError: the directory contains something that is not a demo.
        ConfigError: it contains a demo with another recipe.
    """
    path = out / _NAME
    if path.exists() and not path.is_file():
        raise OutputError(f"{path}: is not a file; choose another directory with --out")
    try:
        state = decode(msgspec.json.decode(path.read_bytes()), DemoState, str(path))
    except (FileNotFoundError, NotADirectoryError):
        _check_no_other_files(out)
        return DemoState(recipe=recipe.without_about())
    except OSError as error:
        raise OutputError(f"{path}: not readable: {error.strerror}; choose another directory with --out") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ConfigError) as error:
        raise OutputError(
            f"{path}: not the state of a demo of this version; choose an empty directory with --out"
        ) from error
    keys = differing_keys(plain(state.recipe), plain(recipe.without_about()))
    if not keys:
        return state
    steps = state.recipe.schedule.steps
    if steps != recipe.schedule.steps:
        raise ConfigError(
            f"{out}: contains a demo of {steps} steps; continue it with --steps {steps}, or choose another --out"
        )
    raise ConfigError(f"{out}: contains a demo with other settings ({', '.join(keys)}); choose another --out")


def write_state(out: Path, state: DemoState) -> None:
    """Write `demo.json` atomically.

    Raises:
        OutputError: the file is not writable.
    """
    write_atomic(out / _NAME, msgspec.json.encode(state))


def _check_no_other_files(out: Path) -> None:
    try:
        names = {path.name for path in out.iterdir()} - {_LOCK_NAME}
        others = sorted(name for name in names if not _LEFT_BY_A_KILL.fullmatch(name))
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"{out}: not usable: {error.strerror}; choose another directory with --out") from error
    if others:
        raise OutputError(
            f"{out}: contains {others[0]!r}, which is not part of a demo; choose an empty directory with --out"
        )
