"""Read training runs to compare them: what differs, how far each one is, and its scores; this does not load torch.

A run directory is read as data, while it is being written too: `recipe.toml`, `metrics.jsonl` and the card of `best/`.
A damaged run is described as far as it can be read, with the reason, so that it does not hide the others. Memory does
not grow with the length of a run: of the points of a curve, at most `_MAX_POINTS` are kept.
"""

import contextlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from wordsight.config import plain
from wordsight.errors import ConfigError, DataError, WordsightError, nearest
from wordsight.files import read_json
from wordsight.locks import is_locked
from wordsight.metrics import Score
from wordsight.training.recipe import Recipe, load_recipe
from wordsight.training.rows import iter_rows
from wordsight.training.selection import selection_value
from wordsight.weights.card import MAX_CARD_BYTES

MAX_DEPTH = 4
"""Levels of directories below a given one in which runs are searched."""

_MAX_POINTS = 1000
_FILES = ("metrics.jsonl", "checkpoint.pt")

State = Literal["finished", "running", "interrupted", "damaged"]


class Point(NamedTuple):
    """A point of a curve; a loss has no interval.

    Attributes:
        step: number of steps taken.
        seconds: duration of the run up to this step.
        value: the loss, learning rate or score.
        low, high: the interval of a score.
    """

    step: int
    seconds: float
    value: float
    low: float | None = None
    high: float | None = None


@dataclass
class Points:
    """The points of a curve in the order of the file; the longer it is, the larger the share that is left out."""

    _kept: list[Point] = field(default_factory=list)
    _stride: int = 1
    _count: int = 0
    _last: Point | None = None

    def add(self, point: Point) -> None:
        """Add a point."""
        if self._count % self._stride == 0:
            self._kept.append(point)
            if len(self._kept) >= 2 * _MAX_POINTS:
                del self._kept[1::2]
                self._stride *= 2
        self._count += 1
        self._last = point

    def __iter__(self) -> Iterator[Point]:
        """Iterate over the points that were kept, the last one included."""
        yield from self._kept
        if self._last is not None and self._last != self._kept[-1]:
            yield self._last


@dataclass(frozen=True)
class RunSummary:
    """What can be read of a run.

    Attributes:
        directory: the run directory.
        state: `running` if a process holds the run's lock, `damaged` if a file could not be read.
        steps: the last step in the log.
        total_steps: length of the run; 0 if it is unknown.
        seconds: duration up to the last row, without the time between an interruption and its continuation; for runs
            whose rows have no `elapsed_s`, the time of the logged steps alone. None if nothing was logged.
        metric: the recipe's selection metric; None if the last model is the best.
        best_step: the step of the best model; None before the first validation.
        best_value: value of the selection metric at that step.
        scores: at that step.
        recipe: plain data with all defaults, without `about`; empty if it cannot be read.
        training_data: fingerprint of the training data; empty before the first model.
        validation_data: hash of each validation set; empty for runs of older versions.
        reason: what is damaged; empty if nothing is.
        losses, learning_rates: curves.
        score_curves: (dataset, metric) -> curve.
    """

    directory: Path
    state: State
    steps: int
    total_steps: int
    seconds: float | None
    metric: str | None
    best_step: int | None
    best_value: float | None
    scores: tuple[Score, ...]
    recipe: Mapping[str, Any]
    training_data: str
    validation_data: Mapping[str, str]
    reason: str
    losses: Points
    learning_rates: Points
    score_curves: Mapping[tuple[str, str], Points]


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the runs among directories and below them, each once, in the order of the paths and of their names.

    Raises:
        ConfigError: a path is not a directory, or no run is in it.
    """
    runs: dict[Path, None] = {}
    for path in paths:
        if not path.is_dir():
            siblings = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
            raise ConfigError(f"{path}: no such directory{nearest(path.name, siblings)}")
        below = list(_walk(path, MAX_DEPTH))
        if not below:
            raise ConfigError(
                f"{path}: no training runs in it or up to {MAX_DEPTH} levels below; a run is the directory given to "
                "'wordsight train --out'"
            )
        runs |= dict.fromkeys(below)
    return list(runs)


def _walk(directory: Path, depth: int) -> Iterator[Path]:
    if _is_run(directory):
        yield directory
        return
    if depth == 0:
        return
    try:
        with os.scandir(directory) as entries:
            names = sorted(each.name for each in entries if each.is_dir() and not each.name.startswith("."))
    except OSError:  # no permission: nothing to list
        return
    for name in names:
        yield from _walk(directory / name, depth - 1)


def _is_run(directory: Path) -> bool:
    """Whether training wrote this directory; a recipe alone may be the user's own."""
    return any((directory / name).is_file() for name in _FILES) or (
        (directory / "recipe.toml").is_file() and (directory / ".lock").exists()
    )


