"""Decoding of untrusted images from any source to RGB arrays, by one of two named policies.

Only eight formats are opened (`formats.py`). The size that a header claims is compared with a limit before any pixels
are decoded, and every failure is an `ImageError`. Pillow decodes all formats except HEIF, which pillow-heif decodes
(extra `heif`).

The policies (`Policy`):

- `published` decodes as the published evaluations did: Pillow's `convert("RGB")` and nothing else. Alpha is dropped,
  the EXIF orientation is ignored (except that Pillow itself rotates TIFF files, and libheif HEIF files), and 16-bit
  grey is clipped at 255.
- `viewer` decodes what a person sees: rotated by the EXIF orientation, with alpha over white and with 16-bit grey
  scaled to 8 bits.

With both policies an animation is its first frame, and CMYK is converted by Pillow, with Adobe's inversion undone.
"""

import io
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from wordsight.errors import ConfigError, ImageError, MissingExtraError, nearest
from wordsight.image.formats import claimed_size, detect_format, open_header, open_heif, without_warnings
from wordsight.image.source import ImageSource

try:
    import simplejpeg
except ImportError:  # the extra `fast`
    simplejpeg = None

Policy: TypeAlias = Literal["published", "viewer"]

MAX_PIXELS = 178_956_970
"""The number of pixels above which Pillow itself refuses an image: half a gigabyte as RGB."""

_MAX_FILE_BYTES = 1 << 30
_FASTEST = {"fastdct": True, "fastupsample": True}
# The exceptions of Pillow's readers for damaged files, found by changing bytes at random.
_DECODING_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
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


def decode(
    source: ImageSource,
    policy: Policy = "viewer",
    max_pixels: int = MAX_PIXELS,
    name: str | None = None,
    min_px: int | None = None,
    padded: bool = False,
) -> npt.NDArray[np.uint8]:
    """Decode an image to RGB.

    Args:
        source: path, bytes of a file, Pillow image, or uint8 array: (H, W, 3), (H, W) grey or (H, W, 4) RGBA.
        policy: `viewer`, as a person sees it, or `published`, as the published pipelines decode it; see the module
            docstring.
        max_pixels: limit for width times height, compared with the header before anything is decoded.
        name: name of the image in errors; by default `source_name(source)`.
        min_px: allow a JPEG file to be decoded at n/8 of its size, as small as possible with both sides at least
            this long. This is faster, but the pixels differ (extra `fast`).
        padded: allow a JPEG file to be returned as a view of a (H, W, 4) array, the layout of Pillow; see `as_pillow`.

    Returns:
        (H, W, 3) uint8, contiguous unless `padded`. A contiguous RGB array is returned unchanged, sharing its memory;
        for any other source, the array is new.

    Raises:
        ImageError: the image is missing, not an image, damaged, truncated, or exceeds a limit.
        ConfigError: there is no such policy.
        MissingExtraError: `min_px` needs simplejpeg.
    """
    if min_px is not None and simplejpeg is None:
        raise MissingExtraError("scaled decoding", "fast")
    if policy not in get_args(Policy):
        raise ConfigError(f"image policy {policy!r}: expected published or viewer{nearest(policy, get_args(Policy))}")
    name = source_name(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, policy, max_pixels, name)
    if isinstance(source, Image.Image):
        return _from_image(source, policy, max_pixels, name)
    if isinstance(source, bytes):
        return _from_bytes(source, policy, max_pixels, name, min_px, padded)
    if isinstance(source, str | Path):
        return _from_bytes(read_image(Path(source), name), policy, max_pixels, name, min_px, padded)
    raise ImageError(f"{name}: expected a path, bytes, a Pillow image or a uint8 array, not {_type_name(source)}")


def source_name(source: ImageSource, name: str | None = None) -> str:
    """Return the name of an image in errors: `name`, its path, or otherwise `<bytes>`, `<image>` or `<array>`."""
    if name:
        return name
    if isinstance(source, np.ndarray):
        return "<array>"
    if isinstance(source, Image.Image):
        return str(getattr(source, "filename", "") or "<image>")
    return str(source) if isinstance(source, str | Path) else f"<{_type_name(source)}>"


def _type_name(source: object) -> str:
    return type(source).__name__


def _from_array(array: npt.NDArray[Any], policy: Policy, max_pixels: int, name: str) -> npt.NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and channels not in (3, 4)):
        raise ImageError(
            f"{name}: array of shape {array.shape} and dtype {array.dtype}; "
            "expected (H, W, 3), (H, W) or (H, W, 4) uint8"
        )
    _check_size(array.shape[1], array.shape[0], max_pixels, name)
    if channels == 3:
        return np.ascontiguousarray(array)
    if channels == 4:
        return _from_image(Image.fromarray(array), policy, max_pixels, name)
    return np.repeat(array[:, :, None], 3, axis=2)


def _from_image(image: Image.Image, policy: Policy, max_pixels: int, name: str) -> npt.NDArray[np.uint8]:
    _check_size(image.width, image.height, max_pixels, name)
    try:
        image.load()
        return _rgb(image, policy, name)
    except _DECODING_ERRORS as error:
        raise _decoding_error(name, image.format or image.mode, error) from error


