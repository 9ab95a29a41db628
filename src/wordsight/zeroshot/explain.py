"""Which parts of a image speak for a label: what the answer loses where a part is covered.

A window slides over what the model sees of the image and covers it with the image's mean colour (occlusion, after
Zeiler and Fergus 2013, arXiv 1311.2901). What the label's log probability loses is credited to the places that were
covered. No gradient is needed, so every runtime can do it.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.errors import ConfigError, nearest
from wordsight.image import ImageSource, load_pixels
from wordsight.zeroshot.classifier import ZeroShotClassifier

STEPS = 8
"""Windows start at so many places along a side."""

_WINDOW_SHARE = 1 / 4
_AT_ONCE = 64
_MARK = np.array([255, 60, 0], np.float32)
_MOST_MARK = 0.65
_LEAST_DRAWN_PX = 256


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was seen, and what of it speaks for the label.

    Attributes:
        label: the one that is explained.
        square: (S, S, 3) uint8, what the model saw.
        loss: (S, S) float32, what the label's log probability loses on average where a place is covered; below zero,
            the place speaks against the label.
    """

    label: str
    square: NDArray[np.uint8]
    loss: NDArray[np.float32]

    def drawn(self) -> bytes:
        """A PNG file, 256 px or more: the square in gray, in colour and reddened where it speaks for the label."""
        gray = self.square.mean(axis=2, keepdims=True).repeat(3, axis=2)
        share = np.clip(self.loss / max(float(self.loss.max()), 1e-9), 0, 1)[..., None]
        shown = gray * (1 - share) + self.square * share
        mark = _MOST_MARK * share**2
        file = io.BytesIO()
        side = max(_LEAST_DRAWN_PX, len(self.square))
        image = Image.fromarray((shown * (1 - mark) + _MARK * mark).astype(np.uint8))
        image.resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        return file.getvalue()


def explain(labels: ZeroShotClassifier, image: ImageSource, label: str | None = None) -> Explanation:
    """Explain an answer.

    Args:
        label: one of the classifier's names; by default the most probable.

    Raises:
        ImageError: the image cannot be read.
        ConfigError: no such label.
    """
    if label is not None and label not in labels.names:
        raise ConfigError(f"label {label!r}: not one of the classifier's{nearest(label, labels.names)}")
    clip = labels.clip
    square = load_pixels(image, clip.card.preprocessing, clip.policy)
    whole_K = log_probabilities(labels, square[None])[0]
    number = int(whole_K.argmax()) if label is None else labels.names.index(label)
    size = square.shape[0]
    lost, covered = np.zeros((size, size)), np.zeros((size, size))
    colour = square.mean(axis=(0, 1)).astype(np.uint8)
    windows = list(_windows(size))
    for start in range(0, len(windows), _AT_ONCE):
        group = windows[start : start + _AT_ONCE]
        squares = np.repeat(square[None], len(group), axis=0)
        for one, window in zip(squares, group, strict=True):
            one[window] = colour
        for window, loss in zip(group, whole_K[number] - log_probabilities(labels, squares)[:, number], strict=True):
            lost[window] += loss
            covered[window] += 1
    return Explanation(labels.names[number], square, (lost / covered).astype(np.float32))


def log_probabilities(labels: ZeroShotClassifier, squares: NDArray[np.uint8]) -> NDArray[np.float64]:
    """(N, S, S, 3) uint8 -> (N, K): logarithms of the softmax over the labels; for one label its scaled cosine."""
    logits_NK = labels.clip.logits(labels.clip.runtime.encode_pixels(squares), labels.weights).astype(np.float64)
    if logits_NK.shape[1] == 1:
        return logits_NK
    logits_NK /= labels.calibration.temperature
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    return np.asarray(shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True)))


def _windows(size: int) -> Iterator[tuple[slice, slice]]:
    """Squares that cover every place, those at the edges too."""
    side = max(1, round(size * _WINDOW_SHARE))
    starts = np.unique(np.linspace(0, size - side, STEPS).round().astype(int))
    for top in starts:
        for left in starts:
            yield slice(top, top + side), slice(left, left + side)
