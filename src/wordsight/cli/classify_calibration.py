"""The temperature and the calibration of `wordsight classify`."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.terminal import print_note
from wordsight.errors import printable

if TYPE_CHECKING:
    from wordsight.data.records import Record
    from wordsight.zeroshot import ZeroShotClassifier


def apply_calibration(
    classifier: "ZeroShotClassifier", source: Path | None, quiet: bool = False
) -> "ZeroShotClassifier":
    """Return the classifier, calibrated on labelled images if a source of them is given.

    Prints what was changed: the temperature if it was estimated from the labels (`--temperature labels`), or the
    summary of the calibration.
    """
    if len(classifier.names) == 1 and not (classifier.multi_label or classifier.none_of_these):
        print_note(
            f"with a single label, {printable(repr(classifier.names[0]))}, the probability is always 1: add labels, or "
            "use --multi-label or --none-of-these",
            quiet,
        )
    temperature = classifier.calibration.temperature
    if temperature != 1:
        share = f"{1 / temperature:.0%} of the differences between the labels is not explained by their spelling"
        print_note(f"temperature {temperature:.2f}: {share}", quiet)
    if source is None:
        return classifier
    calibrated = _calibrate(classifier, source)
    print_note(calibrated.calibration.summary, quiet)
    return calibrated


def _calibrate(classifier: "ZeroShotClassifier", source: Path) -> "ZeroShotClassifier":
    """Calibrate on labelled images in any layout that `wordsight shards` reads; report those that cannot be used."""
    from wordsight.data import open_source
    from wordsight.errors import ConfigError, DataError
    from wordsight.image import ImageRef

    def report_unusable(reason: str) -> None:
        print_note(f"not used for calibration: {printable(reason)}")

    records = []
    for record in open_source(source).records:
        if record.problem or not record.texts.names:
            report_unusable(f"{record.file}: {record.problem or 'no label'}")
        else:
            records.append(record)
    if not records:
        raise DataError(f"{source}: no labelled images; expected one directory per label, or labels.jsonl")
    try:
        return classifier.calibrate(
            [ImageRef(record.file, partial(_read_image, record)) for record in records],
            [record.texts.names[0] for record in records],
            on_unreadable=lambda _, reason: report_unusable(reason),
        )
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def _read_image(record: "Record") -> bytes:
    from wordsight.errors import DataError, ImageError

    try:
        return record.read()
    except DataError as error:
        raise ImageError(f"{record.file}: {error}") from error
