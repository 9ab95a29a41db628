"""The structure of image files, checked before a decoder sees them: scans, chunks, tags and blocks.

A decoder's time and memory depend on more than the number of pixels. A JPEG can send every coefficient a thousand
times, and any container can have millions of empty parts, which Pillow reads in Python. The functions here count them
without decoding, and do nothing for ordinary files that can be proved harmless by their size.
"""

import re
import struct
import zlib
from collections.abc import Callable

from PIL import Image

from wordsight.errors import ImageError

MAX_JPEG_SCANS = 100
"""Scans of a JPEG; libjpeg's own scripts for progressive files have 6 to 18."""

MAX_JPEG_SCAN_PIXELS = 18 * 178_956_970
"""Scans times pixels of a JPEG: libjpeg's longest script, for CMYK, is allowed at the largest size. A scan without data
takes about 2 ns per pixel."""

MAX_PARTS = 1 << 17
"""Chunks of a PNG, tags, strips or tiles of a TIFF, blocks before the first frame of a GIF, markers of a JPEG. A PNG of
1 GiB in the usual chunks of 8 KiB has as many; Pillow reads that many in about a second."""

MAX_RLE_PIXELS = 1 << 23
"""Pixels of a run-length encoded BMP, which Pillow decodes in Python: a screen of 3840 x 2160."""

MAX_RLE_BYTES = 1 << 24
"""Bytes of a run-length encoded BMP: the largest without any runs."""

