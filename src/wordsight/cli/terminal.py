"""What the commands show: names made safe to print, and how far the work is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder
    from wordsight.image import Decoding

_ON_TERMINAL_S = 0.2
_ELSEWHERE_S = 10.0
_MB = 1_000_000


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
        what: their name in the plural, such as `images`.
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


@contextmanager
def progress_of_bytes() -> Iterator[Callable[[int, int | None], None]]:
    """Progress in megabytes of what is still to come when the first bytes arrive: `progress(done, total)`."""
    show: Progress | None = None
    before = 0
    with ExitStack() as stack:

        def progress(done: int, total: int | None) -> None:
            nonlocal show, before
            if show is None:
                before = done
                to_come = None if total is None else (total - done) // _MB
                show = stack.enter_context(progress_of(to_come, "MB"))
            show((done - before) // _MB)

        yield progress


def open_model(name: str, mirror: str | None, runtime: str, decoding: "Decoding | None" = None) -> "DualEncoder":
    """Load a model for a command, with progress where it is downloaded; errors as `wordsight.load`."""
    from wordsight.encoder import load

    with progress_of_bytes() as progress:
        return load(name, mirror=mirror, progress=progress, runtime=runtime, decoding=decoding)
