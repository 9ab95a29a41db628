"""Atomic writes, files that are valid only together, hashes and bounded reads.

A file or directory that is written with these functions appears complete or not at all: it is written under a temporary
name (`.NAME.xxxxxxxx.partial`, see `temporary.py`), synced to disk, and renamed. The next write of the same path
deletes the temporary files that killed processes left.

Files that are valid only together follow one rule: one of them, the description, states the SHA-256 of the others, and
a reader compares the hashes. Two files side by side are written with `open_described` or `open_with_description`, and
read with `matching_description`; more than two are a directory, written with `atomic_directory`, whose description is
compared with the files by `wordsight.cache.require_sha256`.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from wordsight.errors import OutputError, WordsightError, printable
from wordsight.progress import phase
from wordsight.temporary import hidden_path, remove, temporary_directory, temporary_file

T = TypeVar("T")
_TwoFiles = tuple[BinaryIO, BinaryIO]

_HASH_BLOCK_BYTES = 1 << 20
_MB = 1_000_000


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
        OutputError: `path` is a directory or a device, its name is too long, or its directory is not writable.
    """
    target = _target(path)
    if target.is_dir():
        raise OutputError(f"{path}: is a directory; name a file in it")
    _require_kind(path, target, stat.S_ISREG, "a regular file")
    make_directory(target.parent)
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise as_output_error(error, path) from error


def _target(path: Path) -> Path:
    """Return the path that a write replaces: the target of a link, so that the link stays.

    Raises:
        OutputError: the path cannot be that of a file: its name is too long, its directory may not be searched, or it
            contains a null character.
    """
    try:
        target = Path(os.path.realpath(path))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            target.lstat()
    except OSError as error:
        raise as_output_error(error, path) from error
    except ValueError as error:  # a null character, or a character that no file system can store
        raise OutputError(f"{path}: not a usable path: {error}; choose another output path") from error
    return target


def _require_kind(path: Path, target: Path, is_kind: Callable[[int], bool], expected: str) -> None:
    """Refuse to replace anything but a file or a directory, before any work.

    Raises:
        OutputError: the path is something else.
    """
    if os.path.lexists(target) and not is_kind(target.lstat().st_mode):
        raise OutputError(f"{path}: exists and is not {expected}; choose another output path")