def read_run(directory: Path) -> RunSummary:
    """Describe a run; damaged files are reported in its `reason`."""
    reasons: list[str] = []
    recipe = None
    try:
        recipe = load_recipe(directory / "recipe.toml")
    except ConfigError as error:
        reasons.append(str(error).removeprefix(f"{directory}{os.sep}"))
    log = _Log(recipe)
    path = directory / "metrics.jsonl"
    try:
        if path.exists():
            for row in iter_rows(path, reasons):
                log.add(row)
    except (WordsightError, msgspec.ValidationError) as error:
        reasons.append(f"metrics.jsonl: {str(error).removeprefix(f'{path}: ')}")
    card = directory / "best" / "wordsight.json"
    if log.best_step is not None and not (card.exists() or is_locked(directory / ".lock")):
        reasons.append("best/ has no model")
    total_steps = recipe.schedule.steps if recipe else 0
    return RunSummary(
        directory=directory,
        state=_state(directory, reasons, recipe is not None and log.validated_step == total_steps),
        steps=log.step,
        total_steps=total_steps,
        seconds=log.seconds if log.step or log.seconds else None,
        metric=log.metric,
        best_step=log.best_step,
        best_value=log.best_value,
        scores=log.scores,
        recipe={} if recipe is None else _comparable(recipe),
        training_data=_training_data(card),
        validation_data=log.data,
        reason="; ".join(reasons),
        losses=log.losses,
        learning_rates=log.learning_rates,
        score_curves=log.score_curves,
    )


def _state(directory: Path, reasons: Sequence[str], is_finished: bool) -> State:
    if is_locked(directory / ".lock"):
        return "running"
    if reasons:
        return "damaged"
    return "finished" if is_finished else "interrupted"


def _comparable(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data, with names and defaults resolved, so that equal settings are equal values."""
    resolved = msgspec.structs.replace(
        recipe.without_about(), model=recipe.architecture, preprocessing=recipe.image_preprocessing
    )
    data: dict[str, Any] = plain(resolved)
    del data["about"]
    return data


def _training_data(card: Path) -> str:
    with contextlib.suppress(WordsightError, KeyError, TypeError, AttributeError):
        value = read_json(card, MAX_CARD_BYTES, DataError)["training"].get("data", "")
        return value if isinstance(value, str) else ""
    return ""


class _Log:
    """What is kept of the rows of a `metrics.jsonl`."""

    def __init__(self, recipe: Recipe | None) -> None:
        self._batch_size = recipe.batch_size if recipe else 0
        self.metric = recipe.validation.selection_metric if recipe else None
        self.step = self._trained_step = 0
        self.seconds = 0.0
        self.validated_step: int | None = None
        self.best_step: int | None = None
        self.best_value: float | None = None
        self.scores: tuple[Score, ...] = ()
        self.data: Mapping[str, str] = {}
        self.losses, self.learning_rates = Points(), Points()
        self.score_curves: dict[tuple[str, str], Points] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Raises:
            ConfigError: the selection metric is not among the scores.
            msgspec.ValidationError: a value has the wrong type.
        """
        self.step = row["step"]
        if "elapsed_s" in row:
            self.seconds = _number(row, "elapsed_s") or 0.0
        if "scores" in row:
            self._add_scores(row)
            return
        loss, rate, speed = _number(row, "loss"), _number(row, "learning_rate"), _number(row, "pairs_per_s")
        if speed and "elapsed_s" not in row:
            self.seconds += (self.step - self._trained_step) * self._batch_size / speed
        self._trained_step = self.step
        if loss is not None:
            self.losses.add(Point(self.step, self.seconds, loss))
        if rate is not None:
            self.learning_rates.add(Point(self.step, self.seconds, rate))

    def _add_scores(self, row: Mapping[str, Any]) -> None:
        scores = msgspec.convert(row["scores"], tuple[Score, ...])
        self.data = {**self.data, **msgspec.convert(row.get("data", {}), dict[str, str])}
        for score in scores:
            point = Point(self.step, self.seconds, score.value, score.low, score.high)
            self.score_curves.setdefault((score.dataset, score.metric), Points()).add(point)
        self.validated_step = self.step
        value = selection_value(scores, self.metric) if self.metric and scores else None
        if value is None or self.best_value is None or value >= self.best_value:  # as `training.loop` selects
            self.best_value, self.best_step, self.scores = value, self.step, scores


def _number(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None or type(value) is float or type(value) is int:
        return value
    raise msgspec.ValidationError(f"step {row['step']}: {key} is not a number")


def differing(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Return the dotted keys of the recipes whose values differ, and `training data`, with the value of each run.

    A key that a recipe does not have, and every key of an unreadable recipe, has the value None.
    """
    flat = [_flat(run.recipe) for run in runs]
    known = list(dict.fromkeys(itertools.chain.from_iterable(flat)))
    tables = list(dict.fromkeys(key.rpartition(".")[0] for key in known))
    keys = sorted(known, key=lambda key: tables.index(key.rpartition(".")[0]))
    readable = [each for each in flat if each]
    table = {
        key: [each.get(key) for each in flat]
        for key in keys
        if any(_differs(key, readable[0], each) for each in readable)
    }
    if len({run.training_data for run in runs if run.training_data}) > 1:
        table["training data"] = [run.training_data[:8] or None for run in runs]
    return table


def _differs(key: str, one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return bool(one.get(key) != other.get(key))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def data_letters(runs: Sequence[RunSummary]) -> list[str]:
    """Return a letter for each run; the scores of runs with the same letter were measured on the same data.

    Validation sets are compared by their hashes, or by their numbers of images and chance levels where a run of an
    older version has no hash. A run without scores has no letter.
    """
    has_hash = {score.dataset: True for run in runs for score in run.scores}
    for run in runs:
        for score in run.scores:
            has_hash[score.dataset] &= score.dataset in run.validation_data
    groups: dict[Any, str] = {}
    letters = []
    for run in runs:
        identity = frozenset(
            (score.dataset, run.validation_data[score.dataset])
            if has_hash[score.dataset]
            else (score.dataset, score.metric, score.n, score.chance)
            for score in run.scores
        )
        letters.append(groups.setdefault(identity, _letter(len(groups))) if identity else "")
    return letters


def _letter(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)
