"""The page that `wordsight classify --page` writes: thumbnails with labels, and the accuracy where it is known."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.cli.classify_outcome import Outcome
from wordsight.cli.classify_summary import Summary
from wordsight.errors import ImageError, counted
from wordsight.report import FieldValue, GridImage, ImageGrid, Page, Section, Table, Tiles, tile

if TYPE_CHECKING:
    from wordsight.zeroshot import ZeroShotClassifier

MAX_COLUMNS = 8
"""Other columns of a table that the page shows: the first ones."""

MAX_VALUE_CHARACTERS = 120
MAX_MATRIX_CLASSES = 30
"""With more classes, the confusions are a list."""

MAX_CONFUSIONS = 100
MAX_UNREADABLE = 200


class PredictionPage:
    """Collects images as they are classified, and writes the page.

    Args:
        out: the HTML file.
        limit: only this number of images is shown, and the page says so.
        classifier: the classifier.
        summary: has the counts at the end.
        model: name of the model, for the page.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed; raised before any image is classified.
    """

    def __init__(self, out: Path, limit: int, classifier: "ZeroShotClassifier", summary: Summary, model: str) -> None:
        self._out = out
        self._limit = limit
        self._classifier = classifier
        self._summary = summary
        self._model = model
        self._num_images = 0
        self._outcomes: list[tuple[Outcome, Future[bytes | None]]] = []
        self._unreadable: list[tuple[str, str]] = []
        self._threads = ThreadPoolExecutor(thread_name_prefix="thumbnails")
        self._page([]).render()

    def add(self, outcome: Outcome) -> None:
        """Start to make the thumbnail of an image, unless the page is full."""
        if outcome.prediction is None:
            if len(self._unreadable) < MAX_UNREADABLE:
                self._unreadable.append((outcome.image.name, outcome.error))
            return
        self._num_images += 1
        if len(self._outcomes) < self._limit:
            thumbnail = self._threads.submit(_thumbnail, outcome, self._classifier.clip.policy)
            self._outcomes.append((outcome, thumbnail))

    def finish(self) -> None:
        """Write the page; errors as for `Page.write`."""
        thumbnails = [thumbnail.result() for _, thumbnail in self._outcomes]
        self._page(thumbnails).write(self._out)

    def close(self) -> None:
        """Stop making thumbnails."""
        self._threads.shutdown(cancel_futures=True)

    def _page(self, thumbnails: Sequence[bytes | None]) -> Page:
        num_images = counted(self._num_images, "image")
        lead = f"{num_images}, {counted(len(self._classifier.names), 'label')}, classified by {self._model}."
        sections = [Section("Images", ". ".join(self._summary.tag_lines), [self._grid(thumbnails)])]
        if self._summary.score is not None:
            sections.insert(0, Section("Accuracy", self._summary.unknown_note, self._accuracy_blocks()))
        if self._unreadable:
            more = self._summary.num_unreadable - len(self._unreadable)
            caption = f"{more:,} more are not listed here." if more else ""
            sections.append(
                Section("Unreadable images", blocks=[Table(["image", "reason"], self._unreadable, caption)])
            )
        return Page("Images and their labels", lead, sections)

    def _grid(self, thumbnails: Sequence[bytes | None]) -> ImageGrid:
        shown = [outcome for outcome, _ in self._outcomes]
        columns = list(dict.fromkeys(name for outcome in shown for name in outcome.image.columns))[:MAX_COLUMNS]
        has_targets = any(outcome.target is not None for outcome in shown)
        own = ["label", "probability", *(["true label"] if has_targets else [])]
        fields = [*own, *(f"input {name}" if name in own else name for name in columns)]
        carried = [_values([outcome.image.columns.get(name) for outcome in shown]) for name in columns]
        images = []
        for row, (outcome, thumbnail) in enumerate(zip(shown, thumbnails, strict=True)):
            assert outcome.prediction is not None
            values: list[FieldValue] = [self._labels(outcome), round(outcome.shown[0][1], 4)]
            values += [outcome.target or ()] if has_targets else []
            values += [column[row] for column in carried]
            images.append(GridImage(outcome.image.name, thumbnail, values, outcome.is_correct, _note(outcome)))
        advice = "--page-limit N shows more."
        return ImageGrid(fields, images, self._num_images, advice)

    def _labels(self, outcome: Outcome) -> tuple[str, ...]:
        """The labels of an image; without a threshold the predicted one."""
        assert outcome.prediction is not None
        is_single = self._classifier.threshold is None and not outcome.prediction.reason
        return (outcome.prediction.label,) if is_single else outcome.labels

    def _accuracy_blocks(self) -> list[Any]:
        score, classes = self._summary.score, self._summary.counts.classes()
        assert score is not None
        rows = [
            (
                each.label,
                each.n,
                100 * each.recall,
                "{:.1f} to {:.1f}".format(*(100 * end for end in each.recall_interval)) if each.n else "",
                each.num_predicted,
                100 * each.precision,
            )
            for each in classes
        ]
        titles = ["label", "images", "recall in %", "95 % interval", "predicted", "precision in %"]
        return [
            Tiles([tile(score, "Accuracy")]),
            Table(titles, rows, "Lowest recall first."),
            *self._confusion_blocks(),
        ]

    def _confusion_blocks(self) -> list[Table]:
        pairs, confusions = self._summary.counts.pairs, self._summary.counts.confusions()
        labels = sorted({label for pair in pairs for label in pair})
        if len(labels) <= MAX_MATRIX_CLASSES:
            rows: list[list[str | int]] = [[true, *(pairs[true, other] for other in labels)] for true in labels]
            return [
                Table(["true label", *labels], rows, "Number of images: true labels in rows, predictions in columns.")
            ]
        caption = "The most frequent confusions." if len(confusions) > MAX_CONFUSIONS else ""
        return (
            [Table(["true label", "predicted", "images"], confusions[:MAX_CONFUSIONS], caption)] if confusions else []
        )


def _thumbnail(outcome: Outcome, policy: Any) -> bytes | None:
    from wordsight.image import thumbnail

    try:
        return thumbnail(outcome.image, policy)
    except ImageError:  # it has changed since it was classified
        return None


def _values(column: Sequence[Any]) -> list[FieldValue]:
    """Return the values of a table's column as the page shows them: texts that are all numbers as numbers."""
    with suppress(TypeError, ValueError, OverflowError):
        return [None if value in (None, "") else _number(value) for value in column]
    return [_value(value) for value in column]


def _number(value: Any) -> int | float:
    number = float(value)
    return int(number) if number.is_integer() else number


def _value(value: Any) -> FieldValue:
    if value is None or isinstance(value, int | float):
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return tuple(item[:MAX_VALUE_CHARACTERS] for item in value)
    return str(value)[:MAX_VALUE_CHARACTERS]


def _note(outcome: Outcome) -> str:
    """Return the further labels with their probabilities, or why the image was rejected."""
    assert outcome.prediction is not None
    if outcome.prediction.reason:
        return f"{outcome.prediction.label}: {outcome.prediction.reason}"
    if outcome.num_shown == 1 and outcome.labels:
        return ""
    ranking = ", ".join(f"{label} {probability:.2f}" for label, probability in outcome.shown)
    return ranking if outcome.labels else f"best: {ranking}"
