"""An offset for each label, fitted to labelled images: it corrects a model that prefers some labels to others.

The offsets are added to the logits (vector scaling with one shared temperature, Guo et al. 2017, section 4.2). They
have a Gaussian prior, and are used only if they are better than the temperature alone on images they were not fitted
to.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_IMAGES_PER_LABEL = 10
"""Labels with fewer images have no offset of their own; the offset of the mean of the others is zero."""

PRIOR_DEVIATION = 3.0
"""Standard deviation of the prior of an offset, in natural logarithms of odds. A weak prior: without it, the offset of
a label that is always predicted correctly would be infinite."""

NUM_FOLDS = 5
_MAX_ITERATIONS = 100
_MEMORY = 10
_TOLERANCE = 1e-5
_SLOPE_SHARE = 1e-4
_MAX_LOG_SCALE = 7.0  # as for the temperature alone

_Loss = Callable[[NDArray[np.float64]], tuple[float, NDArray[np.float64]]]


@dataclass(frozen=True)
class OffsetFit:
    """Offsets and how much better they are than none.

    Attributes:
        temperature: fitted together with the offsets.
        offsets: (K,), added to the logits after the division by the temperature; 0 for labels with few images.
        log_loss: mean cross-entropy of images in folds that the offsets were not fitted to.
        plain_log_loss: the same with a temperature alone.
        is_better: whether the offsets lower the cross-entropy by more than the standard error of the difference.
    """

    temperature: float
    offsets: NDArray[np.float64]
    log_loss: float
    plain_log_loss: float
    is_better: bool


def fit_offsets(
    logits_NK: NDArray[np.floating],
    target_N: NDArray[np.integer],
    fit_temperature: Callable[[NDArray[np.floating], NDArray[np.integer]], float],
) -> OffsetFit | None:
    """Fit offsets to all images, and compare them with a temperature alone by cross-validation.

    Args:
        logits_NK: (N, K) logits of N images and K labels.
        target_N: (N,) indices of the correct labels.
        fit_temperature: fits a temperature alone to logits and targets.

    Returns:
        None if fewer than two labels have `MIN_IMAGES_PER_LABEL` images.
    """
    is_fitted_K = np.bincount(target_N, minlength=logits_NK.shape[1]) >= MIN_IMAGES_PER_LABEL
    if is_fitted_K.sum() < 2:
        return None
    fold_N = _stratified_folds(target_N)
    losses_N, plain_losses_N = np.empty(len(target_N)), np.empty(len(target_N))
    for fold in range(NUM_FOLDS):
        train, test = fold_N != fold, fold_N == fold
        temperature = fit_temperature(logits_NK[train], target_N[train])
        plain_losses_N[test] = cross_entropy(logits_NK[test] / temperature, target_N[test])
        scale, offsets_K = _fit(logits_NK[train], target_N[train], is_fitted_K, 1 / temperature)
        losses_N[test] = cross_entropy(logits_NK[test] * scale + offsets_K, target_N[test])
    difference_N = plain_losses_N - losses_N
    standard_error = difference_N.std(ddof=1) / np.sqrt(len(difference_N))
    scale, offsets_K = _fit(logits_NK, target_N, is_fitted_K, 1 / fit_temperature(logits_NK, target_N))
    return OffsetFit(
        1 / scale,
        offsets_K,
        float(losses_N.mean()),
        float(plain_losses_N.mean()),
        bool(difference_N.mean() > standard_error),
    )


def cross_entropy(logits_NK: NDArray[np.floating], target_N: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the negative log probability of the correct label of each image, (N,)."""
    logits_NK = logits_NK.astype(np.float64)
    largest_N = logits_NK.max(axis=1)
    total_N = np.log(np.exp(logits_NK - largest_N[:, None]).sum(axis=1)) + largest_N
    return np.asarray(total_N - np.take_along_axis(logits_NK, target_N[:, None], axis=1)[:, 0])


def _stratified_folds(target_N: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return the fold of each image; the images of each label are dealt to the folds in turn."""
    fold_N = np.empty(len(target_N), np.int64)
    fold_N[np.argsort(target_N, kind="stable")] = np.arange(len(target_N)) % NUM_FOLDS
    return fold_N


def _fit(
    logits_NK: NDArray[np.floating], target_N: NDArray[np.integer], is_fitted_K: NDArray[np.bool_], scale: float
) -> tuple[float, NDArray[np.float64]]:
    """Return the scale of the logits and the offsets with the highest posterior probability."""
    rows_NK = logits_NK.astype(np.float64)
    num_images, num_labels = rows_NK.shape
    index_N = np.arange(num_images)
    precision = 1 / (num_images * PRIOR_DEVIATION**2)

    def loss(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        scale = np.exp(np.clip(parameters[0], -_MAX_LOG_SCALE, _MAX_LOG_SCALE))
        offsets_K = np.zeros(num_labels)
        offsets_K[is_fitted_K] = parameters[1:]
        scaled_NK = rows_NK * scale + offsets_K
        scaled_NK -= scaled_NK.max(axis=1, keepdims=True)
        probability_NK = np.exp(scaled_NK)
        total_N = probability_NK.sum(axis=1)
        value = np.mean(np.log(total_N) - scaled_NK[index_N, target_N])
        probability_NK /= total_N[:, None]
        probability_NK[index_N, target_N] -= 1
        slope = np.empty_like(parameters)
        slope[0] = scale * (probability_NK * rows_NK).sum() / num_images if abs(parameters[0]) < _MAX_LOG_SCALE else 0
        slope[1:] = probability_NK.mean(axis=0)[is_fitted_K] + precision * parameters[1:]
        return float(value + precision * np.square(parameters[1:]).sum() / 2), slope

    parameters = _minimise(loss, np.concatenate([[np.log(scale)], np.zeros(int(is_fitted_K.sum()))]))
    offsets_K = np.zeros(num_labels)
    offsets_K[is_fitted_K] = parameters[1:]
    return float(np.exp(np.clip(parameters[0], -_MAX_LOG_SCALE, _MAX_LOG_SCALE))), offsets_K


def _minimise(loss: _Loss, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Minimise a smooth function with L-BFGS (Nocedal and Wright 2006, algorithm 7.5) and backtracking."""
    point, (value, slope) = start, loss(start)
    steps: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for _ in range(_MAX_ITERATIONS):
        if np.abs(slope).max() < _TOLERANCE:
            break
        direction = _newton_direction(slope, steps)
        length = 1.0 if steps else 1 / max(1.0, float(np.abs(slope).sum()))
        descent = float(direction @ slope)
        new_value, new_slope = loss(point + length * direction)
        while not new_value <= value + _SLOPE_SHARE * length * descent and length > _TOLERANCE**2:
            length /= 2
            new_value, new_slope = loss(point + length * direction)
        if new_value >= value:
            break
        step, change = length * direction, new_slope - slope
        if step @ change > 0:
            steps = [*steps[1 - _MEMORY :], (step, change)]
        point, value, slope = point + step, new_value, new_slope
    return point


def _newton_direction(
    slope: NDArray[np.float64], steps: list[tuple[NDArray[np.float64], NDArray[np.float64]]]
) -> NDArray[np.float64]:
    direction = -slope
    weights = []
    for step, change in reversed(steps):
        weight = (step @ direction) / (step @ change)
        weights.append(weight)
        direction = direction - weight * change
    if steps:
        step, change = steps[-1]
        direction = direction * (step @ change) / (change @ change)
    for (step, change), weight in zip(steps, reversed(weights), strict=True):
        direction = direction + (weight - (change @ direction) / (step @ change)) * step
    return np.asarray(direction)
