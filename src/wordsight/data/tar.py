"""A strict reader of tar headers, which yields the name, kind, offset and size of each member.

The standard library's reader builds a large object per member, follows sizes that point backwards, and stops silently
where a file is truncated. Untrusted shards need less, checked more strictly: each offset and size is compared with the
length of the file. Nothing here writes to the file system.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar Format".
"""

import tarfile
from collections.abc import Callable, Iterator
from io import RawIOBase
from typing import BinaryIO, NamedTuple

from wordsight.errors import DataError

BLOCK_BYTES = 512
END_OF_ARCHIVE = bytes(2 * BLOCK_BYTES)
MAX_MEMBERS = 1 << 22
"""Of one tar file; ImageNet in a single one has 1.3 million images."""

MAX_NAME_CHARS = 4096
"""Linux's limit for paths; a longer name is shortened, and its member cannot be read."""

_MAX_HEADER_BYTES = 1 << 20
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\x28\xb5\x2f\xfd": "unzstd", b"\xfd7zXZ": "unxz", b"BZh": "bunzip2"}
_MAX_DIGITS = 20
_EMPTY = bytes(BLOCK_BYTES)
_FILES = (b"0", b"\0", b"7")
_NO_CONTENT = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe"}


class Member(NamedTuple):
    """A member of a tar file.

    Attributes:
        name: as stored; bytes that are not UTF-8 are written as escapes.
        offset: of the content, in bytes from the start of the file.
        size: of the content, in bytes.
        kind: empty for a regular file; otherwise a description such as `a symbolic link`.
    """

    name: str
    offset: int
    size: int
    kind: str


def read_at(file: RawIOBase | BinaryIO, offset: int, size: int) -> bytes:
    """Read `size` bytes at `offset` of an unbuffered file, or fewer at its end."""
    file.seek(offset)
    return file.read(size) or b""


def walk_members(read_at: Callable[[int, int], bytes], total: int, path: str) -> Iterator[Member]:
    """Yield the members of a tar file in order; directories are left out.

    Args:
        read_at: returns `size` bytes at `offset`, or fewer at the end of the file.
        total: length of the file in bytes.
        path: path of the file, for errors.

    Raises:
        DataError: the file is truncated, compressed, not a tar file, has an inconsistent header or too many members.
    """
    at = num_members = 0
    name, extended_size = "", -1  # from extended headers, for the next member
    while True:
        header = read_at(at, BLOCK_BYTES)
        if at == 0:
            _refuse_compressed(header, path)
        if len(header) < BLOCK_BYTES:
            raise DataError(f"{path}: truncated: no end-of-archive mark before its end, byte {total}; fetch it again")
        if header == _EMPTY:
            return
        kind, size = _checked_header(header, at, path)
        size = extended_size if extended_size >= 0 and kind not in (b"x", b"g", b"L", b"K") else size
        content = at + BLOCK_BYTES
        if kind in _NO_CONTENT or kind == b"5":
            size = 0
        if content + size > total:
            raise DataError(
                f"{path}: truncated: the member at byte {at} claims {size} bytes, the file ends at byte {total}; "
                "fetch it again"
            )
        at = content + -(-size // BLOCK_BYTES) * BLOCK_BYTES
        if kind in (b"x", b"L"):
            if size > _MAX_HEADER_BYTES:
                raise DataError(
                    f"{path}: the header at byte {content - BLOCK_BYTES} has {size} bytes; not a usable shard"
                )
            text = read_at(content, size)
            if kind == b"L":
                name = _text(text)
            else:
                name, extended_size = _parse_pax(text, name, extended_size, path)
            continue
        if kind in (b"g", b"K"):
            continue
        member = Member(
            name or _name(header), content, size, _NO_CONTENT.get(kind, "" if kind in _FILES else "not a file")
        )
        name, extended_size = "", -1
        num_members += 1
        if num_members > MAX_MEMBERS:
            raise DataError(f"{path}: more than {MAX_MEMBERS:,} members; split it into shards of 10,000 samples")
        if kind != b"5" and not member.name.endswith("/"):
            yield member if len(member.name) <= MAX_NAME_CHARS else _shortened(member)


def _refuse_compressed(start: bytes, path: str) -> None:
    for signature, program in _COMPRESSED.items():
        if start.startswith(signature):
            raise DataError(f"{path}: compressed; unpack it with '{program}' first")


def _shortened(member: Member) -> Member:
    """Return a member whose name is too long under a shorter one with the same suffix, marked as unusable."""
    suffix = member.name[-20:].rpartition(".")[2]
    reason = f"a member with a name of {len(member.name):,} characters"
    return Member(f"{member.name[:200]}....{suffix}", member.offset, member.size, reason)


def _checked_header(header: bytes, at: int, path: str) -> tuple[bytes, int]:
    """Check a header's checksum, and return its kind and size."""
    stated = _number(header[148:156])
    computed = sum(header) - sum(header[148:156]) + 8 * 32
    if stated != computed:
        raise DataError(f"{path}: no tar header at byte {at}; not a tar file, or damaged")
    size = _number(header[124:136])
    if size is None or size < 0:
        raise DataError(f"{path}: the header at byte {at} has an invalid size; not a usable shard")
    if header[156:157] == b"S":
        raise DataError(f"{path}: the member at byte {at} is sparse, which is not supported; pack it again")
    return header[156:157], size


def _number(field: bytes) -> int | None:
    """Parse a number in the notation of ustar (octal digits) or GNU tar (base 256); None if it is neither."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) - (0x80 << 8 * (len(field) - 1))
        return value if field[0] == 0x80 else -1
    digits = field.strip(b"\0 ").partition(b"\0")[0].strip()
    try:
        return int(digits or b"0", 8)
    except ValueError:
        return None


def _name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def _parse_pax(records: bytes, name: str, size: int, path: str) -> tuple[str, int]:
    """Parse the path and size in a pax extended header: records of `length key=value`, each ended by a line feed."""
    at = 0
    while at < len(records):
        digits = records[at : at + _MAX_DIGITS].partition(b" ")[0]
        length = int(digits) if digits.isdigit() else 0
        record = records[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if len(record) != length or not equals or not record.endswith(b"\n"):
            raise DataError(f"{path}: damaged extended header before {name or 'a member'!r}; fetch or pack it again")
        if key.startswith(b"GNU.sparse."):
            raise DataError(f"{path}: a sparse member, which is not supported; pack it again")
        if key == b"path":
            name = _text(value)
        if key == b"size":
            if not value.isdigit() or len(value) > _MAX_DIGITS:
                raise DataError(f"{path}: an extended header has an invalid size; not a usable shard")
            size = int(value)
        at += length
    return name, size


def header_of(name: str, size: int) -> bytes:
    """Build the header blocks of a regular file; they contain no time, owner or machine, so they are reproducible."""
    information = tarfile.TarInfo(name)
    information.size = size
    information.mode = 0o644
    return information.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def padding_of(size: int) -> bytes:
    """Return the zero bytes that pad a content of `size` bytes to a multiple of the block size."""
    return bytes(-size % BLOCK_BYTES)
