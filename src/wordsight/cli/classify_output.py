"""The output of `wordsight classify` for each image: plain lines, JSON lines, a table on a terminal, or a file."""

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from wordsight.cli.classify_outcome import Outcome
from wordsight.cli.terminal import print_json, print_note
from wordsight.errors import counted, printable

if TYPE_CHECKING:
    from wordsight.zeroshot.prediction_files import PredictionWriter

_ROWS_IN_TABLE = 1000


class PlainOutput:
    """One line per image: its name, then labels with probabilities, separated by tabs.

    Args:
        threshold: labels below it are marked; None if every image gets its most probable label.
        is_explicit_top: whether labels below the threshold are shown as well.
    """

    def __init__(self, threshold: float | None, is_explicit_top: bool) -> None:
        self._threshold = threshold
        self._is_explicit_top = is_explicit_top

    def add(self, outcome: Outcome) -> None:
        """Print an outcome as one row."""
        if outcome.prediction is None:
            self.print_row(outcome.image.name, f"error: {outcome.error}")
            return
        prediction, head = outcome.prediction, []
        if prediction.reason:
            head = [f"{prediction.label} {prediction.probability:.4f}: {prediction.reason}"]
        elif prediction.path:
            head = [f"{' > '.join(prediction.path)} {prediction.probability:.4f}"]
        elif self._threshold is not None and not outcome.labels:
            label, probability = prediction.ranking[0]
            head = [f"no label above {self._threshold:g}; the best is {label} {probability:.4f}"]
        num_labels = outcome.num_shown - len(head)
        self.print_row(outcome.image.name, *head, *map(self._cell, outcome.shown[: max(num_labels, 0)]))

    def _cell(self, ranked: tuple[str, float]) -> str:
        label, probability = ranked
        is_below = self._threshold is not None and probability <= self._threshold
        return f"{label} {probability:.4f}" + (f" (not above {self._threshold:g})" if is_below else "")

    def print_row(self, *cells: str) -> None:
        """Print a row."""
        print("\t".join(map(printable, cells)))

    def finish(self) -> None:
        """Print the rows that have not been printed yet."""


class JsonOutput:
    """One JSON object per line and image."""

    def add(self, outcome: Outcome) -> None:
        """Print an outcome as an object."""
        row = outcome.row()
        print_json({"image": row["image"], "error": outcome.error} if outcome.error else row)

    def finish(self) -> None:
        """Do nothing: every line has been printed."""


class UnreadableOutput:
    """A line on standard error for each image that cannot be read; the others are listed in a file or on a page."""

    def add(self, outcome: Outcome) -> None:
        """Print the reason, if there is one."""
        if outcome.error:
            print_note(f"unreadable: {outcome.error}")

    def finish(self) -> None:
        """Do nothing: every line has been printed."""


class FileOutput:
    """A file of predictions; see `wordsight.zeroshot.prediction_files`."""

    def __init__(self, writer: "PredictionWriter", print_line: Callable[[str], None]) -> None:
        self._writer = writer
        self._print = print_line
        self._num_rows = self._num_unreadable = 0

    def add(self, outcome: Outcome) -> None:
        """Add the row of an image."""
        self._writer.add(outcome.row(), outcome.image.columns)
        self._num_rows += 1
        self._num_unreadable += bool(outcome.error)

    def finish(self) -> None:
        """Write the file, and print how many rows it has."""
        self._writer.write()
        self._print(f"{self._writer.path}: {counted(self._num_rows, 'image')}, {self._num_unreadable:,} unreadable")


class TableOutput(PlainOutput):
    """A table for a terminal, printed in parts of a thousand rows."""

    def __init__(self, threshold: float | None, is_explicit_top: bool) -> None:
        super().__init__(threshold, is_explicit_top)
        self._rows: list[tuple[str, ...]] = []

    def print_row(self, *cells: str) -> None:
        """Add a row to the table, and print the table when it is full."""
        self._rows.append(cells)
        if len(self._rows) == _ROWS_IN_TABLE:
            self.finish()

    def finish(self) -> None:
        """Print the remaining rows, if there are any."""
        if not self._rows:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table("image", "labels")
        for name, *cells in self._rows:
            table.add_row(Text(printable(name)), Text("\n".join(map(printable, cells))))
        Console().print(table)
        self._rows.clear()


def choose_output(threshold: float | None, is_explicit_top: bool, as_json: bool) -> PlainOutput | JsonOutput:
    """JSON if requested, a table on a terminal, plain lines otherwise; arguments as for `PlainOutput`."""
    if as_json:
        return JsonOutput()
    return (TableOutput if sys.stdout.isatty() else PlainOutput)(threshold, is_explicit_top)
