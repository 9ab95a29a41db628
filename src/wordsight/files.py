"""Atomic writes, locks, hashes and bounded reads.

A file or directory that is written with these functions appears complete or not at all: it is written under a temporary
name (`.NAME.xxxx.partial`), synced to disk, and renamed.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from wordsight.errors import OutputError, WordsightError

_HASH_BLOCK_BYTES = 1 << 20


def as_output_error(error: OSError, path: Path) -> OutputError:
    """Convert the error of a failed write to `path` into a one-line `OutputError`."""
    return OutputError(
        f"{path}: cannot be written: {error.strerror or error}; choose another output path or free some space"
    )


def make_directory(path: Path) -> Path:
    """Create a directory and its missing parents, and return its path.

    Raises:
        OutputError: the directory cannot be created, for example because a file has this name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path


def sync_directory(directory: Path) -> None:
    """Flush the entries of a directory to disk, so that a rename survives a crash of the machine.

    This does nothing on Windows, which cannot open a directory; NTFS records renames in its journal.
    """
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Check that a file can be written at `path`, before any expensive work; create its directory.

    Raises:
        OutputError: `path` is a directory, or its directory is not writable.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a directory; name a file in it")
    make_directory(path.parent)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise as_output_error(error, path) from error


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path`, complete and synced, if the block succeeds.

    Raises:
        OutputError: the directory is not writable, or the disk is full; an existing file at `path` is unchanged.
    """
    make_directory(path.parent)
    temporary = None
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path` if the block succeeds.

    An existing directory is renamed first and deleted last, so that at any moment one of the two is complete. After a
    crash between the two renames, `recover_directory` restores it.

    Raises:
        OutputError: the parent is not writable, or the disk is full; an existing directory at `path` is unchanged.
    """
    make_directory(path.parent)
    temporary = None
    previous = _previous(path)
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        sync_directory(temporary)
        recover_directory(path)
        if path.exists():
            path.rename(previous)
        temporary.rename(path)
        sync_directory(path.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(path: Path) -> None:
    """Clean up after a crash of `atomic_directory`.

    The previous directory is restored if the new one was not yet in place, and deleted otherwise.
    """
    previous = _previous(path)
    if previous.exists():
        if path.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(path)


def newest_complete(path: Path) -> Path:
    """Return the path of the newest complete version of a directory that `atomic_directory` writes.

    This is `path` or, between the two renames, the previous directory. Unlike `recover_directory` it changes nothing,
    so a reader cannot disturb a writer.
    """
    previous = _previous(path)
    return previous if not path.exists() and previous.exists() else path


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def remove_partial(directory: Path) -> None:
    """Delete the temporary files that killed processes left in a directory; the caller must hold its lock."""
    for path in directory.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    A FIFO, a device or a socket, also behind a link, is refused: reading one could wait or continue for ever.

    Raises:
        OSError: the file is missing, cannot be read, or is not a regular file.
    """
    # opening a FIFO would wait for a writer without O_NONBLOCK, which has no effect on regular files
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(descriptor, "rb")


def read_limited(path: Path, max_bytes: int, error_class: type[WordsightError]) -> bytes:
    """Read a regular file of at most `max_bytes`; a file that grows meanwhile is not read beyond this limit.

    Raises:
        error_class: the file is missing, cannot be read, is not a regular file, or is larger than `max_bytes`.
    """
    try:
        with open_regular(path) as file:
            size_bytes = os.fstat(file.fileno()).st_size
            content = file.read(max_bytes + 1) if size_bytes <= max_bytes else b""
    except (OSError, ValueError) as error:  # ValueError: the path contains a null character
        reason = (
            "no such file"
            if isinstance(error, FileNotFoundError)
            else f"cannot be read: {getattr(error, 'strerror', None) or error}"
        )
        raise error_class(f"{path}: {reason}") from error
    size_bytes = max(size_bytes, len(content))
    if size_bytes > max_bytes:
        raise error_class(
            f"{path}: {size_bytes:,} bytes, expected at most {max_bytes:,}; check that it is the right file"
        )
    return content


def read_json(path: Path, max_bytes: int, error_class: type[WordsightError]) -> Any:
    """Read a JSON file of at most `max_bytes` as plain data.

    Raises:
        error_class: the file is missing, cannot be read, is not a regular file, is larger than `max_bytes`, or is not
            JSON.
    """
    content = read_limited(path, max_bytes, error_class)
    try:
        return msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise error_class(f"{path}: not JSON: {error}") from error


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a regular file in lower-case hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock between processes while the block runs.

    Args:
        path: the lock file, which is used for nothing else; its directory is created if it is missing.
        wait: whether to wait until another process releases the lock, instead of raising.

    Raises:
        OutputError: another process holds the lock and `wait` is false, or the file cannot be created.
    """
    import filelock  # takes 30 ms, which reading a card need not pay for

    make_directory(path.parent)
    file_lock = filelock.FileLock(path)
    try:
        file_lock.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout as error:
        raise OutputError(
            f"{path.parent}: another process is writing to this directory; wait until it has finished"
        ) from error
    except OSError as error:
        raise as_output_error(error, path) from error
    try:
        yield
    finally:
        file_lock.release()
