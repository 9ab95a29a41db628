"""Find the members of a zip file that is mapped into memory, and read them in place.

Nothing is extracted: torch stores weights uncompressed, so a member is a range of the file, and a compressed member (it
might be a bomb) is refused. Only code is decompressed, up to a limit. Sizes and offsets are checked against the file
before they are used.

Source: PKWARE's APPNOTE 6.3.10, 4.3 and 4.5.3 (sizes beyond 4 GB).
"""

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from mmap import mmap

from wordsight.errors import WeightsError

_END = struct.Struct("<4s4H2LH")
_LOCATOR_64 = struct.Struct("<4sLQL")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_MAX_DIRECTORY_BYTES = 1 << 24
_MAX_COMMENT_BYTES = 0xFFFF
_IN_EXTRA_FIELD = 0xFFFFFFFF
_EXTRA_FIELD_64 = 1
_ENCRYPTED = 1
_STORED = 0


@dataclass(frozen=True)
class Member:
    """A member of a zip file.

    Attributes:
        name: undecoded name.
        method: compression method; 0 is stored.
        flags: bit 0 is set if the member is encrypted.
        header_offset: offset of its local header in bytes.
        size_bytes: uncompressed size in bytes.
        packed_bytes: size in the file in bytes.
    """

    name: bytes
    method: int
    flags: int
    header_offset: int
    size_bytes: int
    packed_bytes: int

    @property
    def shown(self) -> str:
        """The name for error messages, escaped and shortened."""
        return ascii(self.name.decode("utf-8"))[:80]


def read_directory(buffer: mmap, where: str) -> Mapping[str, Member]:
    """Read the directory of a zip file.

    Args:
        buffer: the mapped file.
        where: the file, named in errors.

    Returns:
        All members by name.

    Raises:
        WeightsError: the file is not a zip file or truncated, two members have the same name, or the directory
            contradicts the file.
    """
    start, size = _find_directory(buffer, where)
    if size > _MAX_DIRECTORY_BYTES or start + size > len(buffer):
        raise _broken(where, f"its directory claims {size} bytes at {start}")
    members: dict[str, Member] = {}
    try:
        for member in _entries(buffer[start : start + size]):
            name = member.name.decode("utf-8")
            if name in members:
                raise _broken(where, f"two members are named {name[:80]!r}")
            members[name] = member
    except (struct.error, UnicodeDecodeError) as error:
        raise _broken(where, "its directory is truncated or invalid") from error
    return members


def locate(buffer: mmap, member: Member, where: str) -> int:
    """The offset in bytes of the content of an uncompressed member.

    Raises:
        WeightsError: the member is compressed or encrypted, contradicts its own header, or exceeds the file.
    """
    if member.method != _STORED or member.flags & _ENCRYPTED or member.size_bytes != member.packed_bytes:
        raise WeightsError(
            f"{where}: member {member.shown} is compressed or encrypted, which torch never does; "
            "save the file again with torch"
        )
    return _start(buffer, member, where)


def unpack(buffer: mmap, member: Member, where: str, max_bytes: int) -> bytes:
    """The start of a member, decompressed.

    Args:
        buffer: the mapped file.
        member: the member, stored or deflated.
        where: the file, named in errors.
        max_bytes: limit both of the bytes that are read and of those that are returned.

    Raises:
        WeightsError: the member contradicts its own header, exceeds the file, or cannot be decompressed.
    """
    start = _start(buffer, member, where)
    packed = buffer[start : start + min(member.packed_bytes, max_bytes)]
    if member.method == _STORED:
        return packed
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, max_bytes)
    except zlib.error as error:
        raise _broken(where, f"member {member.shown} cannot be decompressed") from error


def _start(buffer: mmap, member: Member, where: str) -> int:
    try:
        header = _LOCAL.unpack_from(buffer, member.header_offset)
    except struct.error as error:
        raise _broken(where, f"member {member.shown} is beyond the end of the file") from error
    name_bytes, extra_bytes = header[-2:]
    name_start = member.header_offset + _LOCAL.size
    start = name_start + name_bytes + extra_bytes
    is_same = buffer[name_start : name_start + name_bytes] == member.name and header[3] == member.method
    if header[0] != b"PK\x03\x04" or not is_same:
        raise _broken(where, f"member {member.shown} is not at the offset that the directory gives")
    if start + member.packed_bytes > len(buffer):
        raise _broken(where, f"member {member.shown} extends beyond the end of the file")
    return start


def _broken(where: str, reason: str) -> WeightsError:
    return WeightsError(f"{where}: not a complete torch file: {reason}; download the file again")


def _find_directory(buffer: mmap, where: str) -> tuple[int, int]:
    """Offset and size of the directory, from the record at the end of the file."""
    end = buffer.rfind(b"PK\x05\x06", max(0, len(buffer) - _END.size - _MAX_COMMENT_BYTES))
    if end < 0 or end + _END.size > len(buffer):
        raise _broken(where, "the end of the zip file is missing")
    *_, size, start, comment_bytes = _END.unpack_from(buffer, end)
    if end + _END.size + comment_bytes != len(buffer):
        raise _broken(where, "there is data after the end of the zip file")
    locator = end - _LOCATOR_64.size
    if locator >= 0 and buffer[locator : locator + 4] == b"PK\x06\x07":
        _, _, end_64, _ = _LOCATOR_64.unpack_from(buffer, locator)
        if end_64 + _END_64.size > len(buffer) or buffer[end_64 : end_64 + 4] != b"PK\x06\x06":
            raise _broken(where, "its 64-bit end record is missing")
        *_, size, start = _END_64.unpack_from(buffer, end_64)
    return start, size


def _entries(directory: bytes) -> Iterator[Member]:
    position = 0
    while position < len(directory):
        entry = _ENTRY.unpack_from(directory, position)
        if entry[0] != b"PK\x01\x02":
            raise struct.error("invalid directory entry")
        flags, method = entry[3:5]
        packed, size, name_bytes, extra_bytes, comment_bytes = entry[8:13]
        name_start = position + _ENTRY.size
        extra_start = name_start + name_bytes
        position = extra_start + extra_bytes + comment_bytes
        if position > len(directory):
            raise struct.error("entry beyond the end of the directory")
        extra = directory[extra_start : extra_start + extra_bytes]
        size, packed, header = _from_64(extra, size, packed, entry[-1])
        yield Member(directory[name_start:extra_start], method, flags, header, size, packed)


def _from_64(extra: bytes, *values: int) -> Iterator[int]:
    """Size, packed size and offset, each taken from the 64-bit extra field if the entry refers to it."""
    position, long_values = 0, b""
    while position + 4 <= len(extra):
        field_id, length = struct.unpack_from("<2H", extra, position)
        if field_id == _EXTRA_FIELD_64:
            long_values = extra[position + 4 : position + 4 + length]
        position += 4 + length
    position = 0
    for value in values:
        if value == _IN_EXTRA_FIELD:
            (value,) = struct.unpack_from("<Q", long_values, position)
            position += 8
        yield value
