"""Read the rows of a `metrics.jsonl` one after the other; this module does not load torch."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from wordsight.errors import OutputError
from wordsight.files import open_regular

MAX_LOG_BYTES = 1 << 30
"""Size of a `metrics.jsonl`; a row has about 300 bytes, so this is more than three million rows."""

MAX_ROW_BYTES = 1 << 20
"""Size of one row; a validation with a thousand scores has about 200 kB."""


def iter_rows(path: Path, damage: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Yield the rows of a `metrics.jsonl` up to the first damaged one, in bounded memory.

    Args:
        path: the file.
        damage: receives the reason if a row is damaged. A truncated last row is no damage: a crash leaves one, and a
            running training may be writing it.

    Raises:
        OutputError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            if size_bytes > MAX_LOG_BYTES:
                raise OutputError(f"{path}: {size_bytes:,} bytes, expected at most {MAX_LOG_BYTES:,}")
            lines = iter(lambda: file.readline(MAX_ROW_BYTES + 1), b"")
            yield from _rows(lines, path.name, [] if damage is None else damage)
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        raise OutputError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _rows(lines: Iterator[bytes], name: str, damage: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, 1):
        row = _parse(line)
        if row is None:
            if line.endswith(b"\n") or len(line) > MAX_ROW_BYTES:
                damage.append(f"{name}: row {number} is damaged, and no row after it is read")
            return
        yield row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl` up to the first damaged one: a crash can truncate the last.

    Raises:
        OutputError: the file cannot be read.
    """
    return list(iter_rows(path))


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return a row, or None if the line is damaged."""
    try:
        row = msgspec.json.decode(line)
    except (ValueError, RecursionError):  # perhaps NaN or Infinity, which msgspec refuses
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
