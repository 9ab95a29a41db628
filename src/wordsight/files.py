"""Files appear whole or not at all: temporary name, fsync, rename (design rule 6); hashes; locks."""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from wordsight.errors import OutputError

_HASH_BLOCK_BYTES = 1 << 20


def as_output_error(error: OSError, path: Path) -> OutputError:
    """The one-line form of a failed write to `path`."""
    return OutputError(f"{path}: cannot be written: {error.strerror or error}; choose another place or make room")


def make_directory(path: Path) -> Path:
    """Create a directory and its parents where missing, and return it.

    Raises:
        OutputError: it cannot be made, or a file has its name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    return path


def sync_directory(directory: Path) -> None:
    """Make what was renamed in a directory outlast a crash of the machine."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_writable(path: Path) -> None:
    """Refuse a file that could not be written, before there is work to lose; the directory is made.

    Raises:
        OutputError: a directory has its name, or the place cannot be written.
    """
    if path.is_dir():
        raise OutputError(f"{path}: a directory; name a file in it")
    make_directory(path.parent)
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise as_output_error(error, path) from error


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open `path` for writing such that it appears, complete and synced, only when the block ends well.

    Raises:
        OutputError: the directory cannot be made, or the disk is full; the former file, if any, stays.
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
    """A temporary directory beside `path` that takes its place, complete, when the block ends well.

    A former directory is moved aside first and deleted last, so that at every moment one of the two is whole;
    `recover_directory` finds it after a crash between the two renames.

    Raises:
        OutputError: the parent cannot be written, or the disk is full; the former directory stays.
    """
    make_directory(path.parent)
    temporary = None
    former = path.with_name(f".{path.name}.former")
    try:
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        temporary.chmod(0o755)
        yield temporary
        sync_directory(temporary)
        recover_directory(path)
        if path.exists():
            path.rename(former)
        temporary.rename(path)
        sync_directory(path.parent)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise as_output_error(error, path) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def recover_directory(path: Path) -> None:
    """Undo a crash of `atomic_directory`: bring the former directory back if its successor never appeared."""
    former = path.with_name(f".{path.name}.former")
    if former.exists():
        if path.exists():
            shutil.rmtree(former)
        else:
            former.rename(path)


def remove_partial(directory: Path) -> None:
    """Remove what a killed process left half-written in a directory; the caller holds the directory's lock."""
    for path in directory.glob(".*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def newest_complete(path: Path) -> Path:
    """Where a reader finds what `atomic_directory` wrote: `path`, or the former directory in the moment between the renames.

    Unlike `recover_directory` it changes nothing, so that a reader cannot disturb a writer.
    """
    former = path.with_name(f".{path.name}.former")
    return former if not path.exists() and former.exists() else path


def sha256_file(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, a file made for it, against other processes.

    Raises:
        OutputError: another process holds it, or it cannot be made.
    """
    import fcntl

    make_directory(path.parent)
    try:
        file = path.open("ab")
    except OSError as error:
        raise as_output_error(error, path) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{path.parent}: another process is writing there; wait for it to end") from error
        yield