def _from_bytes(
    content: bytes, policy: Policy, max_pixels: int, name: str, min_px: int | None, padded: bool
) -> npt.NDArray[np.uint8]:
    file_format = detect_format(content, name)
    early_size = claimed_size(content, file_format)
    if early_size is not None and min(early_size) > 0:  # a GIF without a canvas size has the size of its frame
        _check_size(*early_size, max_pixels, name)
    try:
        if file_format == "HEIF":
            return _rgb(_from_heif(content, max_pixels, name), policy, name)
        with io.BytesIO(content) as file, without_warnings(content, file_format):
            image = open_header(file, file_format)
            _check_size(image.width, image.height, max_pixels, name)
            pixels = _fast_jpeg(content, image, min_px, padded) if file_format == "JPEG" else None
            if pixels is None:
                image.load()
        if pixels is None:
            return _rgb(image, policy, name)
        transpose = _exif_transpose(image) if policy == "viewer" else None
        return pixels if transpose is None else np.array(Image.fromarray(pixels).transpose(transpose))
    except _DECODING_ERRORS as error:
        raise _decoding_error(name, file_format, error) from error


def _from_heif(content: bytes, max_pixels: int, name: str) -> Image.Image:
    """Decode a HEIF file; libheif applies its rotation, so the orientation in the EXIF block must be ignored."""
    file = open_heif(content, name)
    _check_size(file.size[0], file.size[1], max_pixels, name)
    image: Image.Image = file.to_pillow()
    _check_size(image.width, image.height, max_pixels, name)  # the decoded image can have another size than the header
    return image


def _fast_jpeg(
    content: bytes, image: Image.Image, min_px: int | None = None, padded: bool = False
) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG to the same pixels as Pillow, but faster, by simplejpeg (extra `fast`); None: use Pillow.

    Both are libjpeg-turbo with its defaults. If simplejpeg fails, Pillow decodes the file again, so that errors are the
    same whether simplejpeg is installed or not. With `min_px` the inverse transform computes fewer pixels.
    """
    if simplejpeg is None or image.mode not in ("RGB", "L"):
        return None
    try:
        scaling = {} if min_px is None else {"min_height": min_px, "min_width": min_px, **_FASTEST}
        return np.asarray(simplejpeg.decode_jpeg(content, "RGBX" if padded else "RGB", **scaling))[:, :, :3]
    except ValueError:
        return None


def as_pillow(image: npt.NDArray[np.uint8]) -> Image.Image:
    """Convert an RGB array to a Pillow image, sharing the memory of a view of (H, W, 4), otherwise a copy."""
    padded = image.base
    if image.strides[1] != 4 or not isinstance(padded, np.ndarray) or padded.shape != (*image.shape[:2], 4):
        return Image.fromarray(image)
    import pyarrow

    pixels = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(padded.reshape(-1)), 4)
    return Image.fromarrow(pixels, "RGB", (image.shape[1], image.shape[0]))


def read_image(path: Path, name: str | None = None) -> bytes:
    """Read the bytes of an image file of at most 1 GiB.

    Args:
        path: the file.
        name: name of the image in errors; by default the path.

    Raises:
        ImageError: the file is missing, not a regular file, or too large.
    """
    name = name or str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # if it cannot be listed, report that instead
            raise ImageError(f"{name}: a directory, not an image; name the images in it")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe could block, and a device may never end
            raise ImageError(f"{name}: not a regular file; save the image first")
        if status.st_size > _MAX_FILE_BYTES:
            raise ImageError(f"{name}: {status.st_size} bytes; expected at most {_MAX_FILE_BYTES}; make it smaller")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageError(f"{name!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height} pixels: an empty image; leave it out")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels, more than the limit of {max_pixels}; "
            "make it smaller, or raise max_pixels if you trust it"
        )


def _decoding_error(name: str, file_format: str, error: BaseException) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{name}: more pixels than Pillow decodes from {file_format} ({reason}); make it smaller")
    return ImageError(f"{name}: cannot be decoded as {file_format}: {reason}; fetch or save it again")


def _rgb(image: Image.Image, policy: Policy, name: str) -> npt.NDArray[np.uint8]:
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
    if image.mode.startswith("I"):
        rgb = _from_16_bits(image, name).convert("RGB")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    transpose = _exif_transpose(image)
    return rgb if transpose is None else rgb.transpose(transpose)


def _exif_transpose(image: Image.Image) -> Image.Transpose | None:
    """The operation that makes an image upright according to its EXIF block; None if it is upright already."""
    return _TRANSPOSE.get(_orientation(image.info.get("exif", b"")))


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    """Scale grey samples of 0 to 65535 to 0 to 255, rounded; the transparent value, if there is one, becomes white."""
    samples = np.asarray(image)
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        raise ImageError(f"{name}: 32-bit samples have no standard range; save it with 8-bit or 16-bit samples")
    grey = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if "transparency" in image.info:
        grey[samples == image.info["transparency"]] = 255
    return Image.fromarray(grey)


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
