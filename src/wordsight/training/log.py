"""The reports of a run: `metrics.jsonl`, TensorBoard, and a progress bar or lines on standard error."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wordsight.config import read_toml
from wordsight.errors import ConfigError, printable
from wordsight.files import as_output_error, open_atomic
from wordsight.metrics import Score
from wordsight.progress import ProgressLine
from wordsight.training.event_files import EventFiles
from wordsight.training.rows import iter_rows
from wordsight.training.state import LossSums
from wordsight.training.step import StepMetrics

_UNRELIABLE_STEPS = 2  # the first step includes the start, and the second alone says little about the others


class RunLog:
    """Writes one row every `every` steps, with the mean losses since the previous row, and shows it.

    A row of `metrics.jsonl` is `{"step", "loss", "caption_token_loss", "scale", "gradient_norm", "learning_rate",
    "pairs_per_s", "data_wait_share", "elapsed_s"}`, or `{"step", "scores": [{"dataset", "metric", "value", ...}],
    "data", "elapsed_s"}` for a validation. `elapsed_s` is the duration of the run so far, without interruptions.

    Args:
        directory: of the run, with its `recipe.toml`.
        first_step: number of steps already taken; rows of later steps are removed, because they will be written again.
            Before the first step, no row is kept.
        steps: number of steps of the whole run.
        sums: the losses since the last row, which this class updates.
        tensorboard: also write TensorBoard event files (extra `log`); see `EventFiles`.
        every: number of steps per row.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(
        self, directory: Path, first_step: int, steps: int, sums: LossSums, tensorboard: bool, every: int = 10
    ) -> None:
        self._path = directory / "metrics.jsonl"
        self._first_step = first_step
        self._steps = steps
        self._every = every
        self._sums = sums
        recipe = _recipe(directory)
        self._elapsed_s = self._keep_rows(first_step, recipe.get("batch_size", 0))
        rows = iter_rows(self._path) if self._path.exists() else ()
        path = directory / "tensorboard"
        self._events = EventFiles(path, rows, recipe, self._elapsed_s) if tensorboard else None
        self._validations = _Validations(recipe.get("validation", {}).get("every_steps", steps), steps)
        self._line = ProgressLine(steps, "steps", done=first_step)
        self._detail = ""
        self._opened_s = time.perf_counter()
        self._start_clock()

    def _keep_rows(self, first_step: int, batch_size: int) -> float:
        """Remove the rows of steps that will be taken again, and return the duration of the run up to the others."""
        if not self._path.exists():
            return 0.0
        elapsed_s, trained_step = 0.0, 0
        with open_atomic(self._path) as file:
            for row in iter_rows(self._path):
                if row["step"] > first_step or not first_step:
                    continue
                if "elapsed_s" in row:
                    elapsed_s = row["elapsed_s"]
                elif row.get("pairs_per_s"):  # written by an older version
                    elapsed_s += (row["step"] - trained_step) * batch_size / row["pairs_per_s"]
                    trained_step = row["step"]
                file.write(json.dumps(row).encode() + b"\n")
        return elapsed_s

    def _start_interval(self) -> None:
        self._sums.steps, self._sums.loss, self._sums.caption_token_loss = 0, 0.0, 0.0
        self._start_clock()

    def _start_clock(self) -> None:
        self._begin = time.perf_counter()
        self._waited_s = 0.0
        self._pairs = 0

    def step(self, steps: int, metrics: StepMetrics, pairs: int, waited_s: float) -> None:
        """Record one step: its metrics, its number of pairs and the seconds it waited for its batch."""
        self._sums.steps += 1
        self._sums.loss += metrics.loss
        self._sums.caption_token_loss += metrics.caption_token_loss
        self._pairs += pairs
        self._waited_s += waited_s
        self._validations.trained(steps)
        if steps % self._every and steps != self._steps:
            if steps <= self._first_step + _UNRELIABLE_STEPS:
                self._line.time_left.update(time.monotonic(), steps)
            else:
                self._line.show(steps, self._detail, self._validations.left_s(steps))
            return
        seconds = time.perf_counter() - self._begin
        row = {
            "step": steps,
            "loss": self._sums.loss / self._sums.steps,
            "caption_token_loss": self._sums.caption_token_loss / self._sums.steps,
            "scale": metrics.scale,
            "gradient_norm": metrics.gradient_norm,
            "learning_rate": metrics.learning_rate,
            "pairs_per_s": self._pairs / seconds,
            "data_wait_share": self._waited_s / seconds,
        }
        self._write(row)
        self._detail = (
            f"loss {row['loss']:.3f}, {row['pairs_per_s']:,.0f} pairs/s, waiting for data {row['data_wait_share']:.0%}"
        )
        self._line.show(steps, self._detail, self._validations.left_s(steps), is_last=steps == self._steps)
        self._start_interval()

    def scores(self, steps: int, scores: Sequence[Score], data: Mapping[str, str] | None = None) -> None:
        """Record and print the scores of a validation, with the hash of the data of each dataset."""
        self._validations.validated()
        self._line.time_left.skip(time.monotonic())
        self._write({"step": steps, "scores": msgspec.to_builtins(scores), "data": dict(data or {})})
        for score in scores:
            self.print(f"step {steps}: {score}")
        self._start_interval()

    def print(self, line: str) -> None:
        """Print a line, of which control characters are escaped, without disturbing the progress bar."""
        self._line.print(printable(line))

    def _write(self, row: dict[str, Any]) -> None:
        row["elapsed_s"] = round(self._elapsed_s + time.perf_counter() - self._opened_s, 3)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise as_output_error(error, self._path) from error
        if self._events is not None:
            self._events.add(row)
            self._events.flush()

    def close(self) -> None:
        """Close the progress bar and the TensorBoard files."""
        self._line.close()
        if self._events is not None:
            self._events.close()


def _recipe(directory: Path) -> dict[str, Any]:
    """The recipe of the run as plain data, without its description."""
    try:
        return {key: value for key, value in read_toml(directory / "recipe.toml").items() if key != "about"}
    except ConfigError:  # only hyperparameters and the remaining time depend on it
        return {}


class _Validations:
    """How long the remaining validations will take: each as long as the previous ones, apart from the first.

    The first one is often slower, and counts until there is another.
    """

    def __init__(self, every_steps: int, steps: int) -> None:
        self._every_steps, self._steps = every_steps, steps
        self._begin_s = time.monotonic()
        self._seconds: list[float] = []

    def trained(self, step: int) -> None:
        """Report that a step was taken, after which a validation may start."""
        self._begin_s = time.monotonic()

    def validated(self) -> None:
        """Report that a validation has finished."""
        self._seconds = [*self._seconds[-3:], time.monotonic() - self._begin_s]

    def left_s(self, step: int) -> float:
        """Return the seconds of the validations after a step, the one of this step included."""
        seconds = self._seconds[1:] or self._seconds
        if not seconds:
            return 0.0
        count = (self._steps - 1) // self._every_steps - (step - 1) // self._every_steps + 1
        return sum(seconds) / len(seconds) * count
