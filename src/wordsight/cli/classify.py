"""`wordsight classify`: which of the labels does each picture show?"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from wordsight.zeroshot import Answer

_ROWS_IN_TABLE = 1000


def classify(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, or folders of them.", metavar="PICTURES...", show_default=False)
    ],
    labels: Annotated[
        str,
        typer.Option(help="a,b,c, or a file: a label a line, or a JSON list.", metavar="A,B|FILE", show_default=False),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="A name of 'wordsight models', a model, or a training run.", metavar="MODEL", show_default=False
        ),
    ],
    templates: Annotated[
        str, typer.Option(help="A set (plain, photo, photos, drawings, imagenet), or a text with {} for the label.")
    ] = "photo",
    why: Annotated[
        Path | None, typer.Option(help="Write a page that shows which parts speak for the label.", metavar="FILE.html")
    ] = None,
    top: Annotated[int, typer.Option(help="How many labels to show for each picture.", min=1)] = 1,
    runtime: Annotated[str, typer.Option(help="torch, onnx, auto: the quicker of both here; int8.")] = "torch",
    mirror: Annotated[str | None, typer.Option(help="A server in place of the one that published the weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a picture.")] = False,
) -> None:
    """Label pictures, zero-shot.

    \b
    Example:
      wordsight classify photos/ --labels cat,dog,bird --model runs/first
    """
    from wordsight.cli.terminal import open_model, progress_of
    from wordsight.errors import DataError
    from wordsight.files import check_place
    from wordsight.infer.pictures import count_pictures, find_pictures
    from wordsight.zeroshot import Labels, read_labels, resolve_templates

    names, texts = read_labels(labels), resolve_templates(templates)
    total = count_pictures(pictures)
    if why is not None:
        check_place(why)
    classifier = Labels(open_model(model, mirror, runtime), names, texts)
    printer: _Lines = _JsonLines(top) if as_json else _Table(top) if sys.stdout.isatty() else _Lines(top)
    page = None
    if why is not None:
        from wordsight.cli.classify_report import WhyPage

        page = WhyPage(classifier, model)
    with progress_of(total, "pictures") as progress:
        for answer in classifier.classify(find_pictures(pictures), on_broken=printer.broken):
            printer.answer(answer)
            if page is not None:
                page.add(answer)
            progress(printer.num_answers + printer.num_broken)
    printer.end()
    if not printer.num_answers:
        raise DataError(f"none of {printer.num_broken} pictures could be read")
    if page is not None and why is not None:
        page.write(why)


class _Lines:
    """One plain line a picture: path, then labels with probabilities, tabs between."""

    def __init__(self, top: int) -> None:
        self.top = top
        self.num_answers = 0
        self.num_broken = 0

    def answer(self, answer: "Answer") -> None:
        self.num_answers += 1
        self.show(answer.picture, answer.ranking[: self.top])

    def broken(self, picture: Any, reason: str) -> None:
        self.num_broken += 1
        self.show_broken(picture, reason)

    def show(self, picture: Any, ranking: Iterable[tuple[str, float]]) -> None:
        self.print(picture, *(f"{label} {probability:.4f}" for label, probability in ranking))

    def show_broken(self, picture: Any, reason: str) -> None:
        self.print(picture, f"error: {reason}")

    def print(self, *cells: Any) -> None:
        from wordsight.cli.terminal import printable

        print("\t".join(map(printable, cells)))

    def end(self) -> None:
        """All pictures were shown."""


class _JsonLines(_Lines):
    """One JSON object a picture and line."""

    def show(self, picture: Any, ranking: Iterable[tuple[str, float]]) -> None:
        labels = [{"label": label, "probability": probability} for label, probability in ranking]
        print(json.dumps({"picture": str(picture), **labels[0], "ranking": labels}))

    def show_broken(self, picture: Any, reason: str) -> None:
        print(json.dumps({"picture": str(picture), "error": reason}))


class _Table(_Lines):
    """A table, for a person."""

    def __init__(self, top: int) -> None:
        super().__init__(top)
        self._rows: list[tuple[Any, ...]] = []

    def print(self, *cells: Any) -> None:
        self._rows.append(cells)
        if len(self._rows) == _ROWS_IN_TABLE:
            self.end()
            self._rows.clear()

    def end(self) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        from wordsight.cli.terminal import printable

        table = Table("picture", "labels")
        for picture, *cells in self._rows:
            table.add_row(Text(printable(picture)), Text("\n".join(map(printable, cells))))
        Console().print(table)
