"""What a run says while it goes on: `metrics.jsonl`, TensorBoard, and lines or a bar for who watches."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from wordsight.errors import MissingExtraError
from wordsight.files import as_output_error, write_atomic
from wordsight.training.step import StepMetrics

_LINE_EVERY_S = 10.0


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a `metrics.jsonl`, without a last one that a crash cut short."""
    rows = []
    for line in path.read_text("utf-8", errors="replace").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class RunLog:
    """Writes every `every` steps the mean loss since the last row, and shows it.

    A row of `metrics.jsonl` is `{"step", "loss", "words_loss", "scale", "gradient_norm", "learning_rate",
    "pairs_per_s", "data_wait_share"}`, or `{"step", "scores"}` for a validation.
    """

    def __init__(self, directory: Path, first_step: int, steps: int, tensorboard: bool, every: int = 10) -> None:
        self._path = directory / "metrics.jsonl"
        self._steps = steps
        self._every = every
        self._forget_after(first_step)
        self._board = _open_board(directory) if tensorboard else None
        self._bar = _Bar(steps, first_step)
        self._start()

    def _forget_after(self, step: int) -> None:
        """Drop the rows of steps that a resumed run will take again."""
        if not self._path.exists():
            return
        rows = [row for row in read_rows(self._path) if row["step"] <= step]
        write_atomic(self._path, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def _start(self) -> None:
        self._since = time.perf_counter()
        self._waited_s = 0.0
        self._pairs = 0
        self._figures: list[StepMetrics] = []

    def step(self, steps: int, figures: StepMetrics, pairs: int, waited_s: float) -> None:
        """Take note of one step: its figures, its pairs and the seconds it waited for its batch."""
        self._figures.append(figures)
        self._pairs += pairs
        self._waited_s += waited_s
        if steps % self._every and steps != self._steps:
            return
        seconds = time.perf_counter() - self._since
        row = {
            "step": steps,
            "loss": sum(f.loss for f in self._figures) / len(self._figures),
            "words_loss": sum(f.words_loss for f in self._figures) / len(self._figures),
            "scale": figures.scale,
            "gradient_norm": figures.gradient_norm,
            "learning_rate": figures.learning_rate,
            "pairs_per_s": self._pairs / seconds,
            "data_wait_share": self._waited_s / seconds,
        }
        self._write(row)
        self._bar.show(row)
        self._start()

    def scores(self, steps: int, scores: Mapping[str, float]) -> None:
        """Write down a validation."""
        self._write({"step": steps, "scores": dict(scores)})
        self._start()

    def say(self, line: str) -> None:
        """Show a line without disturbing the bar."""
        self._bar.say(line)

    def _write(self, row: dict[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise as_output_error(error, self._path) from error
        if self._board is not None:
            for name, value in (row.get("scores") or row).items():
                if name != "step":
                    self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """End the bar and the board."""
        self._bar.close()
        if self._board is not None:
            self._board.close()


def _open_board(directory: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard", "log") from error
    return SummaryWriter(str(directory / "tensorboard"))


class _Bar:
    """A bar on a terminal; elsewhere a plain line every ten seconds and at the end."""

    def __init__(self, steps: int, first_step: int) -> None:
        self._steps = steps
        self._first_step = first_step
        self._begin = self._last_line = time.perf_counter()
        self._progress = None
        if sys.stderr.isatty():
            columns = (BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True))
            self._task = self._progress.add_task("starting", total=steps, completed=first_step)
            self._progress.start()

    def show(self, row: Mapping[str, float]) -> None:
        """Show a row of the log: on a terminal beside the bar, elsewhere as a line now and then."""
        step = int(row["step"])
        text = (
            f"step {step}/{self._steps}  loss {row['loss']:.3f}  {row['pairs_per_s']:.0f} pairs/s  "
            f"waiting for data {row['data_wait_share']:.0%}"
        )
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=text)
            return
        now = time.perf_counter()
        if now - self._last_line >= _LINE_EVERY_S or step == self._steps:
            self._last_line = now
            left_s = (now - self._begin) / (step - self._first_step) * (self._steps - step)
            self.say(f"{text}  {left_s // 60:.0f} min {left_s % 60:.0f} s left")

    def say(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(line, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