@contextlib.contextmanager
def open_atomic(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path`, complete and synced, if the block succeeds.

    If `path` is a link, the file to which it points is replaced.

    Raises:
        OutputError: the directory is not writable, or the disk is full; an existing file at `path` is unchanged.
    """
    target = _prepare_target(path)
    try:
        with temporary_file(target) as (file, temporary):
            yield file
            _finish(file, temporary)
            _rename(temporary, target)
    except OSError as error:
        raise as_output_error(error, path) from error


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file atomically; see `open_atomic`."""
    with open_atomic(path) as file:
        file.write(content)


@contextlib.contextmanager
def open_described(path: Path, description_path: Path, describe: Callable[[str], bytes]) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path`, together with its description, if the block succeeds.

    Args:
        path: the file.
        description_path: the file that describes it.
        describe: called with the SHA-256 of the complete file; returns the content of the description, which states it.

    Raises:
        OutputError: as for `open_atomic`; both existing files are unchanged.
    """
    with open_with_description(path, description_path, named=path) as (file, description):
        yield file
        file.flush()
        with os.fdopen(os.dup(file.fileno()), "rb") as content:
            content.seek(0)
            description.write(describe(hashlib.file_digest(content, "sha256").hexdigest()))


@contextlib.contextmanager
def open_with_description(path: Path, description_path: Path, named: Path | None = None) -> Iterator[_TwoFiles]:
    """Open temporary files that replace a file and its description if the block succeeds.

    The block writes the SHA-256 of the file to the description. If it writes nothing to the file, there will be none.
    Two renames are not one step: the new description is complete, under a hidden name, before the first one; whenever a
    process is killed, `matching_description` finds the one that belongs to the file. Errors name `named`.

    Raises:
        OutputError: as for `open_atomic`; both existing files are unchanged.
    """
    target, description_target = _prepare_target(path), _prepare_target(description_path)
    pending = hidden_path(description_target, "next")
    try:
        with temporary_file(target) as (file, temporary), temporary_file(description_target) as (description, complete):
            yield file, description
            _finish(file, temporary)
            _finish(description, complete)
            if temporary.stat().st_size:
                _rename(complete, pending)
                _rename(temporary, target)
                with contextlib.suppress(FileNotFoundError):  # a reader has done it; see `matching_description`
                    _rename(pending, description_target)
            else:
                _rename(complete, description_target)
                target.unlink(missing_ok=True)
                pending.unlink(missing_ok=True)
    except OSError as error:
        raise as_output_error(error, named or description_path) from error


def _prepare_target(path: Path) -> Path:
    target = _target(path)
    _require_kind(path, target, stat.S_ISREG, "a regular file")
    make_directory(target.parent)
    return target


def _finish(file: BinaryIO, temporary: Path) -> None:
    """Sync and close a temporary file before it is renamed."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
    temporary.chmod(0o644)


def _rename(temporary: Path, target: Path) -> None:
    temporary.replace(target)
    sync_directory(target.parent)


def matching_description(
    path: Path, description_path: Path, parse: Callable[[Path], T], stated_sha256: Callable[[T], str]
) -> T | None:
    """Return the description of a file that `open_described` wrote; None if it describes other contents.

    If the writer was killed between its two renames, the second one is made now.

    Args:
        path: the file.
        description_path: the file that describes it.
        parse: reads a description; its errors are raised, except for those of an unfinished one.
        stated_sha256: returns the hash that a description states.
    """
    sha256 = sha256_file(path)
    target = _target(description_path)
    pending = hidden_path(target, "next")
    with contextlib.suppress(WordsightError):
        description = parse(pending)
        if stated_sha256(description) == sha256:
            with contextlib.suppress(OSError):  # in a read-only directory, the next reader finds it again
                pending.replace(target)
            return description
    description = parse(description_path)
    return description if stated_sha256(description) == sha256 else None


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Yield a temporary directory that replaces `path` if the block succeeds.

    An existing directory is renamed first and deleted last, so that at any moment one of the two is complete. After a
    crash between the two renames, `recover_directory` restores it. If `path` is a link, the directory to which it
    points is replaced.

    Raises:
        OutputError: `path` is a file, the parent is not writable, or the disk is full; an existing directory at `path`
            is unchanged.
    """
    target = _target(path)
    _require_kind(path, target, stat.S_ISDIR, "a directory")
    make_directory(target.parent)
    previous = hidden_path(target, "former")
    try:
        recover_directory(target)
        with temporary_directory(target) as temporary:
            temporary.chmod(0o755)
            yield temporary
            sync_directory(temporary)
            recover_directory(target)
            if target.exists():
                target.rename(previous)
            temporary.rename(target)
            sync_directory(target.parent)
            shutil.rmtree(previous, ignore_errors=True)
    except BaseException as error:
        with contextlib.suppress(OutputError):
            recover_directory(target)
        if isinstance(error, OSError):
            raise as_output_error(error, path) from error
        raise


def recover_directory(path: Path) -> None:
    """Clean up after a crash of `atomic_directory`.

    The previous directory is restored if the new one was not yet in place, and deleted otherwise.

    Raises:
        OutputError: the parent is not writable.
    """
    target = _target(path)
    previous = hidden_path(target, "former")
    try:
        if previous.is_dir():
            if target.exists():
                shutil.rmtree(previous)
            else:
                previous.rename(target)
    except OSError as error:
        raise as_output_error(error, path) from error


def newest_complete(path: Path) -> Path:
    """Return the path of the newest complete version of a directory that `atomic_directory` writes.

    This is `path` or, between the two renames, the previous directory. Unlike `recover_directory` it changes nothing,
    so a reader cannot disturb a writer.
    """
    if os.path.exists(path):  # noqa: PTH110 - unlike pathlib, false for a name that is too long
        return path
    previous = hidden_path(Path(os.path.realpath(path)), "former") if path.name else path
    return previous if os.path.isdir(previous) else path  # noqa: PTH112 - as above


def remove_partial(directory: Path) -> None:
    """Delete the temporary files that killed processes left in a directory; the caller must hold its lock."""
    for path in directory.glob(".*.partial"):
        remove(path)


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
        size_mb = os.fstat(file.fileno()).st_size // _MB
        with phase(f"hashing {printable(path.name)}", size_mb, "MB") as progress:
            while block := file.read(_HASH_BLOCK_BYTES):
                digest.update(block)
                progress(file.tell() // _MB)
    return digest.hexdigest()
