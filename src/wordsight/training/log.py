"""The reports of a run: `metrics.jsonl`, TensorBoard, and a progress bar or lines on stderr."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from wordsight.errors import MissingExtraError, OutputError, printable
from wordsight.files import as_output_error, read_limited, write_atomic
from wordsight.metrics import Score
from wordsight.training.state import LossSums
from wordsight.training.step import StepMetrics

_LINE_EVERY_S = 10.0


MAX_LOG_BYTES = 1 << 30
"""Size of a `metrics.jsonl`; a row has about 300 bytes, so this is more than three million rows."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl` up to the first damaged one: a crash can truncate the last.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        text = read_limited(path, MAX_LOG_BYTES, OutputError).decode("utf-8", "replace")
    except OutputError as error:
        raise OutputError(f"{error}; use another --out") from error
    rows: list[dict[str, Any]] = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            break
        if not (isinstance(row, dict) and isinstance(row.get("step"), int)):
            break
        rows.append(row)
    return rows


class RunLog:
    """Writes one row every `every` steps, with the mean losses since the previous row, and shows it.

    A row of `metrics.jsonl` is `{"step", "loss", "caption_token_loss", "scale", "gradient_norm", "learning_rate",
    "pairs_per_s", "data_wait_share"}`, or `{"step", "scores": [{"dataset", "metric", "value", ...}]}` for a validation.

    Args:
        directory: of the run.
        first_step: number of steps already taken; rows of later steps are removed, because they will be written again.
        steps: number of steps of the whole run.
        sums: the losses since the last row, which this class updates.
        tensorboard: also write TensorBoard event files (extra `log`); scores have the tag `dataset/metric`.
        every: number of steps per row.

    Raises:
        MissingExtraError: TensorBoard is not installed.
    """

    def __init__(
        self, directory: Path, first_step: int, steps: int, sums: LossSums, tensorboard: bool, every: int = 10
    ) -> None:
        self._path = directory / "metrics.jsonl"
        self._steps = steps
        self._every = every
        self._sums = sums
        self._remove_rows_after(first_step)
        self._board = _open_board(directory) if tensorboard else None
        self._progress = _ProgressDisplay(steps, first_step)
        self._start_clock()

    def _remove_rows_after(self, step: int) -> None:
        if not self._path.exists():
            return
        rows = [row for row in read_rows(self._path) if row["step"] <= step]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in rows).encode())

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
        if steps % self._every and steps != self._steps:
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
        self._add_scalars(steps, {name: value for name, value in row.items() if name != "step"})
        self._progress.show(row)
        self._start_interval()

    def scores(self, steps: int, scores: Sequence[Score]) -> None:
        """Record and print the scores of a validation."""
        self._write({"step": steps, "scores": msgspec.to_builtins(scores)})
        self._add_scalars(steps, {f"{score.dataset}/{score.metric}": score.value for score in scores})
        for score in scores:
            self.print(f"step {steps}: {score}")
        self._start_interval()

    def print(self, line: str) -> None:
        """Print a line, of which control characters are escaped, without disturbing the progress bar."""
        self._progress.print(printable(line))

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise as_output_error(error, self._path) from error

    def _add_scalars(self, steps: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            for tag, value in values.items():
                self._board.add_scalar(tag, value, steps)

    def close(self) -> None:
        """Close the progress bar and the TensorBoard writer."""
        self._progress.close()
        if self._board is not None:
            self._board.close()


def _open_board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard", "log") from error
    return SummaryWriter(str(directory / "tensorboard"))


class _ProgressDisplay:
    """A progress bar on a terminal; otherwise a plain line every ten seconds and at the end."""

    def __init__(self, steps: int, first_step: int) -> None:
        self._steps = steps
        self._first_step = first_step
        self._begin = self._last_line = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty():
            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._task = self._bar.add_task("starting", total=steps, completed=first_step)
            self._bar.start()

    def show(self, row: Mapping[str, float]) -> None:
        """Show a row of the log."""
        step = int(row["step"])
        text = (
            f"step {step}/{self._steps}  loss {row['loss']:.3f}  {row['pairs_per_s']:.0f} pairs/s  "
            f"waiting for data {row['data_wait_share']:.0%}"
        )
        if self._bar is not None:
            self._bar.update(self._task, completed=step, description=text)
            return
        now = time.perf_counter()
        if now - self._last_line >= _LINE_EVERY_S or step == self._steps:
            self._last_line = now
            left_s = (now - self._begin) / (step - self._first_step) * (self._steps - step)
            self.print(f"{text}  {left_s // 60:.0f} min {left_s % 60:.0f} s left")

    def print(self, line: str) -> None:
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
