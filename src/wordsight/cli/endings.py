"""How a command ends: every exception becomes one line on standard error and an exit code.

WordsightError, wrong usage             the message, exit code 2
OSError, MemoryError, errors of the     what the operating system or the library says, exit code 2: nearly always
libraries that read inputs              the input, the disk or the memory is the cause
KeyboardInterrupt, SIGTERM              `interrupted`, exit code 130
closed output                           nothing, exit code 141
SystemExit                              its own exit code
anything else                           a bug: a line with the name of a file that has the traceback, exit code 1
"""

import errno
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from wordsight.errors import WordsightError, hide_credentials, printable

EXIT_OK, EXIT_BUG, EXIT_USER_ERROR, EXIT_INTERRUPTED, EXIT_PIPE_CLOSED = 0, 1, 2, 130, 141

_UsageError: Any = typer.BadParameter.__base__  # the base of typer's usage errors, which typer does not export
_LIBRARIES = (
    *("PIL", "av", "binascii", "fsspec", "gzip", "huggingface_hub", "json", "lzma", "msgspec", "onnx", "onnxruntime"),
    *("pickle", "pyarrow", "safetensors", "safetensors_rust", "sentencepiece", "struct", "tarfile", "tokenizers"),
    *("tomllib", "xml", "zipfile", "zlib"),
)
"""Packages that read inputs: what they raise is caused by a damaged input, although a better message would name it."""
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory")


class Interruption:
    """A signal handler that raises KeyboardInterrupt and remembers it, because libraries may raise another error."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:  # noqa: D102
        self.requested = True
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[Interruption]:
    """Within the context SIGTERM, like SIGINT, raises KeyboardInterrupt, unless the process ignores the signal."""
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    replaced = {number: handler for number, handler in defaults.items() if signal.getsignal(number) is handler}
    for number in replaced:
        signal.signal(number, interruption)
    try:
        yield interruption
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)


def prepare_streams() -> None:
    """Make standard output and error usable, whatever they are.

    Closed streams become the null device: otherwise the next file that is opened would get their number, and messages
    of libraries would be written into it. Characters that the terminal cannot encode are printed as escapes.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - stays open
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


@contextmanager
def one_line_warnings() -> Iterator[None]:
    """Print warnings within the context as one line each, without the source line."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        _say(f"warning: {_one_line(message)}")

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def end(error: BaseException, interruption: Interruption, arguments: list[str]) -> int:
    """Print one line about the exception that ended a command, and return the exit code."""
    if isinstance(error, WordsightError):
        return _fail(str(error))
    if isinstance(error, _UsageError):
        return _fail(error.format_message())
    is_end_of_file = isinstance(error.__cause__, EOFError)  # typer raises Abort from it
    if interruption.requested or (isinstance(error, KeyboardInterrupt | typer.Abort) and not is_end_of_file):
        _say("interrupted")
        return EXIT_INTERRUPTED
    if is_closed_pipe(error):
        return EXIT_PIPE_CLOSED
    if isinstance(error, SystemExit):
        return _code_of(error)
    if "--install-completion" in arguments and isinstance(error, OSError):
        return _fail(f"shell completion cannot be installed: {error}; --show-completion prints the script")
    if reason := _external_reason(error.__cause__ if is_end_of_file and error.__cause__ else error):
        return _fail(reason)
    _say(
        f"error: this is a bug in wordsight: {_described(error)}; please report it with the traceback in "
        f"{_save_traceback(error)}"
    )
    return EXIT_BUG


def flush(code: int) -> int:
    """Flush the output and return the exit code: another one if the output cannot be written."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _discard(sys.stdout)
        if is_closed_pipe(error):
            code = code or EXIT_PIPE_CLOSED
        elif not code:
            code = _fail(f"standard output: {_one_line(getattr(error, 'strerror', None) or error)}")
    try:
        sys.stderr.flush()
    except (OSError, ValueError):
        _discard(sys.stderr)
    return code


def is_closed_pipe(error: BaseException) -> bool:
    """Whether the reader of the output closed it, for which typer exits with code 1."""
    cause = error.__context__ if isinstance(error, SystemExit) else error
    return isinstance(cause, OSError) and cause.errno == errno.EPIPE


def _code_of(exit_request: SystemExit) -> int:
    code = exit_request.code
    if code is None or isinstance(code, int):
        return code or EXIT_OK
    _say(f"error: {_one_line(code)}")
    return EXIT_BUG


def _external_reason(error: BaseException) -> str:
    """What to tell about an exception whose cause is outside of wordsight; empty if it is a bug."""
    text = _one_line(error)
    if isinstance(error, OSError):
        names = " -> ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        return f"{names or 'reading or writing failed'}: {error.strerror or text}"
    if isinstance(error, MemoryError) or any(part in text.lower() for part in _NO_MEMORY):
        return f"not enough memory{f' ({text})' if text else ''}; use a smaller batch, image size or model"
    if isinstance(error, RecursionError):
        return "an input is nested too deeply to be read"
    if isinstance(error, UnicodeError):
        return f"a text or file name has an encoding that is not supported here: {text}"
    if isinstance(error, ImportError) and not (error.name or "wordsight").startswith("wordsight"):
        return f"{error.name} cannot be imported: {text}; install it again"
    if isinstance(error, EOFError) or type(error).__module__.partition(".")[0] in _LIBRARIES:
        return (
            f"an input cannot be read: {_described(error)}; if it is intact, please report this with the traceback in "
            f"{_save_traceback(error)}"
        )
    return ""


def _described(error: BaseException) -> str:
    """The class, message and notes of an exception on one line."""
    return "; ".join([f"{type(error).__name__}: {_one_line(error)}", *map(_one_line, getattr(error, "__notes__", ()))])


def _save_traceback(error: BaseException) -> str:
    """Write the traceback to a new temporary file, and return its path."""
    import tempfile
    import traceback

    lines = "".join(traceback.format_exception(error)).splitlines()
    try:
        descriptor, path = tempfile.mkstemp(prefix="wordsight-", suffix="-traceback.txt")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(f"{printable(line)}\n" for line in lines))
    except OSError as failure:
        return f"a file that cannot be written ({failure.strerror}): {lines[-2].strip() if len(lines) > 1 else ''}"
    return path


def _one_line(text: object) -> str:
    return printable(hide_credentials(" ".join(str(text).split())))


def _fail(message: str) -> int:
    _say(f"error: {_one_line(message)}")
    return EXIT_USER_ERROR


def _say(line: str) -> None:
    """Print a line to standard error; if that is not possible, there is nobody to tell."""
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


def _discard(stream: Any) -> None:
    """Send what is left in the buffer of a stream to the null device, so that Python does not fail when it ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
