"""Occlusion maps: which parts of an image support a label (after Zeiler and Fergus 2013, arXiv 1311.2901, section 4.2).

A window slides over the preprocessed image and fills the covered pixels with the mean colour of the image. Each pixel
is credited with the mean drop in the label's log probability over all windows that cover it. This needs no gradients,
so it works with every runtime.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.encoder.pipeline import AnyImage
from wordsight.errors import ConfigError, nearest
from wordsight.image import ImageRef, load_pixels
from wordsight.zeroshot.classifier import ZeroShotClassifier

STEPS = 8
"""The number of window positions along each side."""

_WINDOW_SHARE = 1 / 4
_WINDOWS_PER_BATCH = 64
_HIGHLIGHT_COLOUR = np.array([255, 60, 0], np.float32)
_MAX_HIGHLIGHT_OPACITY = 0.65
_MIN_PNG_SIDE_PX = 256


@dataclass(frozen=True, eq=False)
class Explanation:
    """An occlusion map for one image and one label.

    Attributes:
        label: the label that is explained.
        pixels: (S, S, 3) uint8, the preprocessed image, as the model receives it.
        log_probability_drop: (S, S) float32, the mean drop in the label's log probability while a pixel is covered;
            a negative value means that the pixel is evidence against the label.
    """

    label: str
    pixels: NDArray[np.uint8]
    log_probability_drop: NDArray[np.float32]

    def to_png(self) -> bytes:
        """Render as a PNG of at least 256 x 256 px: pixels that support the label are coloured and red, others grey."""
        grey = self.pixels.mean(axis=2, keepdims=True).repeat(3, axis=2)
        largest = max(float(self.log_probability_drop.max()), 1e-9)
        share = np.clip(self.log_probability_drop / largest, 0, 1)[..., None]
        blended = grey * (1 - share) + self.pixels * share
        opacity = _MAX_HIGHLIGHT_OPACITY * share**2
        file = io.BytesIO()
        side = max(_MIN_PNG_SIDE_PX, len(self.pixels))
        image = Image.fromarray((blended * (1 - opacity) + _HIGHLIGHT_COLOUR * opacity).astype(np.uint8))
        image.resize((side, side), Image.Resampling.BICUBIC).save(file, "PNG")
        return file.getvalue()


def explain(classifier: ZeroShotClassifier, image: AnyImage, label: str | None = None) -> Explanation:
    """Compute the occlusion map of an image for one label.

    Args:
        classifier: the classifier whose prediction is explained.
        image: a path, the bytes of a file, a PIL image, a uint8 array or an `ImageRef`.
        label: one of `classifier.names`; the most probable one by default.

    Raises:
        ImageError: the image cannot be read.
        ConfigError: the classifier has no such label.
    """
    if label is not None and label not in classifier.names:
        raise ConfigError(f"label {label!r}: not one of the classifier's labels{nearest(label, classifier.names)}")
    clip = classifier.clip
    source, name = (image.read(), image.name) if isinstance(image, ImageRef) else (image, None)
    pixels = load_pixels(source, clip.card.preprocessing, clip.policy, name=name)
    uncovered_K = log_probabilities(classifier, pixels[None])[0]
    index = int(uncovered_K.argmax()) if label is None else classifier.names.index(label)
    size = pixels.shape[0]
    total_drop, num_covered = np.zeros((size, size)), np.zeros((size, size))
    colour = pixels.mean(axis=(0, 1)).astype(np.uint8)
    windows = list(_windows(size))
    for start in range(0, len(windows), _WINDOWS_PER_BATCH):
        batch = windows[start : start + _WINDOWS_PER_BATCH]
        covered = np.repeat(pixels[None], len(batch), axis=0)
        for image_HWC, window in zip(covered, batch, strict=True):
            image_HWC[window] = colour
        drops = uncovered_K[index] - log_probabilities(classifier, covered)[:, index]
        for window, drop in zip(batch, drops, strict=True):
            total_drop[window] += drop
            num_covered[window] += 1
    return Explanation(classifier.names[index], pixels, (total_drop / num_covered).astype(np.float32))


def log_probabilities(classifier: ZeroShotClassifier, pixels_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the log probabilities of all labels for preprocessed images.

    Args:
        classifier: a classifier with K labels.
        pixels_NHWC: (N, S, S, 3) uint8.

    Returns:
        (N, K) logarithms of the probabilities that the classifier shows. With a single label that competes with no
        other, whose probability is always 1, its logit instead.
    """
    return classifier.log_probabilities(classifier.clip.runtime.encode_pixels(pixels_NHWC))


def _windows(size: int) -> Iterator[tuple[slice, slice]]:
    """Yield square windows that together cover every pixel, including the edges."""
    side = max(1, round(size * _WINDOW_SHARE))
    starts = np.unique(np.linspace(0, size - side, STEPS).round().astype(int))
    for top in starts:
        for left in starts:
            yield slice(top, top + side), slice(left, left + side)
