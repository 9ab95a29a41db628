"""The preprocessing of published models: resize and crop to a square, then normalise.

The square stays uint8, which is small to transfer; `normalise` converts it to float once, where mean and standard
deviation are applied. Both steps reproduce the published pipelines bit for bit: Pillow's resampling and torchvision's
`Resize` (the longer side is truncated), `CenterCrop` (the offset is rounded half to even), `ToTensor` and `Normalize`.

The transforms of OpenAI and open_clip resize and crop before they convert to RGB. Here the image is converted to RGB
first, as in the loaders of torchvision and WebDataset, with which the published evaluations ran. For RGB files there
is no difference; for palette images, the former order would resize palette indices.
"""

import math
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from wordsight.config import Config
from wordsight.errors import ConfigError, ImageError
from wordsight.image.decode import MAX_PIXELS, as_pillow, decode_within, source_name
from wordsight.image.memory import BUDGET, Reservation
from wordsight.image.policies import Policy
from wordsight.image.source import ImageSource

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green, blue in OpenAI's CLIP (`clip/clip.py: _transform`), samples in 0 to 1."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation of red, green, blue in OpenAI's CLIP, samples in 0 to 1."""

Decoding: TypeAlias = Literal["exact", "cropped", "scaled"]

_MAX_RESIZED_PIXELS = 1 << 26
_MAX_UNRESERVED_BYTES = 1 << 24
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


class Preprocessing(Config, frozen=True, kw_only=True):
    """How images are converted to the input of a model; part of its card.

    Attributes:
        size_px: side of the square input.
        mean, std: mean and standard deviation of red, green, blue, for samples in 0 to 1.
        resize: `shortest` resizes the shorter side to `size_px` and crops the centre; `squash` resizes both sides.
        interpolation: Pillow's resampling filter.
        decoding: `exact` is the published behaviour. `cropped` resizes only the part of a wide image that is kept;
            about one sample in ten thousand then differs by one level, or by two where noise is enlarged. `scaled` is
            `cropped`, and JPEG files are also decoded at a fraction of their size, which changes embeddings slightly;
            the performance page of the docs has the measured effects.
        crop: rounding of an odd margin: `round`, half to even, as in torchvision, OpenAI's CLIP and open_clip; or
            `floor`, as in transformers.
    """

    size_px: int
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    resize: Literal["shortest", "squash"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    crop: Literal["round", "floor"] = "round"
    decoding: Decoding = "exact"

    def __post_init__(self) -> None:
        if self.size_px < 1 or self.size_px**2 > _MAX_RESIZED_PIXELS:
            raise ConfigError(f"preprocessing size_px {self.size_px}: expected 1 to {int(_MAX_RESIZED_PIXELS**0.5)}")
        if min(self.std) <= 0:
            raise ConfigError(f"preprocessing std {self.std}: expected three numbers above 0")


def resize_and_crop(
    image: npt.NDArray[np.uint8], preprocessing: Preprocessing, name: str = "<array>"
) -> npt.NDArray[np.uint8]:
    """Resize and crop an image as published.

    Args:
        image: (H, W, 3) uint8.
        preprocessing: size and rounding.
        name: name of the image in errors.

    Returns:
        (size_px, size_px, 3) uint8, a new array.

    Raises:
        ImageError: the image is so narrow that, resized but not cropped, it would exceed 67 million pixels.

    Source: torchvision's `Resize` and `CenterCrop` on Pillow images, as in OpenAI's `clip/clip.py: _transform`.
    """
    height, width = image.shape[:2]
    size_px = preprocessing.size_px
    resized_width, resized_height = _resized_size(width, height, preprocessing)
    if resized_width * resized_height > _MAX_RESIZED_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} pixels would be {resized_width} x {resized_height} before the centre is "
            f"cropped, more than {_MAX_RESIZED_PIXELS} pixels; crop it to a less narrow shape"
        )
    margins = (resized_width - size_px, resized_height - size_px)
    left, top = (m // 2 if preprocessing.crop == "floor" else round(m / 2) for m in margins)
    whole, resampling = as_pillow(image), _FILTERS[preprocessing.interpolation]
    if left and preprocessing.decoding != "exact":
        # one axis at a time, as Pillow resizes wide images: first the columns that are kept, then all rows
        box = (left * width / resized_width, 0, (left + size_px) * width / resized_width, height)
        return np.array(whole.resize((size_px, height), resampling, box).resize((size_px, size_px), resampling))
    resized = whole.resize((resized_width, resized_height), resampling)
    return np.array(resized.crop((left, top, left + size_px, top + size_px)))


def _resized_size(width: int, height: int, preprocessing: Preprocessing) -> tuple[int, int]:
    """Width and height of an image that is resized and not cropped yet."""
    size_px = preprocessing.size_px
    if preprocessing.resize == "squash":
        return size_px, size_px
    if width <= height:
        return size_px, int(size_px * height / width)
    return int(size_px * width / height), size_px


def normalise(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """Compute (x / 255 - mean) / std in float32, channels first.

    Args:
        pixels: (H, W, 3) or (N, H, W, 3) uint8.
        preprocessing: mean and standard deviation.

    Returns:
        (3, H, W) or (N, 3, H, W) float32, contiguous.

    Source: torchvision's `ToTensor` and `Normalize`, the same operations in the same order and precision.
    """
    values: npt.NDArray[np.float32] = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
    values /= np.float32(255)
    values -= np.asarray(preprocessing.mean, dtype=np.float32)[:, None, None]
    values /= np.asarray(preprocessing.std, dtype=np.float32)[:, None, None]
    return values


def load_pixels(
    source: ImageSource,
    preprocessing: Preprocessing,
    policy: Policy = "viewer",
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode, resize and crop one image to (size_px, size_px, 3) uint8; arguments and errors as for `decode`."""
    min_px = preprocessing.size_px if preprocessing.decoding == "scaled" else None
    with Reservation(BUDGET) as memory:
        image = decode_within(memory, source, policy, max_pixels, name, min_px, padded=True)
        name = source_name(source, name)
        enlarged_bytes = 8 * math.prod(_resized_size(image.shape[1], image.shape[0], preprocessing))
        if enlarged_bytes > max(_MAX_UNRESERVED_BYTES, 4 * image.size):  # a narrow image
            memory.hold(enlarged_bytes, name)
        return resize_and_crop(image, preprocessing, name)


def preprocess(
    source: ImageSource,
    preprocessing: Preprocessing,
    policy: Policy = "viewer",
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> npt.NDArray[np.float32]:
    """Decode, resize, crop and normalise one image to (3, size_px, size_px) float32; otherwise as `load_pixels`."""
    return normalise(load_pixels(source, preprocessing, policy, max_pixels, name), preprocessing)
