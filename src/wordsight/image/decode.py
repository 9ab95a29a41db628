"""Decoding of untrusted images from any source to RGB arrays, by one of two named policies.

Only eight formats are opened (`formats.py`). The size that a header claims is compared with a limit before any pixels
are decoded, the number of scans and other parts is limited (`structure.py`), the memory is reserved in a budget that
all threads share (`memory.py`), and every failure is an `ImageError`. Pillow decodes all formats except HEIF, which
pillow-heif decodes (extra `heif`).

The policies (`Policy`):

- `published` decodes as the published evaluations did: Pillow's `convert("RGB")` and nothing else. Alpha is dropped,
  the EXIF orientation is ignored (except that Pillow itself rotates TIFF files, and libheif HEIF files), and 16-bit
  grey is clipped at 255, in TIFF files without regard to white-is-zero.
- `viewer` decodes what a person sees: rotated by the EXIF orientation, with alpha over white and with 12-bit and 16-bit
  grey scaled to 8 bits.

With both policies an animation is its first frame, and CMYK is converted by Pillow, with Adobe's inversion undone.
"""

import io
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from wordsight.errors import ConfigError, ImageError, MissingExtraError, nearest, printable
from wordsight.image.av1 import largest_frame
from wordsight.image.formats import claimed_size, detect_format, open_header, open_heif, without_warnings
from wordsight.image.memory import BUDGET, Reservation
from wordsight.image.policies import Policy, exif_transpose, to_rgb
from wordsight.image.source import ImageSource
from wordsight.image.structure import (
    CHECKS,
    check_scans,
    check_tiff,
    count_scans,
    has_several_scans,
    pixel_chunks,
)

try:
    import simplejpeg
except ImportError:  # the extra `fast`
    simplejpeg = None

SUPPORTS_SCALING = simplejpeg is not None
"""Whether JPEG files can be decoded at a fraction of their size; see `decode`."""

MAX_PIXELS = 178_956_970
"""The number of pixels above which Pillow itself refuses an image: half a gigabyte as RGB."""

_MAX_FILE_BYTES = 1 << 30
_POLICIES = get_args(Policy)
# Peak memory of decoding, rotating and resizing, in bytes per pixel: the largest of the measured modes, rounded up.
_PEAK_BYTES = {"JPEG": 16, "PNG": 16, "GIF": 14, "TIFF": 16, "BMP": 16, "WebP": 26, "AVIF": 26, "HEIF": 26}
_PEAK_BYTES_OF_PILLOW = 16
_ALLOCATED_ON_OPENING = ("WebP", "AVIF", "HEIF")
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
    with Reservation(BUDGET) as memory:
        return decode_within(memory, source, policy, max_pixels, name, min_px, padded)


def decode_within(
    memory: Reservation,
    source: ImageSource,
    policy: Policy,
    max_pixels: int,
    name: str | None,
    min_px: int | None,
    padded: bool,
) -> npt.NDArray[np.uint8]:
    """Decode an image as `decode` does, and keep its memory reserved until the caller releases it."""
    if min_px is not None and simplejpeg is None:
        raise MissingExtraError("scaled decoding", "fast")
    if policy not in _POLICIES:
        raise ConfigError(f"image policy {policy!r}: expected published or viewer{nearest(policy, _POLICIES)}")
    name = source_name(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(memory, source, policy, max_pixels, name)
    if isinstance(source, Image.Image):
        return _from_image(memory, source, policy, max_pixels, name)
    if isinstance(source, (str, Path)):
        source = read_image(Path(source), name)
    if isinstance(source, bytes):
        return _File(memory, source, policy, max_pixels, name).decode(min_px, padded)
    raise ImageError(f"{name}: expected a path, bytes, a Pillow image or a uint8 array, not {_type_name(source)}")


def source_name(source: ImageSource, name: str | None = None) -> str:
    """Return the printable name of an image: `name`, its path, or otherwise `<bytes>`, `<image>` or `<array>`."""
    if name:
        return printable(name)
    if isinstance(source, np.ndarray):
        return "<array>"
    if isinstance(source, Image.Image):
        return printable(getattr(source, "filename", "") or "<image>")
    return printable(source) if isinstance(source, (str, Path)) else f"<{_type_name(source)}>"


def _type_name(source: object) -> str:
    return type(source).__name__


def _from_array(
    memory: Reservation, array: npt.NDArray[Any], policy: Policy, max_pixels: int, name: str
) -> npt.NDArray[np.uint8]:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and channels not in (3, 4)):
        raise ImageError(
            f"{name}: array of shape {array.shape} and dtype {array.dtype}; "
            "expected (H, W, 3), (H, W) or (H, W, 4) uint8"
        )
    _check_size(array.shape[1], array.shape[0], max_pixels, name)
    if channels == 4:
        return _from_image(memory, Image.fromarray(array), policy, max_pixels, name)
    memory.hold(array.shape[0] * array.shape[1] * _PEAK_BYTES_OF_PILLOW, name)
    return np.ascontiguousarray(array) if channels == 3 else np.repeat(array[:, :, None], 3, axis=2)


