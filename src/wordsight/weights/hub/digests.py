"""The SHA-256 of large files, computed once and stored with the path, size and modification times of the file."""

import contextlib
import hashlib
import os
from pathlib import Path

import msgspec

from wordsight.config import Config
from wordsight.errors import OutputError, WeightsError
from wordsight.files import sha256_file, write_atomic


class _Digest(Config, frozen=True):
    """A stored hash and the state of the file when it was computed.

    `changed_ns` includes the time of the last status change, which reveals a changed file even if its modification time
    was set back.
    """

    path: str
    size_bytes: int
    changed_ns: tuple[int, int]
    sha256: str


def remembered_sha256(path: Path, directory: Path) -> str:
    """The SHA-256 of a file; if it was hashed before and has not changed, the stored hash is returned.

    Args:
        path: the file.
        directory: where hashes are stored; if it is not writable, nothing is stored.

    Raises:
        WeightsError: the file cannot be read.
    """
    resolved = path.resolve()
    try:
        status = resolved.stat()
        sha256 = _stored_sha256(resolved, status, directory)
        if sha256:
            return sha256
        sha256 = sha256_file(resolved)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror}; check the path") from error
    digest = _Digest(path=str(resolved), size_bytes=status.st_size, changed_ns=_times(status), sha256=sha256)
    with contextlib.suppress(OutputError):  # without a stored hash the file is only hashed again next time
        write_atomic(_digest_path(resolved, directory), msgspec.json.encode(digest))
    return sha256


def _stored_sha256(path: Path, status: os.stat_result, directory: Path) -> str:
    """The stored hash of a file; empty if there is none or the file has changed."""
    try:
        digest = msgspec.json.decode(_digest_path(path, directory).read_bytes(), type=_Digest)
    except (OSError, msgspec.DecodeError):
        return ""
    is_unchanged = (digest.path, digest.size_bytes, digest.changed_ns) == (str(path), status.st_size, _times(status))
    return digest.sha256 if is_unchanged else ""


def _times(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_ctime_ns


def _digest_path(path: Path, directory: Path) -> Path:
    return directory / f"{hashlib.sha256(str(path).encode()).hexdigest()}.json"
