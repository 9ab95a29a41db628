"""What `wordsight classify` knows about one image, and the outputs that receive it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from wordsight.image import ImageRef
    from wordsight.zeroshot import Prediction


@dataclass(frozen=True)
class Outcome:
    """What is known about one image.

    Attributes:
        image: the image.
        prediction: None if it cannot be read.
        labels: the labels that it gets: the prediction set, with a threshold at least `--top` labels.
        num_shown: number of labels in the ranking to show.
        target: its true label, as the classifier displays it; None if it is not known.
        error: why it cannot be read, otherwise empty.
    """

    image: "ImageRef"
    prediction: "Prediction | None" = None
    labels: tuple[str, ...] = ()
    num_shown: int = 1
    target: str | None = None
    error: str = ""

    @property
    def best(self) -> str:
        """The most probable label; `none of these` for a rejected image."""
        assert self.prediction is not None
        return self.prediction.label if self.prediction.reason else self.prediction.ranking[0][0]

    @property
    def is_correct(self) -> bool | None:
        """Whether the most probable label is the true one; None if that is not known."""
        return None if self.target is None or self.prediction is None else self.best == self.target

    @property
    def shown(self) -> tuple[tuple[str, float], ...]:
        """The most probable labels with their probabilities."""
        return () if self.prediction is None else self.prediction.ranking[: self.num_shown]

    def row(self) -> dict[str, Any]:
        """The outcome by the names of the columns of a file of predictions, without those that are empty."""
        from wordsight.errors import encodable

        row: dict[str, Any] = dict.fromkeys(("label", "probability"))
        if self.prediction is not None:
            row = {"label": self.prediction.label, "probability": self.prediction.probability}
        row |= {
            "labels": list(self.labels),
            "ranking": [{"label": label, "probability": probability} for label, probability in self.shown],
        }
        optional: dict[str, Any] = {
            "path": self.prediction and self.prediction.path,
            "reason": self.prediction and self.prediction.reason,
        }
        optional |= {"true_label": self.target, "is_correct": self.is_correct, "error": self.error}
        kept = {name: value for name, value in optional.items() if value is not None and value != "" and value != ()}
        return {"image": encodable(self.image.name), **row, **kept}


class Output(Protocol):
    """Something that receives every outcome, in order."""

    def add(self, outcome: Outcome) -> None:
        """Receive an outcome."""

    def finish(self) -> None:
        """Write what has been collected; called after the last image."""
