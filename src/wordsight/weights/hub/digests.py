"""The SHA-256 of large files, computed once: remembered by path, size and time of change."""

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from wordsight.config import Config
from wordsight.errors import OutputError, WeightsError
from wordsight.files import sha256_file, write_atomic


class _Remembered(Config, frozen=True):
    """What a file was when it was hashed; a change of its time of status shows even where its times were set back."""

    path: str
    size_bytes: int
    changed_ns: tuple[int, int]
    sha256: str


def remembered_sha256(path: Path, directory: Path) -> str:
    """The SHA-256 of a file, from `directory` where it was hashed before and did not change.

    Args:
        directory: where the memory lies; where it cannot be written, nothing is remembered.

    Raises:
        WeightsError: the file cannot be read.
    """
    whole = path.resolve()
    try:
        status = whole.stat()
        digest = _recall(whole, status, directory)
        if digest:
            return digest
        digest = sha256_file(whole)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}") from error
    found = _Remembered(path=str(whole), size_bytes=status.st_size, changed_ns=_times(status), sha256=digest)
    with contextlib.suppress(OutputError):  # a memory that cannot be kept costs time, nothing else
        write_atomic(_place(whole, directory), msgspec.json.encode(found))
    return digest


def _recall(path: Path, status: os.stat_result, directory: Path) -> str:
    try:
        known = msgspec.json.decode(_place(path, directory).read_bytes(), type=_Remembered)
    except (OSError, msgspec.DecodeError):
        return ""
    same = (known.path, known.size_bytes, known.changed_ns) == (str(path), status.st_size, _times(status))
    return known.sha256 if same else ""


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def _place(path: Path, directory: Path) -> Path:
    return directory / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