def _from_image(
    memory: Reservation, image: Image.Image, policy: Policy, max_pixels: int, name: str
) -> npt.NDArray[np.uint8]:
    _check_size(image.width, image.height, max_pixels, name)
    memory.hold(image.width * image.height * _PEAK_BYTES_OF_PILLOW, name)
    try:
        image.load()
        return to_rgb(image, policy, name)
    except _DECODING_ERRORS as error:
        raise _decoding_error(name, image.format or image.mode, error) from error


class _File:
    """An image file in memory, its limits, and the memory reserved for it."""

    def __init__(self, memory: Reservation, content: bytes, policy: Policy, max_pixels: int, name: str) -> None:
        self._memory, self._content, self._name = memory, content, name
        self._policy, self._max_pixels = policy, max_pixels
        self._format = detect_format(content, name)

    def decode(self, min_px: int | None, padded: bool) -> npt.NDArray[np.uint8]:
        """Decode the file; for the arguments see the function `decode`."""
        early_size = claimed_size(self._content, self._format)
        if early_size is not None and min(early_size) > 0:  # a GIF without a canvas size has the size of its frame
            _check_size(*early_size, self._max_pixels, self._name)
        try:
            tile_size = self._check_structure()
            if self._format == "HEIF":
                return self._decode_heif(early_size or (1, 1))
            if self._format in _ALLOCATED_ON_OPENING:
                self._reserve(*early_size or (1, 1), largest_frame(self._content) if self._format == "AVIF" else 0, 1)
            with io.BytesIO(self._content) as file, without_warnings(self._format):
                image = open_header(file, self._format, self._policy)
                _check_size(image.width, image.height, self._max_pixels, self._name)
                if self._format == "JPEG":
                    pixels = self._decode_jpeg(image, file.tell(), min_px, padded)
                    if pixels is not None:
                        return pixels
                if self._format not in _ALLOCATED_ON_OPENING or early_size is None:
                    self._reserve(image.width, image.height, *tile_size)
                image.load()
            return to_rgb(image, self._policy, self._name)
        except _DECODING_ERRORS as error:
            raise _decoding_error(self._name, self._format, error) from error

    def _check_structure(self) -> tuple[int, int]:
        """Check the parts of the file; returns the size of the tiles of a TIFF, or zeros."""
        if self._format in CHECKS:
            CHECKS[self._format](self._content)
        elif self._format == "PNG":
            self._content = pixel_chunks(self._content)
        elif self._format == "TIFF":
            tile_size = check_tiff(self._content)
            if min(tile_size) > 0:
                _check_size(*tile_size, self._max_pixels, f"{self._name}: tiles")
            return tile_size
        return 0, 0

    def _reserve(self, width: int, height: int, tile_width: int = 0, tile_height: int = 0) -> None:
        num_pixels = max(width * height, tile_width * tile_height)
        self._reserve_bytes(num_pixels * _PEAK_BYTES[self._format])

    def _reserve_bytes(self, num_bytes: int) -> None:
        self._memory.hold(num_bytes + 2 * len(self._content), self._name)

    def _decode_heif(self, early_size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """Decode a HEIF file; libheif applies its rotation, so the orientation in the EXIF block must be ignored."""
        self._reserve(*early_size)
        file = open_heif(self._content, self._name)
        _check_size(file.size[0], file.size[1], self._max_pixels, self._name)
        if file.size[0] * file.size[1] > early_size[0] * early_size[1]:
            self._reserve(*file.size)
        image: Image.Image = file.to_pillow()
        # the decoded image can have another size than the header
        _check_size(image.width, image.height, self._max_pixels, self._name)
        return to_rgb(image, self._policy, self._name)

    def _decode_jpeg(
        self, image: Image.Image, end_of_header: int, min_px: int | None, padded: bool
    ) -> npt.NDArray[np.uint8] | None:
        """Decode with simplejpeg; None: use Pillow."""
        num_pixels = image.width * image.height
        transpose = exif_transpose(image) if self._policy == "viewer" else None
        scale = 1.0 if min_px is None else min(8, -(-8 * min_px // min(image.size))) / 8
        num_bytes = int(num_pixels * scale**2 * (5 if transpose is None else _PEAK_BYTES["JPEG"]))
        if has_several_scans(self._content, end_of_header, image):
            check_scans(count_scans(self._content, end_of_header), num_pixels, self._name)
            num_bytes += num_pixels * 2 * len(image.getbands())  # libjpeg keeps the coefficients, of two bytes each
        self._reserve_bytes(num_bytes)
        pixels = _fast_jpeg(self._content, image, min_px, padded)
        if pixels is None or transpose is None:
            return pixels
        return np.array(Image.fromarray(pixels).transpose(transpose))


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
    name = printable(name or path)
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
        raise ImageError(f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


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
