"""Calibration on labelled images: temperature, offsets, prediction sets with known coverage, a rejection threshold."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError, counted
from wordsight.metrics import conformal_quantile
from wordsight.zeroshot.offsets import MIN_IMAGES_PER_LABEL, fit_offsets

MIN_LIFT = 4.0
"""Default rejection threshold: an image that the labels fit less than 4 times as well as general words do is rejected.

It was chosen on the training images of the recipe `flickr8k`. For label sets of 3 to 20 of their classes, the threshold
that best separated images of the set from other images was between 2.8 and 5.2 (docs/explanation/log.md)."""

_MIN_LOG_SCALE, _MAX_LOG_SCALE = -7.0, 7.0
_NUM_BISECTIONS = 60


@dataclass(frozen=True)
class Calibration:
    """How a classifier turns logits into predictions.

    Attributes:
        temperature: divides the logits; a classifier with a temperature below 1 is more confident than the model.
        min_log_lift: natural logarithm of the lowest lift at which an image is not rejected; see `Background.log_lift`.
        coverage: the guaranteed probability that the prediction set of a new image contains its label; None if the
            classifier has not been calibrated.
        max_nonconformity: labels with 1 - probability up to this belong to the prediction set.
        offsets: added to the logits after the division by the temperature, one per label; empty if there are none.
        summary: one line that describes what the calibration changed.
    """

    temperature: float = 1.0
    min_log_lift: float = float(np.log(MIN_LIFT))
    coverage: float | None = None
    max_nonconformity: float = 0.0
    offsets: tuple[float, ...] = ()
    summary: str = field(default="", compare=False)

    def apply(self, logits: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return calibrated logits, whose softmax are the probabilities; the last axis of `logits` is the labels."""
        scaled = logits / self.temperature
        return np.asarray(scaled + np.array(self.offsets)) if self.offsets else scaled


def fit_calibration(
    logits_NK: NDArray[np.float32], target_N: NDArray[np.int64], log_lift_N: NDArray[np.float64] | None, coverage: float
) -> Calibration:
    """Calibrate on labelled images, which must come from the same distribution as the images to be classified.

    The temperature is fitted to every second image (Guo et al. 2017, arXiv 1706.04599). If at least two labels have
    `MIN_IMAGES_PER_LABEL` of these images, an offset per label is fitted too, and is used if it is better than the
    temperature alone in cross-validation. The prediction sets are fitted to the other images, so that their guarantee
    holds: split conformal prediction with the nonconformity score 1 - probability (Sadinle et al. 2019). The rejection
    threshold is the lift that at least the share `coverage` of all images reaches.

    Args:
        logits_NK: (N, K) logits of N images and K labels.
        target_N: (N,) indices of the correct labels, in [0, K).
        log_lift_N: (N,) values of `Background.log_lift`; None keeps the default threshold.
        coverage: in (0, 1).

    Raises:
        ConfigError: the coverage is not in (0, 1), or there are too few images to guarantee it.
    """
    if not 0 < coverage < 1:
        raise ConfigError(f"coverage {coverage:g}: expected a share between 0 and 1, such as 0.9")
    temperature_half, set_half = slice(0, None, 2), slice(1, None, 2)
    min_images = 2 * int(np.ceil(coverage / (1 - coverage) - 1e-9))
    if len(target_N) < min_images:
        raise ConfigError(
            f"{counted(len(target_N), 'labelled image')}: a coverage of {coverage:g} needs at least {min_images}; "
            "add images or lower the coverage"
        )
    scaling = _fit_scaling(logits_NK[temperature_half], target_N[temperature_half])
    probability_NK = softmax(scaling.apply(logits_NK[set_half]))
    nonconformity_N = 1 - np.take_along_axis(probability_NK, target_N[set_half, None], axis=1)[:, 0]
    before, after = (
        np.mean(rows_NK.argmax(axis=1) == target_N[set_half]) for rows_NK in (logits_NK[set_half], probability_NK)
    )
    summary = f"calibrated on {counted(len(target_N), 'image')}: {scaling.summary}"
    if scaling.offsets:
        summary += f"; accuracy on the other half of the images {after:.1%} instead of {before:.1%}"
    num_missing = logits_NK.shape[1] - len(np.unique(target_N))
    if num_missing:
        summary += f"; {counted(num_missing, 'label')} without images"
    return Calibration(
        scaling.temperature,
        Calibration.min_log_lift if log_lift_N is None else -conformal_quantile(-log_lift_N, coverage),
        coverage,
        conformal_quantile(nonconformity_N, coverage),
        scaling.offsets,
        summary,
    )


def _fit_scaling(logits_NK: NDArray[np.float32], target_N: NDArray[np.int64]) -> Calibration:
    """Fit a temperature and, if they are better, offsets; the summary says which."""
    temperature = fit_temperature(logits_NK, target_N)
    summary = f"temperature {temperature:.3g}"
    fit = fit_offsets(logits_NK, target_N, fit_temperature)
    if fit is None:
        if logits_NK.shape[1] > 1:
            summary += f"; no offsets, which need {2 * MIN_IMAGES_PER_LABEL} images for each of two labels or more"
        return Calibration(temperature, summary=summary)
    losses = f"cross-validated log loss {fit.log_loss:.3g} with offsets, {fit.plain_log_loss:.3g} without"
    if not fit.is_better:
        return Calibration(temperature, summary=f"{summary}; no offsets, which are not better: {losses}")
    offsets = tuple(fit.offsets.tolist())
    return Calibration(
        fit.temperature, offsets=offsets, summary=f"temperature {fit.temperature:.3g} and an offset per label; {losses}"
    )


def fit_temperature(logits_NK: NDArray[np.floating], target_N: NDArray[np.integer]) -> float:
    """Return the temperature with the lowest cross-entropy, in [exp(-7), exp(7)].

    Args:
        logits_NK: (N, K) logits of N images and K labels.
        target_N: (N,) indices of the correct labels, in [0, K).
    """
    target_logit_N = np.take_along_axis(logits_NK, target_N[:, None], axis=1)[:, 0].astype(np.float64)
    low, high = _MIN_LOG_SCALE, _MAX_LOG_SCALE
    for _ in range(_NUM_BISECTIONS):  # the loss is convex in the scale of the logits: its slope changes sign once
        middle = (low + high) / 2
        expected_N = (softmax(logits_NK * np.exp(middle)) * logits_NK).sum(axis=1)
        if np.mean(expected_N - target_logit_N) > 0:
            high = middle
        else:
            low = middle
    return float(np.exp(-(low + high) / 2))


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the softmax over the last axis, in float64."""
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))
