"""How `wordsight classify` shows its answers: plain lines, JSON, or a table for a person."""

import json
import sys
from typing import TYPE_CHECKING, Any

from wordsight.cli.terminal import printable

if TYPE_CHECKING:
    from wordsight.zeroshot import Prediction

_ROWS_IN_TABLE = 1000


class Lines:
    """One plain line a image: path, then labels with probabilities, tabs between."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.num_answers = 0
        self.num_broken = 0

    def answer(self, answer: "Prediction") -> None:
        """Show an answer: what it stands for, and `top` labels or more."""
        self.num_answers += 1
        self.show(answer)

    def broken(self, image: Any, reason: str) -> None:
        """Show a image that cannot be read."""
        self.num_broken += 1
        self.show_broken(image, reason)

    def show(self, answer: "Prediction") -> None:
        """Print an answer."""
        head = []
        if answer.reason:
            head = [f"{answer.label} {answer.probability:.4f}: {answer.reason}"]
        elif answer.path:
            head = [f"{' > '.join(answer.path)} {answer.probability:.4f}"]
        elif not answer.labels:
            head = ["no label is sure enough"]
        count = max(self.top - len(head), len(answer.labels) if not answer.path else 0)
        self.print(answer.image, *head, *(f"{label} {share:.4f}" for label, share in answer.ranking[:count]))

    def show_broken(self, image: Any, reason: str) -> None:
        """Print a reason."""
        self.print(image, f"error: {reason}")

    def print(self, *cells: Any) -> None:
        """Print a row."""
        print("\t".join(map(printable, cells)))

    def end(self) -> None:
        """All images were shown."""


class JsonLines(Lines):
    """One JSON object a image and line."""

    def show(self, answer: "Prediction") -> None:
        """Print an object."""
        shown = answer.ranking[: max(self.top, len(answer.labels))]
        row: dict[str, Any] = {
            "image": str(answer.image),
            "label": answer.label,
            "probability": answer.probability,
            "labels": answer.labels,
            "ranking": [{"label": label, "probability": share} for label, share in shown],
        }
        if answer.path:
            row["path"] = answer.path
        if answer.reason:
            row["reason"] = answer.reason
        print(json.dumps(row))

    def show_broken(self, image: Any, reason: str) -> None:
        """Print an object with the reason."""
        print(json.dumps({"image": str(image), "error": reason}))


class Table(Lines):
    """A table, for a person."""

    def __init__(self, top: int) -> None:
        super().__init__(top)
        self._rows: list[tuple[Any, ...]] = []

    def print(self, *cells: Any) -> None:
        """Keep a row; a thousand are printed."""
        self._rows.append(cells)
        if len(self._rows) == _ROWS_IN_TABLE:
            self.end()
            self._rows.clear()

    def end(self) -> None:
        """Print the rows that are left."""
        from rich import table
        from rich.console import Console
        from rich.text import Text

        shown = table.Table("image", "labels")
        for image, *cells in self._rows:
            shown.add_row(Text(printable(image)), Text("\n".join(map(printable, cells))))
        Console().print(shown)


def printer_of(top: int, as_json: bool) -> Lines:
    """The form of the answers: JSON where it is asked for, a table on a terminal, else plain lines."""
    return JsonLines(top) if as_json else Table(top) if sys.stdout.isatty() else Lines(top)
