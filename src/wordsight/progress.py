"""Progress of long jobs: the remaining time, the line that shows it, and the phases of a job.

Library code reports a phase with `phase`, which costs nothing unless someone shows it: the command line installs a
display with `show_phases_with`, and a Python program sees nothing.

    TimeLeft       estimates the remaining time
    ProgressLine   the line on standard error
    phase          reports a phase to the display, if there is one; `tracked` reports the items of a loop
"""

import contextlib
import itertools
import math
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")

Progress = Callable[[int], None]
"""Called with the number of items that are done; can be called often."""

Display = Callable[[str, int | None, str], AbstractContextManager[Progress]]
"""Called with the name of a phase, its number of items (None if unknown) and their unit in the plural."""

_TERMINAL_INTERVAL_S = 0.2
_PLAIN_INTERVAL_S = 10.0
_BAR_WIDTH = 20

_MIN_INTERVAL_S = 0.1
_MAX_INTERVALS = 128
_GROUP = 4  # the smallest number of intervals that are compared
_SAME_RATE = math.log(1.25)  # a change by less than this is no new phase: the estimate may be wrong by 30 %
_SIGNIFICANT = 5.0  # standard errors by which the rates of two phases differ

_display: ContextVar[Display | None] = ContextVar("display", default=None)


class TimeLeft:
    """Estimates the remaining time of a job from the recent rate.

    The time before the first report, with its items, does not count: it is spent on starting, or on items that were
    done before. Going back from the latest report, intervals between reports are included as long as their rate does
    not differ significantly from that of the later ones. A slow beginning, items that were read from a cache, or an
    earlier phase of another rate are thereby left out, while pauses that recur, such as checkpoints, are averaged.

    Args:
        total: number of items of the whole job.
        start_s: time of its start on a monotonic clock; used only until the second report.
        done: number of items that were done at the start.
    """

    def __init__(self, total: float, start_s: float, done: float = 0) -> None:
        self._total = total
        self._start = start_s, done
        self._intervals: list[tuple[float, float]] = []  # seconds and items of each, the oldest first
        self._begin: tuple[float, float] | None = None  # time and items at the end of the last interval

    def update(self, now_s: float, done: float) -> None:
        """Report the number of items that are done."""
        if self._begin is None:
            if done > self._start[1]:
                self._begin = now_s, done
            return
        seconds, items = now_s - self._begin[0], done - self._begin[1]
        if items <= 0 or seconds < _MIN_INTERVAL_S:
            return
        self._begin = now_s, done
        self._intervals.append((seconds, items))
        if len(self._intervals) > _MAX_INTERVALS:  # halve the resolution of the older half
            half = self._intervals[: _MAX_INTERVALS // 2]
            pairs = zip(half[::2], half[1::2], strict=True)
            self._intervals[: len(half)] = [(one[0] + two[0], one[1] + two[1]) for one, two in pairs]
        self._forget_other_rates()

    def skip(self, now_s: float) -> None:
        """Do not count the time since the last report, which was spent on something else."""
        if self._begin is not None:
            self._begin = now_s, self._begin[1]

    @property
    def rate(self) -> float | None:
        """Items per second at present; None before the first report."""
        window = self._intervals
        if not window and self._begin is not None and self._begin[0] > self._start[0]:
            window = [(self._begin[0] - self._start[0], self._begin[1] - self._start[1])]
        return sum(items for _, items in window) / sum(seconds for seconds, _ in window) if window else None

    def left_s(self, now_s: float) -> float | None:
        """Return the remaining seconds; None before the first report."""
        rate = self.rate
        if rate is None or self._begin is None:
            return None
        last_s, done = self._begin
        return max(0.0, (self._total - done) / rate - (now_s - last_s))

    def _forget_other_rates(self) -> None:
        """Drop the intervals before the last significant change of the rate."""
        logs = [math.log(items / seconds) for seconds, items in self._intervals]
        noise = _noise(logs)
        start, latest = max(0, len(logs) - _GROUP), len(logs) - _GROUP
        previous = latest
        while start:
            earlier = max(0, start - max(_GROUP, (len(logs) - start) // 2))
            difference = abs(_mean(logs[earlier:start]) - _mean(logs[start:]))
            error = noise * math.sqrt(1 / (start - earlier) + 1 / (len(logs) - start))
            if difference > max(_SAME_RATE, _SIGNIFICANT * error):
                del self._intervals[:previous]  # the change can be after `start`, in the group that was added last
                return
            start, previous = earlier, start


def _noise(logs: Sequence[float]) -> float:
    """The standard deviation of logarithms of rates, from the differences of successive ones: a trend has no effect."""
    variances = [(later - earlier) ** 2 / 2 for earlier, later in itertools.pairwise(logs)]
    return math.sqrt(_mean(variances)) if variances else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def format_duration(seconds: float) -> str:
    """Format a duration: `42 s`, `12 min 30 s`, `3 h 05 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


class ProgressLine:
    """Progress with its rate and the remaining time on standard error.

    On a terminal one line with a bar is rewritten five times a second; elsewhere a line is printed every ten seconds.

    Args:
        total: number of items; None if it is unknown, and then no remaining time is shown.
        unit: what the items are, in the plural, such as `images`; empty if they are not counted.
        name: of the phase.
        done: number of items that are done at the start.
    """

    def __init__(self, total: int | None, unit: str, name: str = "", done: int = 0) -> None:
        self._total, self._unit, self._name = total, unit, name
        self._is_terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()
        self.time_left = TimeLeft(total or 0, self._shown_s, done)
        self._is_shown = False
        if self._is_terminal and name and total is None:
            self._rewrite(f"{name} ...")

    def show(self, done: int, detail: str = "", more_s: float = 0.0, is_last: bool = False) -> None:
        """Show the number of items that are done.

        Args:
            done: the number of items.
            detail: shown instead of the rate.
            more_s: remaining seconds of other work than the items.
            is_last: show it even if another number was shown shortly before.
        """
        now_s = time.monotonic()
        self.time_left.update(now_s, done)
        if now_s - self._shown_s < (_TERMINAL_INTERVAL_S if self._is_terminal else _PLAIN_INTERVAL_S) and not is_last:
            return
        self._shown_s = now_s
        rate, left_s = self.time_left.rate, self.time_left.left_s(now_s)
        name = f"{self._name}: " if self._name else ""
        count = f"{done:,} {self._unit}" if self._total is None else f"{done:,} of {self._total:,} {self._unit}"
        left = "" if self._total is None or left_s is None else f"{format_duration(left_s + more_s)} left"
        short = ", ".join(filter(None, (f"{name}{count}", left)))
        text = ", ".join(
            filter(None, (f"{name}{count}", detail or (f"{rate:,.1f} {self._unit}/s" if rate else ""), left))
        )
        if not self._is_terminal:
            print(text, file=sys.stderr, flush=True)
            return
        width, bar = shutil.get_terminal_size().columns - 1, self._bar(done)
        self._rewrite(next((line for line in (f"{bar}{text}", f"{bar}{short}") if len(line) <= width), short))

    def _bar(self, done: int) -> str:
        if not self._total:
            return ""
        filled = min(_BAR_WIDTH, _BAR_WIDTH * done // self._total)
        return f"[{'#' * filled}{'-' * (_BAR_WIDTH - filled)}] "

    def _rewrite(self, line: str) -> None:
        self._is_shown = True
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{line[:width]}\033[K", end="", file=sys.stderr, flush=True)

    def print(self, line: str) -> None:
        """Print a line of its own."""
        print(f"\r\033[K{line}" if self._is_terminal else line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the line from the terminal."""
        if self._is_shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def phase(name: str, total: int | None = None, unit: str = "") -> Iterator[Progress]:
    """Report a phase of a job to the display, if there is one; also a decorator of functions that are a phase.

    Args:
        name: what is done, such as `hashing weights`.
        total: number of items; None if it is unknown.
        unit: what the items are, in the plural.

    Yields:
        A function of the number of items that are done.
    """
    display = _display.get()
    with _nothing() if display is None else display(name, total, unit) as progress:
        yield progress


def tracked(items: Iterable[T], name: str, unit: str, total: int | None = None) -> Iterator[T]:
    """Yield items, and report them as a phase; see `phase`.

    Args:
        items: of the phase.
        name: what is done with them.
        unit: what the items are, in the plural.
        total: number of items; by default their length, if they have one.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with phase(name, total, unit) as progress:
        for number, item in enumerate(items, 1):
            yield item
            progress(number)


@contextlib.contextmanager
def _nothing() -> Iterator[Progress]:
    yield lambda done: None


@contextlib.contextmanager
def no_phases() -> Iterator[None]:
    """Show no phases within the block, unless `show_phases_with` is called in it; restore the display afterwards."""
    token = _display.set(None)
    try:
        yield
    finally:
        _display.reset(token)


def show_phases_with(display: Display | None) -> None:
    """Install the display of the phases that this thread reports from now on."""
    _display.set(display)
