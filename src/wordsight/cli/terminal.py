"""Output to the terminal: progress and notes on standard error, and text that is safe to print."""

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stderr
from typing import Any, Protocol

from wordsight.errors import encodable, printable

_TERMINAL_INTERVAL_S = 0.2
_PLAIN_INTERVAL_S = 10.0
_MB = 1_000_000


class Progress(Protocol):
    """Called with the number of items that are done."""

    def __call__(self, done: int) -> None:
        """Can be called often; the display is updated at most five times per second."""


def human_bytes(size: int) -> str:
    """Format a number of bytes in decimal units, such as `354 MB`."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} B"


def print_note(message: str, quiet: bool = False) -> None:
    """Print an informational line to standard error unless `--quiet` was given."""
    if not quiet:
        print(printable(message), file=sys.stderr, flush=True)


def print_lines(*lines: str) -> None:
    """Print lines that may contain untrusted text to standard output: control characters in them are escaped."""
    print("\n".join(map(printable, lines)))


def print_json(value: Any) -> None:
    """Print a struct or plain data to standard output as one line of valid JSON.

    It is ASCII, so no terminal interprets any part of it. A number that is not finite becomes null, and an undecodable
    byte of a file name an escape such as `\\udcff`.
    """
    import json

    import msgspec

    try:
        text = json.dumps(value, default=lambda item: msgspec.to_builtins(item, enc_hook=str), allow_nan=False)
    except ValueError:  # a number that is not finite
        text = ""
    if not text or "\\ud" in text:  # perhaps a lone surrogate
        text = json.dumps(_valid(msgspec.to_builtins(value, enc_hook=str)))
    print(text.replace("\x7f", "\\u007f"))


def _valid(value: Any) -> Any:
    if isinstance(value, dict):
        return {_valid(key): _valid(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_valid(item) for item in value]
    if isinstance(value, str):
        return encodable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def silence_notes(quiet: bool) -> AbstractContextManager[object]:
    """Discard everything written to standard error within the context, if `--quiet` was given.

    For work that writes its own progress. Errors are exceptions, which are reported outside of the context.
    """
    return redirect_stderr(io.StringIO()) if quiet else nullcontext()


@contextmanager
def show_progress(total: int | None, unit: str, quiet: bool = False) -> Iterator[Progress]:
    """Show progress with its rate and the remaining time on standard error.

    On a terminal one line is rewritten five times a second; elsewhere a line is printed every ten seconds.

    Args:
        total: number of items; None if it is unknown, and then no remaining time is shown.
        unit: what the items are, in the plural, such as `images`.
        quiet: show nothing.
    """
    is_terminal = sys.stderr.isatty()
    start_s = shown_s = time.monotonic()

    def show(done: int) -> None:
        nonlocal shown_s
        now_s = time.monotonic()
        if now_s - shown_s < (_TERMINAL_INTERVAL_S if is_terminal else _PLAIN_INTERVAL_S):
            return
        shown_s = now_s
        rate = done / (now_s - start_s)
        line = f"{done:,} {unit}, {rate:.1f} {unit}/s"
        if total is not None and rate:
            line = f"{done:,} of {total:,} {unit}, {rate:.1f} {unit}/s, {(total - done) / rate:.0f} s left"
        print(f"\r{line}\033[K" if is_terminal else line, end="" if is_terminal else "\n", file=sys.stderr, flush=True)

    if quiet:
        yield lambda done: None
        return
    try:
        yield show
    finally:
        if is_terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextmanager
def show_byte_progress(quiet: bool = False) -> Iterator[Callable[[int, int | None], None]]:
    """Show the progress of a download in megabytes.

    The rate counts from the first call, so that it is also correct for a resumed download.

    Yields:
        A function of the number of bytes that are done and of the total, None if it is unknown.
    """
    show: Progress | None = None
    done_before = 0
    with ExitStack() as stack:

        def progress(done: int, total: int | None) -> None:
            nonlocal show, done_before
            if show is None:
                done_before = done
                remaining_mb = None if total is None else (total - done) // _MB
                show = stack.enter_context(show_progress(remaining_mb, "MB", quiet))
            show((done - done_before) // _MB)

        yield progress
