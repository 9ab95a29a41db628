"""A image from anywhere becomes an RGB array, safely, and looked at in one of two named ways.

Images come from strangers. Only eight formats are opened (`formats.py`); the size that the header claims is
compared with a bound before pixels are decoded; whatever goes wrong is one `ImageError`. Pillow decodes; HEIF alone
is decoded by pillow-heif (extra `heif`).

The two ways to look (`Policy`):

- `published`, what the published evaluations did: Pillow's `convert("RGB")` and nothing else. Alpha is dropped,
  the EXIF orientation ignored (but Pillow turns TIFF files as it loads them, libheif HEIF files), 16-bit gray clipped
  at 255.
- `viewer`, what a person sees: turned by the EXIF orientation, alpha laid over white, 16-bit gray scaled to 8 bits.

Of an animation both see the first frame; CMYK goes through Pillow's conversion in both, Adobe's inversion undone.
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
from wordsight.image.formats import claimed_size, kind_of, open_header, open_heif, without_warnings
from wordsight.image.source import ImageSource

try:
    import simplejpeg
except ImportError:  # the extra `fast`
    simplejpeg = None

Policy: TypeAlias = Literal["published", "viewer"]

MAX_PIXELS = 178_956_970
"""The number of pixels at which Pillow itself refuses a image: half a gigabyte as RGB."""

_MAX_FILE_BYTES = 1 << 30
_QUICKEST = {"fastdct": True, "fastupsample": True}
# What Pillow's readers raise on bytes that are not what their header says; found by changing bytes at random.
_BROKEN = (
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
_TURNS = {  # EXIF orientation -> what brings the image upright (EXIF 2.32, section 4.6.4, tag 0x0112)
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
    least_px: int | None = None,
    padded: bool = False,
) -> npt.NDArray[np.uint8]:
    """Decode a image to RGB.

    Args:
        source: path, bytes of a file, Pillow image, or array ((H, W, 3), (H, W) gray or (H, W, 4) RGBA, uint8).
        policy: `viewer`, as a person sees it, or `published`, as the published pipelines see it (module docstring).
        max_pixels: bound on width times height, compared with the header before anything is decoded.
        name: what errors call the image; by default `name_of(source)`.
        least_px: a JPEG file may be decoded at an eighth or more of its size, as small as leaves both sides this
            long: select_runtime, and not the same pixels (extra `fast`).
        padded: a JPEG file may come as a view of (H, W, 4), which is how Pillow holds pixels: see `as_pillow`.

    Returns:
        (H, W, 3) uint8, contiguous but for `padded`. An RGB array comes back as it is, sharing memory; all else is new.

    Raises:
        ImageError: missing, not a image, broken, cut short, or above a bound.
        ConfigError: no such policy.
        MissingExtraError: `least_px` without simplejpeg.
    """
    if least_px is not None and simplejpeg is None:
        raise MissingExtraError("scaled decoding", "fast")
    if policy not in get_args(Policy):
        raise ConfigError(f"image policy {policy!r}: expected published or viewer{nearest(policy, get_args(Policy))}")
    name = name_of(source, name)
    if isinstance(source, np.ndarray):
        return _from_array(source, policy, max_pixels, name)
    if isinstance(source, Image.Image):
        return _from_image(source, policy, max_pixels, name)
    if isinstance(source, bytes):
        return _from_bytes(source, policy, max_pixels, name, least_px, padded)
    if isinstance(source, str | Path):
        return _from_bytes(read_image(Path(source), name), policy, max_pixels, name, least_px, padded)
    raise ImageError(f"{name}: a image is a path, bytes, a Pillow image or a uint8 array, not {_type_name(source)}")


def name_of(source: ImageSource, name: str | None = None) -> str:
    """What errors call a image: the name given, its path, or else `<bytes>`, `<image>` or `<array>`."""
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
            f"{name}: array of shape {array.shape} and type {array.dtype}; "
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
    except _BROKEN as error:
        raise _broken(name, image.format or image.mode, error) from error


def _from_bytes(
    content: bytes, policy: Policy, max_pixels: int, name: str, least_px: int | None, padded: bool
) -> npt.NDArray[np.uint8]:
    kind = kind_of(content, name)
    early_size = claimed_size(content, kind)
    if early_size is not None and min(early_size) > 0:  # a GIF without a size takes that of its frame
        _check_size(*early_size, max_pixels, name)
    try:
        if kind == "HEIF":
            return _rgb(_from_heif(content, max_pixels, name), policy, name)
        with io.BytesIO(content) as file, without_warnings(content, kind):
            image = open_header(file, kind)
            _check_size(image.width, image.height, max_pixels, name)
            quick = _quick_jpeg(content, image, least_px, padded) if kind == "JPEG" else None
            if quick is None:
                image.load()
        if quick is None:
            return _rgb(image, policy, name)
        turn = _turn_of(image) if policy == "viewer" else None
        return quick if turn is None else np.array(Image.fromarray(quick).transpose(turn))
    except _BROKEN as error:
        raise _broken(name, kind, error) from error


def _from_heif(content: bytes, max_pixels: int, name: str) -> Image.Image:
    """Upright: the file itself turns its image, and the orientation in its EXIF block, which repeats it, is void."""
    file = open_heif(content, name)
    _check_size(file.size[0], file.size[1], max_pixels, name)
    image: Image.Image = file.to_pillow()
    _check_size(image.width, image.height, max_pixels, name)  # what was decoded may have another size
    return image


def _quick_jpeg(
    content: bytes, image: Image.Image, least_px: int | None = None, padded: bool = False
) -> npt.NDArray[np.uint8] | None:
    """The samples that Pillow would give, by simplejpeg (extra `fast`), which is select_runtime; None: ask Pillow.

    Both are libjpeg-turbo with its defaults. Where simplejpeg finds anything wrong Pillow is asked too, so that errors
    are the same whether it is installed or not. With `least_px` the inverse transform gives fewer samples.
    """
    if simplejpeg is None or image.mode not in ("RGB", "L"):
        return None
    try:
        fewer = {} if least_px is None else {"min_height": least_px, "min_width": least_px, **_QUICKEST}
        return np.asarray(simplejpeg.decode_jpeg(content, "RGBX" if padded else "RGB", **fewer))[:, :, :3]
    except ValueError:
        return None


def as_pillow(image: npt.NDArray[np.uint8]) -> Image.Image:
    """An RGB array as a Pillow image, which shares its memory where it is a view of (H, W, 4), and else is a copy."""
    whole = image.base
    if image.strides[1] != 4 or not isinstance(whole, np.ndarray) or whole.shape != (*image.shape[:2], 4):
        return Image.fromarray(image)
    import pyarrow

    pixels = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(whole.reshape(-1)), 4)
    return Image.fromarrow(pixels, "RGB", (image.shape[1], image.shape[0]))


def read_image(path: Path, name: str | None = None) -> bytes:
    """The bytes of a regular file that is not too large to be a image.

    Raises:
        ImageError: missing, something else than a file, or too large.
    """
    name = name or str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            os.scandir(path).close()  # of one that cannot be listed that is the error
            raise ImageError(f"{name}: a directory, not a image; name the images in it")
        if not stat.S_ISREG(status.st_mode):  # a pipe could keep us waiting, a device never end
            raise ImageError(f"{name}: not an ordinary file; save the image first")
        if status.st_size > _MAX_FILE_BYTES:
            raise ImageError(f"{name}: {status.st_size} bytes, a image may have {_MAX_FILE_BYTES}; make it smaller")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; look at the path") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise ImageError(f"{name!r}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _check_size(width: int, height: int, max_pixels: int, name: str) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height} pixels, an empty image; leave it out")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height} pixels, more than the bound of {max_pixels}; "
            "make it smaller, or raise max_pixels if you trust it"
        )


def _broken(name: str, kind: str, error: BaseException) -> ImageError:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return ImageError(f"{name}: more pixels than Pillow reads of {kind} ({reason}); make it smaller")
    return ImageError(f"{name}: cannot be decoded as {kind}: {reason}; fetch it again or save it anew")


def _rgb(image: Image.Image, policy: Policy, name: str) -> npt.NDArray[np.uint8]:
    """A loaded image as (H, W, 3) uint8 by the policy."""
    seen = _as_published(image) if policy == "published" else _as_seen(image, name)
    return np.array(seen, dtype=np.uint8)


def _as_published(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if "transparency" in image.info:  # changes no pixel of the result, but Pillow warns of some kinds
        image = image.copy()
        del image.info["transparency"]
    return image.convert("RGB")


def _as_seen(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F":
        raise ImageError(f"{name}: floating-point samples have no agreed range; save it with 8-bit samples")
    if image.mode.startswith("I"):
        rgb = _from_16_bits(image, name).convert("RGB")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, "white")
        rgb.paste(rgba, mask=rgba.getchannel("A"))
    else:
        rgb = image if image.mode == "RGB" else image.convert("RGB")
    turn = _turn_of(image)
    return rgb if turn is None else rgb.transpose(turn)


def _turn_of(image: Image.Image) -> Image.Transpose | None:
    """What brings a image upright by its EXIF block."""
    return _TURNS.get(_orientation(image.info.get("exif", b"")))


def _from_16_bits(image: Image.Image, name: str) -> Image.Image:
    """Gray samples of 0 to 65535 as 0 to 255, rounded; the transparent sample, if there is one, as white."""
    samples = np.asarray(image)
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        raise ImageError(f"{name}: 32-bit samples have no agreed range; save it with 8-bit or 16-bit samples")
    gray = ((samples.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if "transparency" in image.info:
        gray[samples == image.info["transparency"]] = 255
    return Image.fromarray(gray)


def _orientation(exif: Any) -> int:
    """The orientation, 1 to 8, of an EXIF block; 1 where it is absent or broken.

    Read here and not by Pillow, which warns of broken blocks, and they are common.
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
            tag, kind, _, value = struct.unpack_from(order + "HHIH", block, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG and kind == _SHORT:
                return int(value)
    except struct.error:
        return 1
    return 1
