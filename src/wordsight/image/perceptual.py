"""Perceptual thumbnails: an image squeezed to a few pixels, with which copies of it can be recognised.

They play the role of a perceptual hash, and keep enough detail to align an image with a crop of it; see
`search/resemblance.py`.
"""

import io
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from wordsight.image.decode import MAX_PIXELS, SUPPORTS_SCALING, as_pillow, decode_within, source_name
from wordsight.image.formats import detect_format, open_header, without_warnings
from wordsight.image.memory import BUDGET, Reservation
from wordsight.image.policies import Policy

PERCEPTUAL_PX = 32
"""Side of a perceptual thumbnail."""

_MIN_DECODED_PX = 2 * PERCEPTUAL_PX  # JPEG files may be decoded at a fraction of their size, but not below this


class PerceptualThumbnail(NamedTuple):
    """A small version of an image, and the size of the image.

    Attributes:
        pixels: (32, 32, 3) uint8: luma, blue and red difference (ITU-R BT.601, full range, as in JPEG). The whole image
            is squeezed to a square.
        width, height: of the image file, before it is rotated as its EXIF block says.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int


def perceptual_thumbnail(
    content: bytes | npt.NDArray[np.uint8], name: str | None = None, policy: Policy = "viewer"
) -> PerceptualThumbnail:
    """Compute the perceptual thumbnail of an image.

    JPEG files are decoded at a fraction of their size if simplejpeg is installed (extra `fast`). Thumbnails then differ
    slightly, by less than what a copy of lower quality differs.

    Args:
        content: bytes of an image file, or (H, W, 3) uint8 pixels.
        name: name of the image in errors.
        policy: how the image is decoded.

    Raises:
        ImageError: the image cannot be read.
    """
    min_px = _MIN_DECODED_PX if SUPPORTS_SCALING else None
    with Reservation(BUDGET) as memory:
        pixels = decode_within(memory, content, policy, MAX_PIXELS, name, min_px, padded=True)
        small = as_pillow(pixels).resize((PERCEPTUAL_PX, PERCEPTUAL_PX), Image.Resampling.BICUBIC)
        width, height = _file_size(content, name) or pixels.shape[1::-1]
    return PerceptualThumbnail(np.asarray(small.convert("RGB").convert("YCbCr")), width, height)


def _file_size(content: bytes | npt.NDArray[np.uint8], name: str | None) -> tuple[int, int] | None:
    """Width and height that the header of a file states; None if the decoded pixels have them."""
    if not isinstance(content, bytes):
        return None
    file_format = detect_format(content, source_name(content, name))
    if file_format != "JPEG":  # only these are decoded at a fraction of their size
        return None
    with io.BytesIO(content) as file, without_warnings(file_format):
        return open_header(file, file_format).size
