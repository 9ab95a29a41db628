"""Image formats: detection by the first bytes, never by the file name, and the readers of their headers.

Pillow's format classes are called directly, because `Image.open` warns about large images and warnings cannot be
silenced for a single thread. No global state of Pillow is changed. HEIF files are read by pillow-heif.
"""

import contextlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from wordsight.errors import ImageError, MissingExtraError
from wordsight.image.policies import Policy

_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
}
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}
_MAX_BRANDS_BYTES = 1024
_ITEM_SIZE = re.compile(rb"ispe\0{4}(.{8})", re.DOTALL)
_PHOTOMETRIC, _EXTRA_SAMPLES, _ORIENTATION = 262, 338, 274  # tags of TIFF files
_warnings_lock = threading.Lock()


def detect_format(content: bytes, name: str) -> str:
    """Detect the format of an image file by its first bytes.

    Args:
        content: the file.
        name: name of the image in errors.

    Raises:
        ImageError: it is none of the eight formats.
    """
    for signature, file_format in _SIGNATURES.items():
        if content.startswith(signature):
            return file_format
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    if content[4:8] == b"ftyp":
        brands = _brands(content)
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    if not content:
        raise ImageError(f"{name}: empty, not an image; fetch or save it again")
    raise ImageError(f"{name}: not an image (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIF by its first bytes)")


def _brands(content: bytes) -> set[bytes]:
    """The brands in the `ftyp` box (ISO/IEC 14496-12, section 4.3; brands of images: 23008-12, annex B)."""
    end = min(int.from_bytes(content[:4], "big"), len(content), _MAX_BRANDS_BYTES)
    return {content[8:12], *(content[start : start + 4] for start in range(16, end, 4))}


def claimed_size(content: bytes, file_format: str) -> tuple[int, int] | None:
    """Return the size for which memory is allocated while a file is opened, before Pillow knows the size of the image.

    For WebP and GIF, this is the width and height of the canvas. For AVIF and HEIF, it is that of the largest item, of
    which the image can be a small part; libheif never decodes more than the items claim. None for other formats.

    Source: RFC 9649 (WebP container), RFC 6386 (VP8), WebP Lossless section 3, GIF89a section 18, ISO/IEC 23008-12
    section 6.5.3 (`ispe`).
    """
    if file_format in ("AVIF", "HEIF"):
        sizes = [struct.unpack(">II", match[1]) for match in _ITEM_SIZE.finditer(content)]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    if file_format == "GIF" and len(content) >= 10:
        width, height = struct.unpack_from("<HH", content, 6)
        return width, height
    if file_format != "WebP" or len(content) < 30:
        return None
    if content[12:16] == b"VP8X":
        return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    if content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG file that does not warn about damaged EXIF blocks and always fails if it is truncated."""

    def getexif(self) -> Image.Exif:
        """Return an empty block: Pillow reads it on opening, only for the resolution, and warns if it is damaged."""
        return Image.Exif()

    def load_read(self, read_bytes: int) -> bytes:
        """Return the next bytes; raise an error at the end, even if Pillow's LOAD_TRUNCATED_IMAGES is set."""
        block = self.fp.read(read_bytes) if self.fp else b""
        if not block:
            raise OSError("the file is truncated")
        return block


class _Tiff(TiffImagePlugin.TiffImageFile):
    """A TIFF file whose grey samples are returned as stored.

    Pillow inverts white-is-zero files (TIFF 6.0, section 4) of up to 8 bits, but returns the negative of those with 16
    bits, and refuses others. Here all of them are read as black-is-zero, and `is_white_zero` is set.
    """

    def _setup(self) -> None:
        is_white_zero = self.tag_v2.get(_PHOTOMETRIC, 0) == 0 and 1 not in self.tag_v2.get(_EXTRA_SAMPLES, ())
        if is_white_zero:
            self.tag_v2[_PHOTOMETRIC] = 1
        super()._setup()  # type: ignore[no-untyped-call,misc,unused-ignore]
        self.is_white_zero = is_white_zero and self.mode in ("1", "L", "LA", "I", "I;16", "I;16B")

    def getexif(self) -> Image.Exif:
        """Return only the orientation: Pillow reads the rest for nothing, which takes much memory if it is hostile."""
        exif = Image.Exif()
        exif[_ORIENTATION] = self.tag_v2.get(_ORIENTATION, 1)
        return exif


def open_header(file: io.BytesIO, file_format: str, policy: Policy = "viewer") -> ImageFile.ImageFile:
    """Read the header of a file of any format but HEIF, without decoding its pixels.

    Args:
        file: the file, positioned at its start; a JPEG is left at the end of the header of its first scan.
        file_format: as detected.
        policy: `published` reads TIFF files as Pillow does; `viewer` also reads what white-is-zero means.
    """
    readers: dict[str, type[ImageFile.ImageFile]] = {
        "JPEG": _Jpeg,
        "PNG": PngImagePlugin.PngImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "TIFF": _Tiff if policy == "viewer" else TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
    }
    image = readers[file_format](file)
    if file_format == "PNG" and "transparency" in image.info and image.mode in ("L", "RGB"):
        image.info["transparency"] = _scaled_transparency(image.info["transparency"], file.getbuffer()[24])
    return image


def _scaled_transparency(value: Any, bits: int) -> Any:
    """The transparent colour of a PNG file, which is stored with the file's bits per sample, with 8 bits.

    Source: PNG specification (third edition), sections 11.3.1.1 (`tRNS`) and 13.12 (scaling of samples).
    """
    if isinstance(value, int):
        return (value & (1 << bits) - 1) * (255 // ((1 << bits) - 1))
    return tuple(sample >> bits - 8 for sample in value)


def open_heif(content: bytes, name: str) -> Any:
    """Open a HEIF file as a `pillow_heif.HeifFile`, which has a `size`, without decoding its pixels.

    Raises:
        ImageError: pillow-heif (extra `heif`) is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(f"{name}: {MissingExtraError('a HEIC or HEIF image', 'heif')}") from error
    return pillow_heif.open_heif(content)


def without_warnings(file_format: str) -> AbstractContextManager[None]:
    """Silence Pillow's warnings about the files it can warn about: TIFF and GIF.

    Warning filters are shared by the whole process. Therefore a lock admits one thread at a time, only warnings of
    Pillow are ignored, and nothing is done for the formats of which training sets consist.
    """
    return _warnings_ignored() if file_format in ("TIFF", "GIF") else _NOTHING


_NOTHING = contextlib.nullcontext()


@contextlib.contextmanager
def _warnings_ignored() -> Iterator[None]:
    with _warnings_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
