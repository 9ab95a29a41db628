"""The size that the AV1 data in an AVIF file claims, for which the decoder allocates memory whatever the file says.

An AVIF file states the size of an image twice: in a box (`ispe`), which libavif reports, and in the header of the coded
data, which dav1d follows. A file of 3 kB that states 16 x 16 pixels in its box can contain 180 million.
"""

import struct
from collections.abc import Iterator

_MAX_ITEMS = 1 << 12
_HEADER_BYTES = 128
_SEQUENCE_HEADER, _MAX_UNITS = 1, 8


def largest_frame(content: bytes) -> int:
    """Return the number of pixels of the largest frame in an AVIF file; 0 if no header of coded data is found."""
    return max(map(_frame_pixels, _coded_data(content)), default=0)


def _coded_data(content: bytes) -> Iterator[bytes]:
    """Yield the first bytes of each item, and of the first chunk of each track (ISO/IEC 14496-12, 8.11.3, 8.7.5)."""
    for kind, form in ((b"stco", ">I"), (b"co64", ">Q")):
        for body in _bodies(content, kind):
            (offset,) = struct.unpack_from(form, content, body + 8)
            yield content[offset : offset + _HEADER_BYTES]
    for body in _bodies(content, b"iloc"):
        try:
            yield from _items(content, body)
        except struct.error:  # truncated; libavif reports it
            continue


def _bodies(content: bytes, kind: bytes) -> Iterator[int]:
    position = 0
    for _ in range(_MAX_ITEMS):
        position = content.find(kind, position) + 4
        if position < 4 or position + 16 > len(content):
            return
        yield position


def _items(content: bytes, position: int) -> Iterator[bytes]:
    version, sizes, indexes = content[position], content[position + 4], content[position + 5]
    offset_bytes, length_bytes, base_bytes = sizes >> 4, sizes & 15, indexes >> 4
    index_bytes = indexes & 15 if version else 0
    idat = content.find(b"idat") + 4
    reader = _Bytes(content, position + 6)
    for _ in range(min(reader.number(4 if version == 2 else 2), _MAX_ITEMS)):
        reader.number(4 if version == 2 else 2)
        start = idat if version and reader.number(2) & 15 == 1 else 0
        reader.number(2)
        start += reader.number(base_bytes)
        data = b""
        for _ in range(reader.number(2)):
            reader.number(index_bytes)
            offset, length = start + reader.number(offset_bytes), reader.number(length_bytes)
            if len(data) < _HEADER_BYTES:
                data += content[offset : offset + min(length or _HEADER_BYTES, _HEADER_BYTES)]
        yield data


class _Bytes:
    def __init__(self, content: bytes, position: int) -> None:
        self._content, self._position = content, position

    def number(self, num_bytes: int) -> int:
        """The next number, big-endian, in the given number of bytes."""
        self._position += num_bytes
        if self._position > len(self._content):
            raise struct.error
        return int.from_bytes(self._content[self._position - num_bytes : self._position], "big")


def _frame_pixels(data: bytes) -> int:
    """The largest frame that a sequence header allows (AV1 specification, sections 5.3 to 5.5); 0 without one."""
    position = 0
    for _ in range(_MAX_UNITS):
        if position >= len(data):
            return 0
        header = data[position]
        position += 2 if header & 4 else 1
        size, shift = 0, 0
        while header & 2 and position < len(data):
            size |= (data[position] & 127) << shift
            shift += 7
            position += 1
            if not data[position - 1] & 128:
                break
        if header >> 3 & 15 == _SEQUENCE_HEADER:
            return _sequence_pixels(_Bits(data[position:]))
        if not header & 2:
            return 0
        position += size
    return 0


class _Bits:
    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def number(self, num_bits: int) -> int:
        """The next number in the given number of bits; 0 beyond the end."""
        self._left -= num_bits
        return self._bits >> self._left & (1 << num_bits) - 1 if self._left >= 0 else 0


def _sequence_pixels(bits: _Bits) -> int:
    bits.number(4)
    is_still = bits.number(1)
    if is_still:
        bits.number(5)
    else:
        _skip_operating_points(bits)
    width_bits, height_bits = bits.number(4) + 1, bits.number(4) + 1
    if not is_still:  # a frame can have another size than the sequence
        return int(1 << width_bits + height_bits)
    return (bits.number(width_bits) + 1) * (bits.number(height_bits) + 1)


def _skip_operating_points(bits: _Bits) -> None:
    delay_bits = 0
    if bits.number(1):  # timing
        bits.number(64)
        if bits.number(1):
            zeros = next((count for count in range(32) if bits.number(1)), 32)
            bits.number(zeros if zeros < 32 else 0)
        if bits.number(1):  # the decoder model
            delay_bits = bits.number(5) + 1
            bits.number(42)
    has_display_delay = bits.number(1)
    for _ in range(bits.number(5) + 1):
        bits.number(12)
        if bits.number(5) > 7:
            bits.number(1)
        if delay_bits and bits.number(1):
            bits.number(2 * delay_bits + 1)
        if has_display_delay and bits.number(1):
            bits.number(4)
