"""How a loaded image becomes RGB under each of the two decoding policies; see `decode.py`."""

import struct
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageChops

from wordsight.errors import ImageError

Policy: TypeAlias = Literal["published", "viewer"]

_TRANSPOSE = {  # EXIF orientation -> the operation that makes the image upright (EXIF 2.32, 4.6.4, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION_TAG, _SHORT = 0x0112, 3
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _SIGNED = 258, 262, 339, 2  # tags of TIFF files, and a value


def to_rgb(image: Image.Image, policy: Policy, name: str) -> npt.NDArray[np.uint8]:
    """Convert a loaded image to (H, W, 3) uint8 by the policy."""
    rgb = _published_rgb(image) if policy == "published" else _viewer_rgb(image, name)
    return np.array(rgb, dtype=np.uint8)


def _published_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if "transparency" in image.info:  # no effect on the pixels, but Pillow warns about some values
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _viewer_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point samples have no standard range; save it with 8-bit samples")
    tags = getattr(image, "tag_v2", {})
    if tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED:
        raise ImageError(f"{name}: signed samples have no standard range; save it with 8-bit samples")
    is_white_zero = getattr(image, "is_white_zero", image.mode == "I;16" and tags.get(_PHOTOMETRIC) == 0)
    if image.mode.startswith("I"):
        rgb = _from_16_bits(image, is_white_zero, name).convert("RGB")
        return _upright(rgb, image)
    if is_white_zero:
        image = _inverted(image)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    return _upright(rgb, image)


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    transpose = exif_transpose(image)
    return rgb if transpose is None else rgb.transpose(transpose)


def exif_transpose(image: Image.Image) -> Image.Transpose | None:
    """The operation that makes an image upright according to its EXIF block; None if it is upright already."""
    return _TRANSPOSE.get(_orientation(image.info.get("exif", b"")))


def _inverted(image: Image.Image) -> Image.Image:
    if image.mode == "LA":
        grey, alpha = image.split()
        return Image.merge("LA", (ImageChops.invert(grey), alpha))
    return ImageChops.invert(image)


def _from_16_bits(image: Image.Image, is_white_zero: bool, name: str) -> Image.Image:
    """Scale grey samples of 0 to 65535 (of 0 to 4095 in a 12-bit TIFF) to 0 to 255, rounded.

    The transparent value, if there is one, becomes white.
    """
    samples = np.asarray(image)
    (bits,) = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))
    largest = (1 << min(16, bits)) - 1
    if is_white_zero:
        samples = ~samples if image.mode == "I" else largest - samples
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        raise ImageError(f"{name}: 32-bit samples have no standard range; save it with 8-bit or 16-bit samples")
    levels = ((np.arange(65536, dtype=np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    if "transparency" in image.info:
        levels[image.info["transparency"]] = 255
    return Image.fromarray(levels[samples])


def _orientation(exif: Any) -> int:
    """The orientation, 1 to 8, in an EXIF block; 1 if it is missing or damaged.

    Pillow is not used for this because it warns about damaged blocks, which are common.

    Source: EXIF 2.32, section 4.6; TIFF 6.0, section 2.
    """
    block = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (num_entries,) = struct.unpack_from(order + "H", block, start)
        for entry in range(num_entries):
            tag, value_type, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG and value_type == _SHORT:
                return int(value)
    except struct.error:
        return 1
    return 1
