"""Output to the terminal: progress and notes on standard error, and text that is safe to print."""

import io
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, redirect_stderr
from typing import Any

from wordsight.errors import encodable, printable
from wordsight.progress import Progress, ProgressLine, show_phases_with

_MB = 1_000_000


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
def show_progress(total: int | None, unit: str, quiet: bool = False, name: str = "") -> Iterator[Progress]:
    """Show progress with its rate and the remaining time on standard error; see `wordsight.progress`.

    Args:
        total: number of items; None if it is unknown, and then no remaining time is shown.
        unit: what the items are, in the plural, such as `images`.
        quiet: show nothing.
        name: of the phase, such as `hashing weights`.
    """
    if quiet:
        yield lambda done: None
        return
    line = ProgressLine(total, unit, name)
    try:
        yield line.show
    finally:
        line.close()


def show_phases(quiet: bool) -> None:
    """Show the progress of each phase that library code reports while this command runs, unless it is quiet."""
    show_phases_with(None if quiet else lambda name, total, unit: show_progress(total, unit, name=name))


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
                show = stack.enter_context(show_progress(remaining_mb, "MB", quiet, "downloading"))
            show((done - done_before) // _MB)

        yield progress
