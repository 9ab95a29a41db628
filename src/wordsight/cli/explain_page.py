"""The page that `wordsight classify --why` writes: which regions of each image support its label."""

from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.classify_outcome import Outcome
from wordsight.errors import counted, printable
from wordsight.report import Gallery, ImageCard, Page, RankedText, Section

if TYPE_CHECKING:
    from wordsight.zeroshot import ZeroShotClassifier

MAX_IMAGES = 200
"""With more images, browsers take too long to open the page."""

_SHOWN_LABELS = 5


class ExplanationPage:
    """Explains predictions as they are added; `finish` writes a page with the first `MAX_IMAGES` of them.

    Args:
        classifier: the classifier that makes the predictions.
        model: name of the model, for the page.
        out: the HTML file to write.

    Raises:
        MissingExtraError: the packages of the extra `report` are not installed; raised before any image is classified.
    """

    def __init__(self, classifier: "ZeroShotClassifier", model: str, out: Path) -> None:
        self._classifier = classifier
        self._model = model
        self._out = out
        self._cards: list[ImageCard] = []
        self._num_predictions = 0
        self._page().render()

    def add(self, outcome: Outcome) -> None:
        """Explain a prediction, unless the page is full."""
        from wordsight.zeroshot import explain

        prediction = outcome.prediction
        if prediction is None:
            return
        self._num_predictions += 1
        if len(self._cards) < MAX_IMAGES:
            heatmap = explain(self._classifier, prediction.image, prediction.ranking[0][0]).to_png()
            ranked = [
                RankedText(printable(label), probability) for label, probability in prediction.ranking[:_SHOWN_LABELS]
            ]
            note = f"{prediction.label} {prediction.probability:.4f}: {prediction.reason}" if prediction.reason else ""
            title = printable(outcome.image.name)
            self._cards.append(ImageCard(title, heatmap, ranked, note=printable(note)))

    def finish(self) -> None:
        """Write the page; errors as for `Page.write`."""
        self._page().write(self._out)

    def _page(self) -> Page:
        num_images = counted(self._num_predictions, "image")
        num_labels = counted(len(self._classifier.names), "label")
        return Page(
            title="Why these labels",
            lead=f"{num_images}, {num_labels}, classified by {self._model}.",
            sections=[Section("Images", self._text(), [Gallery(self._cards, is_large=True)])],
        )

    def _text(self) -> str:
        text = (
            "The coloured and red regions support the first label: covering them lowers its probability. "
            "Covering the grey regions has no effect on it or raises it."
        )
        if self._num_predictions > len(self._cards):
            text += f"\n\nOnly the first {len(self._cards):,} of {self._num_predictions:,} images are shown."
        return text
