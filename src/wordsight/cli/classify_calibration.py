"""How sure `wordsight classify` is: as the model, by what it knows of the labels, or by labelled images."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from wordsight.zeroshot import ZeroShotClassifier


def calibrated(classifier: "ZeroShotClassifier", source: Path | None) -> "ZeroShotClassifier":
    """The classifier, calibrated where there is a source to; a temperature that the labels gave is told."""
    found = classifier.calibration.temperature
    if found != 1:
        typer.echo(f"temperature {found:.2f}: {1 / found:.0%} of what tells the labels apart is not spelling", err=True)
    return classifier if source is None else _by_images(classifier, source)


def _by_images(classifier: "ZeroShotClassifier", source: Path) -> "ZeroShotClassifier":
    """A classifier calibrated on labelled images of any form that `wordsight shards` reads; broken ones are told."""
    from wordsight.cli.terminal import printable
    from wordsight.data import open_source
    from wordsight.errors import DataError

    def tell(file: str, reason: str) -> None:
        typer.echo(f"calibrating without {printable(file)}: {printable(reason)}", err=True)

    records = []
    for record in open_source(source).records:
        if record.problem or not record.texts.names:
            tell(record.file, record.problem or "no label")
        else:
            records.append(record)
    if not records:
        raise DataError(f"{source}: no labelled images; expected a directory for each class, or labels.jsonl")
    unread: dict[int, str] = {}

    def contents() -> Iterator[bytes]:
        for number, record in enumerate(records):
            try:
                yield record.read()
            except DataError as error:
                unread[number] = str(error)
                yield b""

    return classifier.calibrate(
        contents(),
        [record.texts.names[0] for record in records],
        on_unreadable=lambda number, reason: tell(records[number].file, unread.get(number, reason)),
    )
