"""Is a model better than another one on the same images? Paired tests, and the interval of the difference.

Both models are measured on each image, so the test is about the differences of the images, not about two independent
scores: their intervals may overlap although the difference is certain.

    McNemar's exact test          images that count 1 or 0: accuracy, recall from images to texts. Of the images that
                                  only one of the models gets right, half are expected to be each model's.
    paired permutation test       other images: recall from texts to images, whose images have several captions; and
                                  mean per-class accuracy. The sign of each image's difference is random if the
                                  models are equally good.
    bootstrap interval            images are drawn with replacement; the interval contains 95 % of the differences.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.evaluation.measurement import Measurement

NUM_RESAMPLES = 10_000
"""Random signs of the permutation test, and samples of the bootstrap."""

CONFIDENCE = 0.95
SEED = 0

_MCNEMAR = "exact McNemar test"
_PERMUTATION = f"paired permutation test, {NUM_RESAMPLES:,} permutations, seed {SEED}"
_INTERVAL = f"paired bootstrap {100 * CONFIDENCE:g} %, {NUM_RESAMPLES:,} samples of images, seed {SEED}"
_TOLERANCE = 1e-9  # differences are sums of shares such as 1/5
_MAX_DRAWN = 1 << 22


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The difference between two models in one metric on the same images.

    Attributes:
        model: name of the model.
        baseline: name of the model that it is compared with.
        dataset: name of the dataset.
        metric: name of the metric.
        difference: value of the model minus value of the baseline; positive if the model is better.
        low: lower end of the interval of the difference.
        high: upper end of the interval.
        p_value: probability of a difference at least as large, in either direction, between equally good models.
        n: number of images.
        test: method of the p-value.
        method: method and confidence of the interval.
    """

    model: str
    baseline: str
    dataset: str
    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    n: int
    test: str
    method: str = _INTERVAL

    def __str__(self) -> str:
        """One line: `pets, accuracy: b - a = +1.2 points [+0.1, +2.4] of 1,000, p = 0.031 (exact McNemar test)`."""
        difference, low, high = (100 * share for share in (self.difference, self.low, self.high))
        return (
            f"{self.dataset}, {self.metric}: {self.model} - {self.baseline} = {difference:+.1f} points "
            f"[{low:+.1f}, {high:+.1f}] of {self.n:,}, {format_p_value(self.p_value)} ({self.test})"
        )


def compare(model: str, measured: Measurement, baseline: str, reference: Measurement, dataset: str) -> Comparison:
    """Compare a model with a baseline.

    Args:
        model: name of the model.
        measured: its measurement.
        baseline: name of the baseline.
        reference: measurement of the baseline: the same metric on the same images, in the same order.
        dataset: name of the dataset.

    Raises:
        ValueError: the measurements are not of the same metric and number of images.
    """
    if measured.metric != reference.metric or measured.values.shape != reference.values.shape:
        raise ValueError(f"compare: {measured.metric} {measured.values.shape}, {reference.metric}")
    difference_N = measured.values - reference.values
    values, counts = _distinct(difference_N)
    is_binary = all(np.isin(each.values, (0.0, 1.0)).all() for each in (measured, reference))
    if is_binary:
        p_value = mcnemar_p_value(int((difference_N > 0).sum()), int((difference_N < 0).sum()))
    else:
        p_value = permutation_p_value(difference_N)
    low, high = _bootstrap_interval(values, counts)
    difference = float(difference_N.mean())
    return Comparison(
        model=model,
        baseline=baseline,
        dataset=dataset,
        metric=measured.metric,
        difference=difference,
        low=min(low, difference),
        high=max(high, difference),
        p_value=p_value,
        n=len(difference_N),
        test=_MCNEMAR if is_binary else _PERMUTATION,
    )


def mcnemar_p_value(only_first: int, only_second: int) -> float:
    """Return the two-sided p-value of McNemar's exact test.

    Args:
        only_first: number of items that only the first model gets right.
        only_second: number of items that only the second model gets right.

    Returns:
        The probability that a fair coin, thrown as often as the models disagree, is at least as unbalanced; 1 if they
        never disagree.

    Source: Q. McNemar, Psychometrika 12 (1947); the exact form is a binomial test.
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if 2 * fewer >= n - 1:  # balanced: both tails together are everything
        return 1.0
    log_terms = [
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) - n * math.log(2) for i in range(fewer + 1)
    ]
    return min(1.0, 2 * math.fsum(map(math.exp, log_terms)))


def permutation_p_value(difference_N: NDArray[np.float64]) -> float:
    """Return the two-sided p-value of a permutation test that exchanges the two models image by image.

    The statistic is the sum of the differences, whose signs are random. The observed assignment counts as one of the
    permutations, so the p-value is never 0; with no difference at all it is 1.

    Args:
        difference_N: (N,) difference of each image.

    Source: B. Phipson and G. Smyth, Permutation p-values should never be zero, 2010.
    """
    sizes, counts = _distinct(np.abs(difference_N[difference_N != 0]))
    observed = abs(float(difference_N.sum()))
    random = np.random.Generator(np.random.Philox(SEED))
    sum_R = np.zeros(NUM_RESAMPLES)
    for size, count in zip(sizes, counts, strict=True):  # the number of positive signs among equal differences
        sum_R += size * (2 * random.binomial(count, 0.5, NUM_RESAMPLES) - count)
    extreme = int((np.abs(sum_R) >= observed - _TOLERANCE * len(difference_N)).sum())
    return (extreme + 1) / (NUM_RESAMPLES + 1)


def format_p_value(p_value: float) -> str:
    """Format a p-value with two significant digits: `p = 0.031`, `p < 0.0001`."""
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def _distinct(values_N: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distinct values and how often each occurs; values that differ by rounding are one."""
    rounded = np.round(values_N / _TOLERANCE) * _TOLERANCE
    values, counts = np.unique(rounded, return_counts=True)
    return values, counts.astype(np.int64)


def _bootstrap_interval(values: NDArray[np.float64], counts: NDArray[np.int64]) -> tuple[float, float]:
    """Return the percentiles of the mean of N images drawn with replacement.

    Images with equal differences are interchangeable, so how often each distinct difference is drawn is multinomial.
    """
    n = int(counts.sum())
    random = np.random.Generator(np.random.Philox(SEED))
    size = max(1, _MAX_DRAWN // len(values))
    means = []
    for start in range(0, NUM_RESAMPLES, size):
        drawn = random.multinomial(n, counts / n, min(size, NUM_RESAMPLES - start))
        means.append(drawn @ values / n)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(np.concatenate(means), (tail, 100 - tail))
    return float(low), float(high)
