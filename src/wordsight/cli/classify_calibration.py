"""The temperature and the calibration of `wordsight classify`."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.terminal import print_note
from wordsight.errors import printable

if TYPE_CHECKING:
    from wordsight.zeroshot import ZeroShotClassifier


def apply_calibration(
    classifier: "ZeroShotClassifier", source: Path | None, quiet: bool = False
) -> "ZeroShotClassifier":
    """Return the classifier, calibrated on labelled images if a source of them is given.

    Prints the temperature if it was estimated from the labels (`--temperature labels`).
    """
    temperature = classifier.calibration.temperature
    if temperature != 1:
        share = f"{1 / temperature:.0%} of the differences between the labels is not explained by their spelling"
        print_note(f"temperature {temperature:.2f}: {share}", quiet)
    return classifier if source is None else _calibrate(classifier, source)


def _calibrate(classifier: "ZeroShotClassifier", source: Path) -> "ZeroShotClassifier":
    """Calibrate on labelled images in any layout that `wordsight shards` reads; report those that cannot be used."""
    from wordsight.data import open_source
    from wordsight.errors import DataError

    def report_unusable(file: str, reason: str) -> None:
        print_note(f"not used for calibration: {printable(file)}: {printable(reason)}")

    records = []
    for record in open_source(source).records:
        if record.problem or not record.texts.names:
            report_unusable(record.file, record.problem or "no label")
        else:
            records.append(record)
    if not records:
        raise DataError(f"{source}: no labelled images; expected one directory per label, or labels.jsonl")
    read_errors: dict[int, str] = {}

    def read_images() -> Iterator[bytes]:
        for number, record in enumerate(records):
            try:
                yield record.read()
            except DataError as error:
                read_errors[number] = str(error)
                yield b""

    return classifier.calibrate(
        read_images(),
        [record.texts.names[0] for record in records],
        on_unreadable=lambda number, reason: report_unusable(records[number].file, read_errors.get(number, reason)),
    )
