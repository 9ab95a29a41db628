"""The page of `wordsight classify --why`: each image, its answers, and what of it speaks for the first."""

from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.cli.terminal import printable
from wordsight.report import Gallery, ImageCard, Page, RankedText, Section

if TYPE_CHECKING:
    from wordsight.zeroshot import Prediction, ZeroShotClassifier

MAX_IMAGES = 200
"""More would make the page too heavy to open."""

_SHOWN_LABELS = 5


class WhyPage:
    """Collects answers; `write` makes the page of the first `MAX_IMAGES`.

    Raises:
        MissingExtraError: as `Page.render`; better now than when all images are done.
    """

    def __init__(self, labels: "ZeroShotClassifier", model: str, out: Path) -> None:
        self._labels = labels
        self._model = model
        self._out = out
        self._cards: list[ImageCard] = []
        self._num_answers = 0
        self._page().render()

    def add(self, answer: "Prediction") -> None:
        """Explain one answer."""
        from wordsight.zeroshot import explain

        self._num_answers += 1
        if len(self._cards) < MAX_IMAGES:
            drawn = explain(self._labels, answer.image, answer.ranking[0][0]).to_png()
            answers = [RankedText(label, probability) for label, probability in answer.ranking[:_SHOWN_LABELS]]
            self._cards.append(ImageCard(printable(answer.image), drawn, answers))

    def write(self) -> None:
        """Write the page; errors as `Page.write`."""
        self._page().write(self._out)

    def _page(self) -> Page:
        images, labels = _number(self._num_answers, "image"), _number(len(self._labels.names), "label")
        return Page(
            title="What the model saw",
            lead=f"{images}, {labels}, by {self._model}.",
            sections=[Section("Images", self._text(), [Gallery(self._cards, is_large=True)])],
        )

    def _text(self) -> str:
        left_out = self._num_answers - len(self._cards)
        more = f"\n\nThe first {len(self._cards)} are shown; {left_out} more were labelled." if left_out else ""
        return (
            "Red are the parts that speak for the first answer: where they are covered, it loses probability. "
            "What is gray does not matter to it, or speaks against it." + more
        )


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + ("" if count == 1 else "s")
