"""Atomic writes, locks, hashes and bounded reads (design rule 6).

A file or directory written here either appears complete or not at all: it is written under a temporary name, synced to
disk, and renamed.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import msgspec

from wordsight.errors import OutputError, WordsightError

_HASH_BLOCK_BYTES = 1 << 20


def as_output_error(error: OSError, path: Path) -> OutputError:
    """Turn a failed write to `path` into a one-line error."""
    return OutputError(
        f"{path}: cannot be written: {error.strerror or error}; choose another output path or free some space"
    )


def make_directory(path: Path) -> Path:
    """Create a directory and its missing parents, and return it.

    Raises:
        OutputError: it cannot be created, or a file has this name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path


def sync_directory(directory: Path) -> None:
    """Make renames within a directory survive a crash of the machine.

    Windows cannot open a directory for this; there the file system's journal has to do.
    """
    if os.name == "nt":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Refuse an output path that is not writable, before any work is done; its directory is created.

    Raises:
        OutputError: a directory has this name, or the file cannot be written.
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
    """Open `path` for writing such that it appears, complete and synced, only if the block succeeds.

    Raises:
        OutputError: its directory cannot be created, or the disk is full; a previous file is left as it was.
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
    """Write a small file atomically; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path`, complete, if the block succeeds.

    A previous directory is first moved aside and deleted last, so that one of the two is complete at any moment;
    `recover_directory` restores it after a crash between the two renames.

    Raises:
        OutputError: the parent is not writable, or the disk is full; the previous directory is left as it was.
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
    """Undo a crash of `atomic_directory`: restore the previous directory if the new one never appeared."""
    previous = _previous(path)
    if previous.exists():
        if path.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(path)


def newest_complete(path: Path) -> Path:
    """The path at which a reader finds what `atomic_directory` wrote: `path`, or between its two renames the previous one.

    Unlike `recover_directory` this changes nothing, so that a reader cannot disturb a writer.
    """
    previous = _previous(path)
    return previous if not path.exists() and previous.exists() else path


def _previous(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def remove_partial(directory: Path) -> None:
    """Remove the temporary files that killed processes left in a directory; the caller holds its lock."""
    for path in directory.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def read_json(path: Path, max_bytes: int, error_class: type[WordsightError]) -> Any:
    """Read a JSON file of at most `max_bytes` as plain data.

    Raises:
        error_class: the file is missing, unreadable, larger than that, or not JSON.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > max_bytes:
            raise error_class(
                f"{path}: {size_bytes:,} bytes, expected at most {max_bytes:,}; check that it is the right file"
            )
        return msgspec.json.decode(path.read_bytes())
    except OSError as error:
        reason = (
            "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror or error}"
        )
        raise error_class(f"{path}: {reason}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise error_class(f"{path}: not JSON: {error}") from error


def sha256_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def lock(path: Path, wait: bool = False) -> Iterator[None]:
    """Hold an exclusive lock against other processes on `path`, a file that exists only for this purpose.

    Args:
        path: its directory is created where it is missing.
        wait: until another process releases the lock, instead of raising.

    Raises:
        OutputError: another process holds it and `wait` is false, or it cannot be created.
    """
    make_directory(path.parent)
    held = filelock.FileLock(path)
    try:
        held.acquire(timeout=-1 if wait else 0)
    except filelock.Timeout as error:
        raise OutputError(
            f"{path.parent}: another process is writing to this directory; wait until it has finished"
        ) from error
    except OSError as error:
        raise as_output_error(error, path) from error
    try:
        yield
    finally:
        held.release()
