"""Limits on what an MP4 or QuickTime file claims, checked before FFmpeg allocates memory for it.

FFmpeg allocates about 70 bytes for each sample (frame) that the index of a file claims, and a claim takes four bytes,
so a file of a kilobyte could take gigabytes. All other containers list their frames one by one.
"""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

MAX_SAMPLES = 1 << 22
"""Frames in the index of a video: 19 hours at 60 frames per second; FFmpeg needs 300 MB for them."""

MAX_EDITED_SAMPLES = 1 << 23
"""Frames times entries of the edit list, for each of which FFmpeg can copy the index; most files have one or two."""

_MAX_BOXES = 1 << 20  # an hour of fragments of 0.1 s; reading as many takes seconds
_CONTAINERS = {b"moov", b"trak", b"edts", b"mdia", b"minf", b"stbl", b"moof", b"traf"}


def check_claims(path: Path) -> None:
    """Check the numbers of samples and edits that an MP4 file claims; files of other formats pass.

    Raises:
        ValueError: it claims more than the limits.
        OSError: the file cannot be read.

    Source: ISO/IEC 14496-12, sections 4.2 (boxes), 8.6.1.2 (`stts`), 8.6.6 (`elst`), 8.7.3.2 (`stsz`), 8.8.8 (`trun`).
    """
    num_samples, num_edits, handler, is_pcm = 0, 1, b"", False
    with path.open("rb") as file:
        for kind, body in _boxes(file):
            if kind == b"trak":
                num_edits, handler, is_pcm = 1, b"", False
            elif kind == b"hdlr" and body[4:8] != b"dhlr":  # QuickTime has another one, of the data reference
                handler = body[8:12]
            elif kind == b"stts":  # one entry of samples that last one tick: FFmpeg reads such audio by chunks
                is_pcm = handler == b"soun" and body[4:8] == b"\0\0\0\1" and body[12:16] == b"\0\0\0\1"
            elif kind == b"elst":
                num_edits = max(1, _number(body, 4))
            elif kind in (b"stsz", b"stz2") and not is_pcm:
                num_samples += _number(body, 8)
            elif kind == b"trun":
                num_samples += _number(body, 4)
            if num_samples > MAX_SAMPLES or num_samples * num_edits > MAX_EDITED_SAMPLES:
                raise ValueError(f"claims {num_samples} frames in {num_edits} edits, more than the limit")


def _number(body: bytes, offset: int) -> int:
    return int.from_bytes(body[offset : offset + 4], "big")


def _boxes(file: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind of each box and the first 16 bytes of its content, parents before their children."""
    position = 0
    for _ in range(_MAX_BOXES):
        file.seek(position)
        header = file.read(32)
        if len(header) < 8:
            return
        size, kind = struct.unpack_from(">I4s", header)
        header_bytes = 8
        if size == 1 and len(header) >= 16:
            (size,) = struct.unpack_from(">Q", header, 8)
            header_bytes = 16
        yield kind, header[header_bytes : header_bytes + 16]
        if kind in _CONTAINERS:
            position += header_bytes
        elif size < header_bytes:  # to the end of the file, or not an MP4 file
            return
        else:
            position += size
    raise ValueError(f"more than {_MAX_BOXES} boxes")
