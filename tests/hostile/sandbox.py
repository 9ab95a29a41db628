"""Runs one command on one hostile input in a forked process, and judges how it ends.

The process is forked from one that has imported everything, so that an input costs a fraction of a second. Each input
has its own directory, with a home, a cache, a directory for temporary files and an output directory of its own.
"""

import importlib
import os
import pkgutil
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import wordsight
from wordsight.cli import main

MAX_SECONDS = 10
MEMORY_BUDGET_BYTES = 1 << 30
OUTPUTS = ("out", "cache")
"""The directories that a command may change."""

_POLL_S = 0.005
_LINES = "\n\r\t"


@dataclass(frozen=True)
class HostileInput:
    """A command and the files it reads.

    Attributes:
        name: what is hostile.
        write: writes the files into the root directory of the input.
        command: arguments of `wordsight`, run in the root directory; `{mirror}` stands for the address of a server
            that answers with the file `response` in that directory.
        script: Python code to run in place of the command, for the tests of this module.
    """

    name: str
    write: Callable[[Path], None]
    command: tuple[str, ...]
    script: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Attributes:
        code: exit code; negative if a signal ended the process.
        output: what it wrote to standard output and standard error.
        seconds: until it ended; `MAX_SECONDS` if it had to be killed.
        peak_bytes: growth of its memory after it was forked; parts of libraries that it uses first are included.
        changed: files outside of the output directories that it created, changed or deleted.
    """

    code: int
    output: str
    seconds: float
    peak_bytes: int
    changed: tuple[str, ...]

    @property
    def is_one_line(self) -> bool:
        """Whether the command succeeded or ended in one error line, without a traceback or control characters."""
        errors = [line for line in self.output.splitlines() if line.startswith("error: ")]
        shown = all(character.isprintable() or character in _LINES for character in self.output)
        has_expected_end = self.code == 0 or (self.code == 2 and len(errors) == 1)
        return has_expected_end and shown and "Traceback" not in self.output and "Warning:" not in self.output

    @property
    def failures(self) -> list[str]:
        """What is wrong with the outcome; empty if nothing is."""
        checks = {
            f"exit code {self.code}: {self.output[-300:]!r}": self.is_one_line,
            f"{self.seconds:.1f} s": self.seconds < MAX_SECONDS,
            f"{self.peak_bytes >> 20} MiB": self.peak_bytes <= MEMORY_BUDGET_BYTES,
            f"changed {', '.join(self.changed)}": not self.changed,
        }
        return [failure for failure, holds in checks.items() if not holds]


def import_everything() -> None:
    """Import every module of the package, so that forked processes need not.

    From now on torch computes with one thread: a process forked from one that has used several crashes.
    """
    torch.set_num_threads(1)
    for module in pkgutil.walk_packages(wordsight.__path__, "wordsight."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ImportError:  # an extra that is not installed
                continue


@contextmanager
def serving_responses(work: Path) -> Iterator[int]:
    """Serve the responses of the inputs below `work` from a process of its own, and yield the port."""
    command = [sys.executable, "-m", "tests.hostile.raw_server", str(work)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield int(server.stdout.readline())
        finally:
            server.kill()


def run(hostile: HostileInput, root: Path, port: int = 0) -> Outcome:
    """Run the command of an input in `root`, an empty directory, which is deleted afterwards.

    Args:
        hostile: the input.
        root: its directory, below that of `serving_responses` if the command uses a mirror.
        port: of the server.
    """
    try:
        for name in ("home", "tmp", *OUTPUTS):
            (root / name).mkdir(parents=True)
        hostile.write(root)
        before = _snapshot(root)
        start_s = time.monotonic()
        child = os.fork()
        if child == 0:
            mirror = f"http://127.0.0.1:{port}/{root.name}"
            command = tuple(argument.replace("{mirror}", mirror) for argument in hostile.command)
            _run_in_child(root, lambda: _execute(hostile.script) if hostile.script else main(command))
        code, usage, seconds = _wait(child, start_s)
        changed = {path for path, _ in before ^ _snapshot(root)}
        output = (root / "output.txt").read_bytes().decode(errors="backslashreplace")
        base_bytes = int((root / "base.txt").read_text()) * resource.getpagesize()
        return Outcome(code, output, seconds, usage.ru_maxrss * 1024 - base_bytes, tuple(sorted(changed)))
    finally:
        for directory, _, _ in os.walk(root):
            Path(directory).chmod(0o755)
        shutil.rmtree(root, ignore_errors=True)


def _wait(child: int, start_s: float) -> tuple[int, resource.struct_rusage, float]:
    is_killed = False
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        seconds = time.monotonic() - start_s
        if pid:
            return os.waitstatus_to_exitcode(status), usage, MAX_SECONDS if is_killed else seconds
        if seconds > MAX_SECONDS and not is_killed:
            os.killpg(child, signal.SIGKILL)
            is_killed = True
        time.sleep(_POLL_S)


def _execute(script: Path) -> int:
    names = {"sys": sys, "os": os, "time": time, "Path": Path}
    try:
        exec(script.read_text(), names)
    except SystemExit as request:
        return int(request.code or 0)
    return 0


def _run_in_child(root: Path, work: Callable[[], int]) -> None:
    """Do the work in this process, which ends."""
    try:
        os.setsid()
        os.chdir(root)
        Path("base.txt").write_text(Path("/proc/self/statm").read_text().split()[1])
        output = os.open(root / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ |= {
            "HOME": str(root / "home"),
            "TMPDIR": str(root / "tmp"),
            "WORDSIGHT_CACHE": str(root / "cache"),
            "WORDSIGHT_MAX_MEMORY": str(MEMORY_BUDGET_BYTES),
        }
        tempfile.tempdir = None
        code = work()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    except BaseException as error:
        os.write(2, f"Traceback: {error!r}".encode())
        os._exit(70)


def _snapshot(root: Path) -> set[tuple[str, tuple[int, ...]]]:
    """Size, type and time of each file outside of the output directories."""
    entries: set[tuple[str, tuple[int, ...]]] = set()
    for directory, directories, files in os.walk(root):
        if Path(directory) == root:
            directories[:] = [name for name in directories if name not in OUTPUTS]
        for path in (Path(directory) / name for name in files):
            status = path.lstat()
            is_ours = path.name in ("output.txt", "base.txt")
            if not is_ours and path.suffix != ".index":  # indexes are stored next to their shards
                relative = ascii(str(path.relative_to(root)))
                entries.add((relative, (status.st_size, status.st_mode, status.st_mtime_ns)))
    return entries
