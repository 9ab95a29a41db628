"""Training augmentation: a random crop, resized to a square and optionally mirrored.

Randomness is an argument. Every call makes the same number of draws, whatever the image and the settings are, so that
later draws from the same generator do not depend on them.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

from wordsight.config import Config
from wordsight.errors import ConfigError

_NUM_TRIES = 10


class Augmentation(Config, frozen=True, kw_only=True):
    """The distribution of training crops.

    Attributes:
        scale: smallest and largest share of the area of the image.
        ratio: smallest and largest width divided by height of the crop, before it is resized to a square.
        flip: mirror the crop with probability 1/2; off by default, because captions mention left and right.
        detail: smallest and largest share of `size_px` to which the crop is reduced before it is enlarged again, so
            that the model also learns from images smaller than its input; (1, 1) turns this off.
    """

    scale: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = False
    detail: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(f"augmentation scale {self.scale}: expected 0 < smallest <= largest <= 1")
        if not 0 < self.ratio[0] <= self.ratio[1] < math.inf:
            raise ConfigError(f"augmentation ratio {self.ratio}: expected 0 < smallest <= largest")
        if not 0 < self.detail[0] <= self.detail[1] <= 1:
            raise ConfigError(f"augmentation detail {self.detail}: expected 0 < smallest <= largest <= 1")


def augment(
    image: npt.NDArray[np.uint8], size_px: int, augmentation: Augmentation, generator: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Crop a random box from an image and resize it to a square with bicubic interpolation.

    Args:
        image: (H, W, 3) uint8; not modified.
        size_px: side of the square.
        augmentation: the distribution of crops.
        generator: the only source of randomness; 24 numbers are drawn from it.

    Returns:
        (size_px, size_px, 3) uint8, contiguous, a new array.

    Source: torchvision's `RandomResizedCrop` (Szegedy et al. 2014, arXiv 1409.4842, section 6) and
        `RandomHorizontalFlip`, with the same distributions and rounding but other random numbers.
    """
    draws = generator.random(2 * _NUM_TRIES + 4)
    left, top, width, height = _draw_box(image.shape[1], image.shape[0], augmentation, draws[:-1])
    crop = Image.fromarray(image[top : top + height, left : left + width])
    smallest, largest = augmentation.detail
    reduced_px = round(size_px * (smallest + (largest - smallest) * draws[-1]))
    if reduced_px < min(crop.size):
        crop = crop.resize((reduced_px, reduced_px), Image.Resampling.BICUBIC)
    pixels = np.asarray(crop.resize((size_px, size_px), Image.Resampling.BICUBIC))
    if augmentation.flip and draws[-2] < 0.5:
        pixels = pixels[:, ::-1]
    return pixels.copy()


def _draw_box(
    image_width: int, image_height: int, augmentation: Augmentation, draws: npt.NDArray[np.float64]
) -> tuple[int, int, int, int]:
    """Left, top, width and height of the first of ten random boxes that fits into the image, or else of the centre."""
    smallest, largest = augmentation.scale
    log_low, log_high = (math.log(ratio) for ratio in augmentation.ratio)
    numbers: list[float] = draws.tolist()
    for area_draw, ratio_draw in zip(numbers[0:-3:2], numbers[1:-3:2], strict=True):
        area = image_width * image_height * (smallest + (largest - smallest) * area_draw)
        ratio = math.exp(log_low + (log_high - log_low) * ratio_draw)
        width, height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < width <= image_width and 0 < height <= image_height:
            left = int(numbers[-3] * (image_width - width + 1))
            top = int(numbers[-2] * (image_height - height + 1))
            return left, top, width, height
    return _centre_box(image_width, image_height, augmentation)


def _centre_box(image_width: int, image_height: int, augmentation: Augmentation) -> tuple[int, int, int, int]:
    """Left, top, width and height of the largest centred box with an allowed ratio."""
    low, high = augmentation.ratio
    width, height = image_width, image_height
    if image_width / image_height < low:
        height = round(image_width / low)
    elif image_width / image_height > high:
        width = round(image_height * high)
    return (image_width - width) // 2, (image_height - height) // 2, width, height
