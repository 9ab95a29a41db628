"""Thumbnails: small JPEG files of whole images, for pages."""

import io

from PIL import Image

from wordsight.image.decode import MAX_PIXELS, SUPPORTS_SCALING, as_pillow, decode_within
from wordsight.image.memory import BUDGET, Reservation
from wordsight.image.policies import Policy
from wordsight.image.source import ImageRef, ImageSource

THUMBNAIL_PX = 176
"""The longer side of a thumbnail: sharp at the size at which pages show it, and about 6 kB as JPEG."""

_JPEG_QUALITY = 78


def thumbnail(image: ImageSource | ImageRef, policy: Policy = "viewer", side_px: int = THUMBNAIL_PX) -> bytes:
    """Return an image as a small JPEG; it is not cropped, and never enlarged.

    Args:
        image: the image.
        policy: how it is decoded.
        side_px: the longer side of the thumbnail is at most this.

    Raises:
        ImageError: the image cannot be read.
    """
    name = image.name if isinstance(image, ImageRef) else None
    source = image.read() if isinstance(image, ImageRef) else image
    min_px = side_px if SUPPORTS_SCALING else None
    with Reservation(BUDGET) as memory:
        small = as_pillow(decode_within(memory, source, policy, MAX_PIXELS, name, min_px, padded=False))
        small.thumbnail((side_px, side_px), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=_JPEG_QUALITY)
    return file.getvalue()
