"""Locks between processes: one writer per output."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from wordsight.errors import OutputError
from wordsight.files import as_output_error, make_directory


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


def is_locked(path: Path) -> bool:
    """Return whether another process holds a lock; the lock file is not created."""
    import filelock

    if not path.exists():
        return False
    try:
        with filelock.FileLock(path).acquire(timeout=0):
            return False
    except filelock.Timeout:
        return True
    except OSError:  # no permission to open the file: nothing is known
        return False