_COMPONENTS = {"L": 1, "RGB": 3, "CMYK": 4}  # of a JPEG, by the mode that Pillow gives it
_MAX_PNG_EXIF_BYTES = 1 << 20
_KEPT_CHUNKS = {b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IDAT", b"IEND"}
_ANCILLARY_CHUNKS = {b"tRNS", b"eXIf"}
_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # a marker with a segment, or EOI or SOI
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_MAX_UNCHECKED_JPEG_BYTES = 1 << 18
_MAX_JUNK_BYTES = 1 << 20
_MAX_COUNTED_JPEG_BYTES, _MAX_ORDINARY_SCANS = 1 << 15, 18  # in small files, counting is faster than reading segments
_TIFF_BYTE_TYPES = (1, 2, 6, 7)
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def pixel_chunks(content: bytes) -> bytes:
    """Return a PNG file without the chunks that do not change its first image.

    Text, colour profiles, times and animation frames are left out, and with them everything in which a damaged or
    oversized chunk would stop Pillow although the pixels are intact. An EXIF or transparency chunk with a wrong
    checksum is left out too, as by browsers.

    Raises:
        ValueError: the file has more than `MAX_PARTS` chunks.

    Source: PNG specification (third edition), sections 5.3 and 14.
    """
    kept, begin, position = [], 0, 8
    for _ in range(MAX_PARTS):
        kind = content[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(content[position : position + 4], "big")
        if kind not in _KEPT_CHUNKS or (kind in _ANCILLARY_CHUNKS and not _is_sound(content, position, end)):
            if len(kind) < 4 or not kind.isalpha():
                break  # damaged or truncated; Pillow reports it
            kept.append(content[begin:position])
            begin = end
        elif kind == b"IEND":
            break
        position = end
    else:
        raise ValueError(f"more than {MAX_PARTS} chunks")
    return b"".join([*kept, content[begin:]]) if kept else content


def _is_sound(content: bytes, position: int, end: int) -> bool:
    checksum = content[end - 4 : end]
    if end - position > _MAX_PNG_EXIF_BYTES:
        return False
    return zlib.crc32(content[position + 4 : end - 4]).to_bytes(4, "big") == checksum


def check_jpeg_header(content: bytes) -> None:
    """Check the number of segments before the first scan, which Pillow reads in Python.

    Raises:
        ValueError: more than `MAX_PARTS` segments, or a megabyte between them.
    """
    if len(content) < _MAX_UNCHECKED_JPEG_BYTES:
        return
    position = junk_bytes = 2
    for _ in range(MAX_PARTS):
        match = _JPEG_MARKER.search(content, position)
        junk_bytes += (match.start() if match else len(content)) - position
        if junk_bytes > _MAX_JUNK_BYTES:
            raise ValueError("no image data after the header")
        if match is None or content[match.end() - 1] in (_SOS, _EOI):
            return
        position = _segment_end(content, match.end())
    raise ValueError(f"more than {MAX_PARTS} segments before the image data")


def has_several_scans(content: bytes, position: int, image: Image.Image) -> bool:
    """Return whether libjpeg reads more than the first scan of a JPEG.

    It does for progressive files, and if the first scan does not have all components. For CMYK the answer is always
    yes, because it cannot be read off the last bytes of the header.

    Args:
        content: the file.
        position: the end of the header of the first scan.
        image: the file as opened by Pillow.
    """
    num_components = _COMPONENTS[image.mode]
    is_complete = num_components < 4 and content[position - 4 - 2 * num_components] == num_components
    return "progressive" in image.info or not is_complete


def count_scans(content: bytes, position: int) -> int:
    """Count the scans of a JPEG, from the end of the header of its first scan (ISO/IEC 10918-1, annex B).

    Raises:
        ValueError: more than `MAX_PARTS` segments.
    """
    if len(content) < _MAX_COUNTED_JPEG_BYTES:
        num_scans = 1 + content.count(b"\xff\xda", position)
        if num_scans <= _MAX_ORDINARY_SCANS:
            return num_scans  # or fewer, if some of these bytes are not a marker
    num_scans = 1
    for _ in range(MAX_PARTS):
        match = _JPEG_MARKER.search(content, position)
        marker = content[match.end() - 1] if match else _EOI
        if match is None or marker in (_SOI, _EOI):
            return num_scans
        num_scans += marker == _SOS
        position = _segment_end(content, match.end())
    raise ValueError(f"more than {MAX_PARTS} segments")


def _segment_end(content: bytes, begin: int) -> int:
    return begin + max(2, int.from_bytes(content[begin : begin + 2], "big"))


def check_scans(num_scans: int, num_pixels: int, name: str) -> None:
    """Check the number of scans of a JPEG.

    Raises:
        ImageError: there are more than `MAX_JPEG_SCANS`, or scans times pixels exceed `MAX_JPEG_SCAN_PIXELS`.
    """
    limit = min(MAX_JPEG_SCANS, MAX_JPEG_SCAN_PIXELS // num_pixels)
    if num_scans > limit:
        raise ImageError(
            f"{name}: {num_scans} scans of {num_pixels} pixels, more than the limit of {limit}; save it again"
        )


def check_tiff(content: bytes) -> tuple[int, int]:
    """Check the numbers of tags and of their values in the first directory of a TIFF file.

    Returns:
        Width and height of its tiles; zeros if it has none.

    Raises:
        ValueError: more than `MAX_PARTS` tags, or values of one tag.
        struct.error: the file is truncated.

    Source: TIFF 6.0, section 2; BigTIFF (libtiff's `doc/specification/bigtiff.rst`).
    """
    order = "<" if content[:2] == b"II" else ">"
    is_big = content[2:4] in (b"+\0", b"\0+")
    (start,) = struct.unpack_from(order + ("Q" if is_big else "I"), content, 8 if is_big else 4)
    if start > len(content):
        return 0, 0
    (num_tags,) = struct.unpack_from(order + ("Q" if is_big else "H"), content, start)
    if num_tags > MAX_PARTS:
        raise ValueError(f"more than {MAX_PARTS} tags")
    tile = {_TILE_WIDTH: 0, _TILE_LENGTH: 0}
    entry = struct.Struct(order + ("HHQ" if is_big else "HHI"))
    for position in range(start + (8 if is_big else 2), len(content), entry.size + (8 if is_big else 4)):
        if not num_tags or position + entry.size + 4 > len(content):
            break
        num_tags -= 1
        tag, value_type, num_values = entry.unpack_from(content, position)
        if num_values > MAX_PARTS and value_type not in _TIFF_BYTE_TYPES:
            raise ValueError(f"more than {MAX_PARTS} strips, tiles or other values of tag {tag}")
        if tag in tile:
            (tile[tag],) = struct.unpack_from(order + ("H" if value_type == 3 else "I"), content, position + entry.size)
    return tile[_TILE_WIDTH], tile[_TILE_LENGTH]


def check_gif(content: bytes) -> None:
    """Check the number of blocks before the first frame of a GIF, which Pillow reads in Python (GIF89a, section 15).

    Raises:
        ValueError: more than `MAX_PARTS` blocks.
    """
    position = 13 + _palette_bytes(content[10:11])
    num_blocks = 0
    while content[position : position + 1] == b"!":
        position += 2
        while (size := content[position : position + 1]) not in (b"\0", b""):
            position += 1 + size[0]
            num_blocks += 1
            if num_blocks > MAX_PARTS:
                raise ValueError(f"more than {MAX_PARTS} blocks before the first frame")
        position += 1
        num_blocks += 1


def _palette_bytes(flags: bytes) -> int:
    return 3 << (flags[0] & 7) + 1 if flags and flags[0] & 128 else 0


def check_bmp(content: bytes) -> None:
    """Check the size of a run-length encoded BMP file, which Pillow decodes in Python.

    Raises:
        ValueError: more than `MAX_RLE_PIXELS` or `MAX_RLE_BYTES`.
    """
    if len(content) < 34 or struct.unpack_from("<I", content, 30)[0] not in (1, 2):
        return
    width, height = struct.unpack_from("<ii", content, 18)
    if abs(width * height) > MAX_RLE_PIXELS or len(content) > MAX_RLE_BYTES:
        raise ValueError(f"run-length encoded, with more than {MAX_RLE_PIXELS} pixels or {MAX_RLE_BYTES} bytes")


CHECKS: dict[str, Callable[[bytes], object]] = {"JPEG": check_jpeg_header, "GIF": check_gif, "BMP": check_bmp}
"""The check of each format that needs no more than the file."""
