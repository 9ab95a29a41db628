"""Accuracy of a classifier on labelled images: overall, per class, and the labels that it confuses.

The counts are collected while images are classified; memory does not grow with their number.
"""

import math
from collections import Counter
from dataclasses import dataclass, field

from wordsight.metrics import WILSON, Score, wilson_interval

CONFIDENCE = 0.95


@dataclass(frozen=True)
class ClassScore:
    """How well one class is predicted.

    Attributes:
        label: its displayed name.
        n: number of images that show it.
        num_predicted: number of images for which it was predicted.
        num_correct: number of images for which both hold.
    """

    label: str
    n: int
    num_predicted: int
    num_correct: int

    @property
    def recall(self) -> float:
        """The share of its images that are recognised; NaN without images."""
        return self.num_correct / self.n if self.n else math.nan

    @property
    def recall_interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the recall; (0, 1) without images."""
        return wilson_interval(self.num_correct, self.n, CONFIDENCE) if self.n else (0.0, 1.0)

    @property
    def precision(self) -> float:
        """The share of its predictions that are correct; NaN without predictions."""
        return self.num_correct / self.num_predicted if self.num_predicted else math.nan


@dataclass
class ConfusionCounts:
    """Counts of true and predicted labels.

    Attributes:
        num_classes: number of labels of the classifier, for the chance level.
        pairs: number of images for each pair of a true and a predicted label.
        hits: sum over all images of 1 for a correct prediction, or 1 / t if the true label is one of t labels that
            share the highest probability.
    """

    num_classes: int
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    hits: float = 0.0

    @property
    def n(self) -> int:
        """The number of images that were counted."""
        return self.pairs.total()

    def add(self, target: str, prediction: str, hit: float) -> None:
        """Count an image.

        Args:
            target: its true label, as the classifier displays it.
            prediction: the predicted label.
            hit: see `hits`.
        """
        self.pairs[target, prediction] += 1
        self.hits += hit

    def score(self, dataset: str, unreadable: int = 0) -> Score:
        """Return the accuracy with Wilson's interval; at least one image must have been counted."""
        low, high = wilson_interval(self.hits, self.n, CONFIDENCE)
        return Score(
            dataset=dataset,
            metric="accuracy",
            value=self.hits / self.n,
            low=low,
            high=high,
            n=self.n,
            unreadable=unreadable,
            chance=1 / self.num_classes,
            method=f"{WILSON} {100 * CONFIDENCE:g} %",
        )

    def classes(self) -> list[ClassScore]:
        """Return the classes that have images or were predicted, the lowest recall first, those without images last."""
        n, num_predicted, num_correct = Counter[str](), Counter[str](), Counter[str]()
        for (target, prediction), count in self.pairs.items():
            n[target] += count
            num_predicted[prediction] += count
            num_correct[target] += count if target == prediction else 0
        labels = dict.fromkeys([*n, *num_predicted])
        scores = [ClassScore(label, n[label], num_predicted[label], num_correct[label]) for label in labels]
        return sorted(scores, key=lambda score: (not score.n, score.recall if score.n else 0, -score.n, score.label))

    def confusions(self) -> list[tuple[str, str, int]]:
        """Return pairs of a true and another, predicted label with the number of images, most frequent first."""
        wrong = [(*pair, count) for pair, count in self.pairs.items() if pair[0] != pair[1]]
        return sorted(wrong, key=lambda each: (-each[2], *each[:2]))
