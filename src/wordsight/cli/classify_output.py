"""The output of `wordsight classify`: plain lines, JSON lines, or a table on a terminal."""

import sys
from typing import TYPE_CHECKING, Any

from wordsight.cli.terminal import print_json
from wordsight.errors import printable

if TYPE_CHECKING:
    from wordsight.zeroshot import Prediction

_ROWS_IN_TABLE = 1000


def image_name(image: Any) -> str:
    """The name of an `ImageRef`, or a path as text."""
    from wordsight.image import ImageRef

    return image.name if isinstance(image, ImageRef) else str(image)


class PlainOutput:
    """One line per image: its name, then labels with probabilities, separated by tabs.

    Attributes:
        num_predictions: number of predictions so far.
        num_unreadable: number of unreadable images so far.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self.num_predictions = 0
        self.num_unreadable = 0

    def prediction(self, prediction: "Prediction") -> None:
        """Print a prediction, with at least `top` labels."""
        self.num_predictions += 1
        self.print_prediction(prediction)

    def unreadable(self, image: Any, reason: str) -> None:
        """Print the reason why an image cannot be read."""
        self.num_unreadable += 1
        self.print_unreadable(image_name(image), reason)

    def print_prediction(self, prediction: "Prediction") -> None:
        """Print a prediction as one row."""
        head = []
        if prediction.reason:
            head = [f"{prediction.label} {prediction.probability:.4f}: {prediction.reason}"]
        elif prediction.path:
            head = [f"{' > '.join(prediction.path)} {prediction.probability:.4f}"]
        elif not prediction.labels:
            head = ["no label has a probability above 0.5"]
        num_labels = max(self.top - len(head), 0 if prediction.path else len(prediction.labels))
        ranked = (f"{label} {probability:.4f}" for label, probability in prediction.ranking[:num_labels])
        self.print_row(image_name(prediction.image), *head, *ranked)

    def print_unreadable(self, name: str, reason: str) -> None:
        """Print a reason as one row."""
        self.print_row(name, f"error: {reason}")

    def print_row(self, *cells: str) -> None:
        """Print a row."""
        print("\t".join(map(printable, cells)))

    def finish(self) -> None:
        """Print the rows that have not been printed yet."""


class JsonOutput(PlainOutput):
    """One JSON object per line and image."""

    def print_prediction(self, prediction: "Prediction") -> None:
        """Print a prediction as an object."""
        shown = prediction.ranking[: max(self.top, len(prediction.labels))]
        row: dict[str, Any] = {
            "image": image_name(prediction.image),
            "label": prediction.label,
            "probability": prediction.probability,
            "labels": prediction.labels,
            "ranking": [{"label": label, "probability": probability} for label, probability in shown],
        }
        if prediction.path:
            row["path"] = prediction.path
        if prediction.reason:
            row["reason"] = prediction.reason
        print_json(row)

    def print_unreadable(self, name: str, reason: str) -> None:
        """Print a reason as an object."""
        print_json({"image": name, "error": reason})


class TableOutput(PlainOutput):
    """A table for a terminal, printed in parts of a thousand rows."""

    def __init__(self, top: int) -> None:
        super().__init__(top)
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


def choose_output(top: int, as_json: bool) -> PlainOutput:
    """JSON if requested, a table on a terminal, plain lines otherwise."""
    if as_json:
        return JsonOutput(top)
    return TableOutput(top) if sys.stdout.isatty() else PlainOutput(top)
