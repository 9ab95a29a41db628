"""A metric measured on every image of a set: what a score and the comparison of two models are computed from."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.metrics import WILSON, Score, wilson_interval

_CONFIDENCE = 0.95


@dataclass(frozen=True, eq=False)
class Measurement:
    """A metric of one model on N images.

    Attributes:
        metric: such as `accuracy` or `text_to_image_recall@10`.
        values: (N,) float64, the contribution of each image: the metric is their mean. It is 1 or 0 for an image that
            counts as one item, and a share of these if an image has several captions or classes are weighted.
        chance: expected value of a random guess.
        effective_n: number of independent items of the interval; N unless images have different weights.
        basis: what the interval counts, if that must be said: `over images`.
    """

    metric: str
    values: NDArray[np.float64]
    chance: float
    effective_n: float | None = None
    basis: str = ""

    @property
    def value(self) -> float:
        """The metric, in [0, 1]."""
        return min(1.0, float(self.values.mean()))

    def score(self, dataset: str, unreadable: int = 0) -> Score:
        """Return the metric with its interval.

        Args:
            dataset: name of the dataset.
            unreadable: number of images of the dataset that could not be read.
        """
        n = len(self.values) if self.effective_n is None else self.effective_n
        low, high = wilson_interval(self.value * n, n, _CONFIDENCE)
        return Score(
            dataset=dataset,
            metric=self.metric,
            value=self.value,
            low=low,
            high=high,
            n=len(self.values),
            unreadable=unreadable,
            chance=self.chance,
            method=f"{WILSON} {100 * _CONFIDENCE:g} % {self.basis}".strip(),
        )
