"""What the verbs show: names made safe to print, and how far the work is."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

_ON_TERMINAL_S = 0.2
_ELSEWHERE_S = 10.0


class Progress(Protocol):
    """Is told how many items are done."""

    def __call__(self, done: int) -> None:
        """At any rate; what is shown is bounded in time."""


def printable(text: object) -> str:
    """A name on one line, with what would steer the terminal, or cannot be written, as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in str(text)
    )


@contextmanager
def progress_of(total: int | None, what: str) -> Iterator[Progress]:
    """Show progress on the standard error with rate and time left: a line that is rewritten on a terminal, else lines.

    Args:
        total: of the items; None where it is not known, and then no time left is shown.
        what: their name in the plural, such as `pictures`.
    """
    on_terminal = sys.stderr.isatty()
    begin = shown = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown < (_ON_TERMINAL_S if on_terminal else _ELSEWHERE_S):
            return
        shown = now
        rate = done / (now - begin)
        line = f"{done:,} {what}, {rate:.1f} {what}/s"
        if total is not None and rate:
            line = f"{done:,} of {total:,} {what}, {rate:.1f} {what}/s, {(total - done) / rate:.0f} s left"
        print(f"\r{line}\033[K" if on_terminal else line, end="" if on_terminal else "\n", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if on_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
