"""Which format a file has, by its first bytes and never by its name, and who reads its header.

Pillow's format classes are called directly, because `Image.open` answers large images with a warning of its own and
`warnings` cannot be silenced for one thread alone; no global of Pillow is touched. HEIF is read by pillow-heif.
"""

import contextlib
import io
import re
import struct
import threading
import warnings
from collections.abc import Iterator
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
_quiet_lock = threading.Lock()


def kind_of(content: bytes, name: str) -> str:
    """The format that the first bytes tell."""
    for signature, kind in _SIGNATURES.items():
        if content.startswith(signature):
            return kind
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return "WebP"
    if content[4:8] == b"ftyp":
        brands = _brands(content)
        if brands & _AVIF_BRANDS:
            return "AVIF"
        if brands & _HEIF_BRANDS:
            return "HEIF"
    if not content:
        raise ImageError(f"{name}: empty, not a image; fetch or save it again")
    raise ImageError(f"{name}: not a image (JPEG, PNG, WebP, GIF, TIFF, BMP, AVIF or HEIF by its first bytes)")


def _brands(content: bytes) -> set[bytes]:
    """What a file of boxes says that it is: ISO/IEC 14496-12, section 4.3; those of images: 23008-12, annex B."""
    end = min(int.from_bytes(content[:4], "big"), len(content), _MAX_BRANDS_BYTES)
    return {content[8:12], *(content[place : place + 4] for place in range(16, end, 4))}


def claimed_size(content: bytes, kind: str) -> tuple[int, int] | None:
    """Width and height of a WebP or GIF canvas, for which Pillow takes memory as it opens the file; else None.

    Of AVIF and HEIF the largest item's, of which the image may be a part that says nothing of the memory; libheif
    itself decodes no more than these claim.

    Source: RFC 9649 (WebP container), RFC 6386 (VP8), WebP Lossless section 3, GIF89a section 18, ISO/IEC 23008-12
    section 6.5.3 (`ispe`).
    """
    if kind in ("AVIF", "HEIF"):
        sizes = [struct.unpack(">II", found[1]) for found in _ITEM_SIZE.finditer(content.partition(b"mdat")[0])]
        return max(sizes, key=lambda size: size[0] * size[1], default=None)
    if kind == "GIF" and len(content) >= 10:
        width, height = struct.unpack_from("<HH", content, 6)
        return width, height
    if kind != "WebP" or len(content) < 30:
        return None
    if content[12:16] == b"VP8X":
        return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    if content[12:16] == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", content, 26)
    return width & 0x3FFF, height & 0x3FFF


class _Jpeg(JpegImagePlugin.JpegImageFile):
    """A JPEG file that is quiet about broken EXIF blocks and never silent about a missing end."""

    def getexif(self) -> Image.Exif:
        """Nothing: Pillow asks for it as it opens the file, for the resolution, and warns of a broken block."""
        return Image.Exif()

    def load_read(self, read_bytes: int) -> bytes:
        """The next bytes; at the end an error, even where somebody set Pillow's LOAD_TRUNCATED_IMAGES."""
        block = self.fp.read(read_bytes) if self.fp else b""
        if not block:
            raise OSError("the file is cut short")
        return block


def open_header(file: io.BytesIO, kind: str) -> ImageFile.ImageFile:
    """Read the header with Pillow; no pixels yet."""
    readers: dict[str, type[ImageFile.ImageFile]] = {
        "JPEG": _Jpeg,
        "PNG": PngImagePlugin.PngImageFile,
        "WebP": WebPImagePlugin.WebPImageFile,
        "GIF": GifImagePlugin.GifImageFile,
        "TIFF": TiffImagePlugin.TiffImageFile,
        "BMP": BmpImagePlugin.BmpImageFile,
        "AVIF": AvifImagePlugin.AvifImageFile,
    }
    return readers[kind](file)


def open_heif(content: bytes, name: str) -> Any:
    """A `pillow_heif.HeifFile`: its `size` is known, nothing is decoded yet.

    Raises:
        ImageError: pillow-heif (extra `heif`) is not installed.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(f"{name}: {MissingExtraError('a HEIC or HEIF image', 'heif')}") from error
    return pillow_heif.open_heif(content)


@contextlib.contextmanager
def without_warnings(content: bytes, kind: str) -> Iterator[None]:
    """Silence Pillow where it can warn while it reads: TIFF tags, large GIFs, animated PNGs.

    Warning filters belong to the whole process, so this is one thread at a time, hides Pillow's warnings only,
    and is not entered for the formats that fill training sets.
    """
    if kind not in ("TIFF", "GIF") and not (kind == "PNG" and b"acTL" in content):
        yield
        return
    with _quiet_lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
