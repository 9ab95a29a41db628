"""From an RGB image to what a published model was trained to see: a square, then numbers around zero.

The square stays uint8, so that it travels small; `normalise` makes floats of it once, wherever mean and deviation
are applied. Both halves keep the behaviour of the published pipelines to the bit: Pillow's resampling, torchvision's
`Resize` (the longer side truncated), `CenterCrop` (the offset rounded half to even), `ToTensor` and `Normalize`.

Order: OpenAI's and open_clip's own transforms resize and crop before they convert to RGB; here, as in torchvision's
and WebDataset's loaders with which the published evaluations ran, the image is RGB before it is resized. For
RGB files there is no difference; for palette images the former would resize palette indices.
"""

from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from wordsight.config import Config
from wordsight.errors import ConfigError, ImageError
from wordsight.image.decode import MAX_PIXELS, Policy, as_pillow, decode, name_of
from wordsight.image.source import ImageSource

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Mean of red, green, blue in OpenAI's CLIP (`clip/clip.py: _transform`), samples in 0 to 1."""

CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Standard deviation beside `CLIP_MEAN`."""

_MAX_RESIZED_PIXELS = 1 << 26
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


Decoding: TypeAlias = Literal["exact", "cropped", "scaled"]


class Preprocessing(Config, frozen=True, kw_only=True):
    """What a model expects of its images; part of its card.

    Attributes:
        size_px: side of the square.
        mean, std: of red, green, blue, for samples in 0 to 1.
        resize: `shortest`, the shorter side to `size_px` and the centre cropped out; `squash`, both sides to it.
        interpolation: Pillow's filter.
        decoding: `exact`; `cropped`: of a wide image only the part that is kept is resized, a sample in some ten
            thousand then is one level off, or two where noise is enlarged; or `scaled`: cropped, and JPEG files are
            decoded at a part of their size, which moves the vectors a little (docs/performance.md).
        crop: what becomes of the half pixel of an odd margin: `round`, half to even, as OpenAI and open_clip do by
            torchvision; `floor`, as transformers does.
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
        name: what errors call it.

    Returns:
        (size_px, size_px, 3) uint8, a new array.

    Raises:
        ImageError: so long and thin that its resized form would exceed 67 million pixels.

    Source: torchvision's `Resize` and `CenterCrop` on Pillow images, as in OpenAI's `clip/clip.py: _transform`.
    """
    height, width = image.shape[:2]
    size_px = preprocessing.size_px
    resized_width, resized_height = size_px, size_px
    if preprocessing.resize == "shortest":
        if width <= height:
            resized_height = int(size_px * height / width)
        else:
            resized_width = int(size_px * width / height)
    if resized_width * resized_height > _MAX_RESIZED_PIXELS:
        raise ImageError(
            f"{name}: {width} x {height} pixels would be {resized_width} x {resized_height} before the centre is "
            f"cropped, more than {_MAX_RESIZED_PIXELS} pixels; cut it to a less thin shape"
        )
    margins = (resized_width - size_px, resized_height - size_px)
    left, top = (m // 2 if preprocessing.crop == "floor" else round(m / 2) for m in margins)
    whole, form = as_pillow(image), _FILTERS[preprocessing.interpolation]
    if left and preprocessing.decoding != "exact":
        # one axis at a time, as Pillow does it for wide images: first the columns that are kept, then all rows
        box = (left * width / resized_width, 0, (left + size_px) * width / resized_width, height)
        return np.array(whole.resize((size_px, height), form, box).resize((size_px, size_px), form))
    resized = whole.resize((resized_width, resized_height), form)
    return np.array(resized.crop((left, top, left + size_px, top + size_px)))


def normalise(square: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """(x / 255 - mean) / std in float32, channels first.

    Args:
        square: (H, W, 3) or (N, H, W, 3) uint8.

    Returns:
        (3, H, W) or (N, 3, H, W) float32, contiguous.

    Source: torchvision's `ToTensor` and `Normalize`, the same operations in the same order and precision.
    """
    values: npt.NDArray[np.float32] = np.moveaxis(square, -1, -3).astype(np.float32, order="C")
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
    """Decode one image, resize and crop it: (size_px, size_px, 3) uint8; arguments and errors as `decode`."""
    least_px = preprocessing.size_px if preprocessing.decoding == "scaled" else None
    image = decode(source, policy, max_pixels, name, least_px, padded=True)
    return resize_and_crop(image, preprocessing, name_of(source, name))


def preprocess(
    source: ImageSource,
    preprocessing: Preprocessing,
    policy: Policy = "viewer",
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
) -> npt.NDArray[np.float32]:
    """Decode, square and normalise one image: (3, size_px, size_px) float32; arguments and errors as `decode`."""
    return normalise(load_pixels(source, preprocessing, policy, max_pixels, name), preprocessing)
