"""Temporary files and directories that are locked by the process that writes them.

A killed process releases its locks. That distinguishes what it left behind from what another process is still writing,
and the next write of the same path deletes it.
"""

import contextlib
import hashlib
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAX_NAME_BYTES = 200  # of the 255 that file systems allow; the rest is for the affixes of hidden names
_RANDOM_NAME = "[a-z0-9_]{8}"  # between the affixes of a temporary name, as `tempfile` draws it
_SUFFIX = ".partial"


def hidden_path(path: Path, suffix: str) -> Path:
    """Return `.NAME.suffix` next to a path; a long name is shortened, so that it fits into a directory entry."""
    name, encoded = path.name, path.name.encode("utf-8", "surrogatepass")
    if len(encoded) > _MAX_NAME_BYTES:
        name = f"{name[:20]}-{hashlib.sha256(encoded).hexdigest()[:16]}"
    return path.with_name(f".{name}.{suffix}")


@contextlib.contextmanager
def temporary_file(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """Yield a new file next to a path, open for writing, and its path; it is locked until the block ends.

    The block may close and rename the file; otherwise it is deleted.
    """
    remove_stale(target)
    temporary = None
    try:
        with contextlib.ExitStack() as stack:
            while temporary is None:
                prefix = hidden_path(target, "").name
                descriptor, name = tempfile.mkstemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent)
                file = stack.enter_context(os.fdopen(descriptor, "wb"))
                temporary = Path(name) if _hold_lock(descriptor, name, stack) else None
            yield file, temporary
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """Yield a new directory next to a path; it is locked until the block ends.

    The block may rename the directory; otherwise it is deleted.
    """
    remove_stale(target)
    temporary = None
    try:
        with contextlib.ExitStack() as stack:
            while temporary is None:
                prefix = hidden_path(target, "").name
                name = tempfile.mkdtemp(prefix=prefix, suffix=_SUFFIX, dir=target.parent)
                temporary = Path(name) if _hold_directory_lock(name, stack) else None
            yield temporary
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def remove_stale(target: Path) -> None:
    """Delete the temporary files of a path that killed processes left; a running process holds a lock on its own."""
    is_ours = re.compile(re.escape(hidden_path(target, "").name) + _RANDOM_NAME + re.escape(_SUFFIX)).fullmatch
    with contextlib.suppress(OSError), os.scandir(target.parent) as entries:
        for name in [entry.name for entry in entries if entry.name.endswith(_SUFFIX) and is_ours(entry.name)]:
            _remove_unlocked(target.with_name(name))


def remove(path: Path) -> None:
    """Delete a file, a link or a directory, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


if sys.platform == "win32":  # where an open file cannot be deleted, and a directory cannot be opened

    def _hold_lock(descriptor: int, name: str, stack: contextlib.ExitStack) -> bool:
        return True

    def _hold_directory_lock(name: str, stack: contextlib.ExitStack) -> bool:
        return True

    def _remove_unlocked(path: Path) -> None:
        with contextlib.suppress(OSError):  # a directory may be in use by another process, so it is kept
            path.unlink()

else:
    import fcntl

    def _hold_lock(descriptor: int, name: str, stack: contextlib.ExitStack) -> bool:
        """Lock a new temporary file or directory until the stack is closed, even if its descriptor is closed earlier.

        Returns:
            False if another process was just deleting it, which it can do before the lock is held.
        """
        lock_descriptor = os.dup(descriptor)
        stack.callback(os.close, lock_descriptor)
        try:
            fcntl.flock(lock_descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(lock_descriptor), Path(name).stat())
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError:  # a file system without locks, on which nobody deletes temporary files either
            return True

    def _hold_directory_lock(name: str, stack: contextlib.ExitStack) -> bool:
        try:
            descriptor = os.open(name, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            return _hold_lock(descriptor, name, stack)
        finally:
            os.close(descriptor)

    def _remove_unlocked(path: Path) -> None:
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                remove(path)
            finally:
                os.close(descriptor)
