"""One memory budget for decoding, shared by all threads of a process.

Before a decoder allocates memory, the thread reserves the estimated peak of the image, and waits until it fits next to
the images of the other threads. An image that does not fit alone is an error. A thread never waits while it holds a
reservation, so threads cannot wait for each other forever.
"""

import functools
import os
import re
import threading
from collections import deque
from typing import Self

from wordsight.errors import ConfigError, ImageError
from wordsight.image.machine import machine_bytes

DEFAULT_MEMORY_SHARE = 0.5
"""The share of the machine's memory, or of the container's, that decoding may use; the model needs memory as well."""

_SMALL = 1024  # images of less than this fraction of the limit are not counted; one per thread is decoded at a time

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?)\s*(ki|mi|gi|k|m|g|t|)b?", re.IGNORECASE)


def max_memory() -> int:
    """Return the number of bytes that decoding may use: `WORDSIGHT_MAX_MEMORY`, or half of the memory.

    The memory is that of the machine or of its container (cgroup), whichever is smaller.

    Raises:
        ConfigError: the variable is not a number of bytes.
    """
    return _parse_limit(os.environ.get("WORDSIGHT_MAX_MEMORY"))


class MemoryBudget:
    """A counting semaphore over bytes. Threads are served in the order in which they ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: deque[object] = deque()
        self._used_bytes = 0

    def reserve(self, num_bytes: int, name: str) -> "Reservation":
        """Wait until the bytes are available, and hold them until the block ends; for arguments see `Reservation`."""
        reservation = Reservation(self)
        reservation.hold(num_bytes, name)
        return reservation

    def acquire(self, num_bytes: int, limit: int) -> None:
        """Wait until the bytes fit into the limit."""
        with self._lock:
            if self._waiting or self._used_bytes + num_bytes > limit:
                self._wait(num_bytes, limit)
            self._used_bytes += num_bytes

    def release(self, num_bytes: int) -> None:
        """Return the bytes."""
        with self._lock:
            self._used_bytes -= num_bytes
            if self._waiting:
                self._changed.notify_all()

    def _wait(self, num_bytes: int, limit: int) -> None:
        ticket = object()
        self._waiting.append(ticket)
        try:
            self._changed.wait_for(
                lambda: self._waiting[0] is ticket and (self._used_bytes == 0 or self._used_bytes + num_bytes <= limit)
            )
        finally:
            self._waiting.remove(ticket)
            self._changed.notify_all()  # the next one may fit as well


class Reservation:
    """The memory that one image holds, as a context manager that returns it.

    A thread must not have two of them that hold memory.
    """

    __slots__ = ("_budget", "_num_bytes")

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._num_bytes = 0

    def hold(self, num_bytes: int, name: str) -> None:
        """Return what is held, then wait until `num_bytes` are available and hold them.

        Args:
            num_bytes: the estimated peak of the image.
            name: name of the image in errors.

        Raises:
            ImageError: the image alone exceeds the budget.
            ConfigError: `WORDSIGHT_MAX_MEMORY` is not a number of bytes.
        """
        self.release()
        limit = max_memory()
        if num_bytes > limit:
            raise ImageError(
                f"{name}: decoding needs about {num_bytes / 1e6:,.0f} MB of memory, more than the limit of "
                f"{limit / 1e6:,.0f} MB; make it smaller, or set WORDSIGHT_MAX_MEMORY to a higher limit"
            )
        if num_bytes > limit // _SMALL:  # smaller ones would take longer to count than they are worth
            self._budget.acquire(num_bytes, limit)
            self._num_bytes = num_bytes

    def release(self) -> None:
        """Return what is held."""
        if self._num_bytes:
            self._budget.release(self._num_bytes)
            self._num_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()


BUDGET = MemoryBudget()
"""The budget of this process."""


@functools.lru_cache(maxsize=8)
def _parse_limit(text: str | None) -> int:
    """The number of bytes in `2GB`, `1.5 GiB`, `500M` or `1000000`; without a value, the default."""
    if text is None or not text.strip():
        return int(DEFAULT_MEMORY_SHARE * machine_bytes())
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size < 1:
        raise ConfigError(f"WORDSIGHT_MAX_MEMORY={text!r}: expected a number of bytes such as 2GB or 500MiB")
    return size
