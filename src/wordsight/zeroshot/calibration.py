"""What a few labelled images teach a classifier: how sure it may be, which labels to name, when to name none."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError
from wordsight.metrics import conformal_quantile

LEAST_LIFT = 4.0
"""How many times better than general words labels fit a image, at the least, that is one of them.

Chosen on images that the recipe `flickr8k` was trained with: over label sets of 3 to 20 of their classes the cut that
told images of the set from others best lay between 2.8 and 5.2 times (docs/log.md)."""

_LEAST_LOG_SCALE, _MOST_LOG_SCALE = -7.0, 7.0
_HALVINGS = 60


@dataclass(frozen=True)
class Calibration:
    """How logits are read.

    Attributes:
        temperature: logits are divided by it; below 1 the classifier is surer than the model.
        least_log_lift: where the labels fit a image less, it is none of them; a natural logarithm.
        coverage: what sets of labels promise: that of new images this share or more has its label in its set; None
            where nothing is promised.
        most_doubt: a label of probability 1 - most_doubt or more belongs to the set.
    """

    temperature: float = 1.0
    least_log_lift: float = float(np.log(LEAST_LIFT))
    coverage: float | None = None
    most_doubt: float = 0.0


def calibration_of(
    logits_NK: NDArray[np.float32], label_N: NDArray[np.int64], log_lift_N: NDArray[np.float64] | None, coverage: float
) -> Calibration:
    """Calibrate on labelled images, which are to be like those that will be asked about.

    The temperature comes from every second image (Guo et al. 2017, arXiv 1706.04599), the sets of labels from the
    others (split conformal prediction with the score 1 - probability; Sadinle et al. 2019), so that what they promise
    holds; the least lift is that which as great a share of all the images reaches.

    Args:
        logits_NK: of N images and K labels.
        label_N: their labels, in [0, K).
        log_lift_N: how well the labels fit them; None leaves the least lift alone.
        coverage: in (0, 1).

    Raises:
        ConfigError: a coverage outside, or too few images to promise it.
    """
    if not 0 < coverage < 1:
        raise ConfigError(f"coverage {coverage:g}: expected a share between 0 and 1, such as 0.9")
    fit, promise = slice(0, None, 2), slice(1, None, 2)
    needed = 2 * int(np.ceil(coverage / (1 - coverage) - 1e-9))
    if len(label_N) < needed:
        raise ConfigError(f"{len(label_N)} labelled images: a coverage of {coverage:g} needs {needed} or more")
    temperature = fit_temperature(logits_NK[fit], label_N[fit])
    probability_NK = softmax(logits_NK[promise] / temperature)
    doubt_N = 1 - np.take_along_axis(probability_NK, label_N[promise, None], axis=1)[:, 0]
    most_doubt = conformal_quantile(doubt_N, coverage)
    if log_lift_N is None:
        return Calibration(temperature, coverage=coverage, most_doubt=most_doubt)
    return Calibration(temperature, -conformal_quantile(-log_lift_N, coverage), coverage, most_doubt)


def fit_temperature(logits_NK: NDArray[np.floating], label_N: NDArray[np.integer]) -> float:
    """The temperature of the least cross-entropy, found in [exp(-7), exp(7)].

    Args:
        logits_NK: of N images and K labels.
        label_N: in [0, K).
    """
    own_N = np.take_along_axis(logits_NK, label_N[:, None], axis=1)[:, 0].astype(np.float64)
    low, high = _LEAST_LOG_SCALE, _MOST_LOG_SCALE
    for _ in range(_HALVINGS):  # the loss is convex in the scale of the logits, so its slope changes sign once
        middle = (low + high) / 2
        expected_N = (softmax(logits_NK * np.exp(middle)) * logits_NK).sum(axis=1)
        if np.mean(expected_N - own_N) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """The softmax over the last axis."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
