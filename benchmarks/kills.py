"""Kills and full disks: whether the next run is correct, leaves no partial file, and has lost nothing.

    python -m benchmarks.kills [--quick] [--json FILE]

Each job (`embed` to .npy and to .parquet, `shards`, `convert`, `models --fetch` from a server on loopback, the
checkpoint of `train`) runs in a forked process that is killed with SIGKILL: two thirds at a random moment of the job, a
third before or after one of its renames. Then the job runs again, undisturbed, and its output is compared with the one
of a process that was never killed; embeddings with fresh ones. Between the two runs, the earlier output must be there,
or the new one, complete. A full disk is a small tmpfs that is filled up to a random number of bytes; where mounting
one is not permitted, it is a limit of the size of files. Needs fork, so it does not run on Windows.
"""

import contextlib
import functools
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmarks.kill_jobs import Job, WeightsHandler, WeightsServer, encoder, jobs
from benchmarks.table import Row, finish, parser
from tests.serving import serving

from wordsight.errors import WordsightError

NUM_KILLS = 200
NUM_FULL_DISKS = 20
QUICK_KILLS = 30
QUICK_DISKS = 6
TMPFS_BYTES = 1 << 24
TIMEOUT_S = 120


def forked(work: Callable[[], object], kill_after_s: float | None = None) -> tuple[int, str]:
    """Run work in a forked process; return its exit status and the error that it raised, if any.

    Status 0: done; 1: an error of ours; 2: a `WordsightError` of one line; negative: the signal that ended it.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if not process:
        status = 1
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            try:
                signal.alarm(TIMEOUT_S)
                work()
                status = 0
            except WordsightError as error:
                status = 1 if "\n" in str(error) else 2
                os.write(writer, str(error).encode("utf-8", "replace")[:4000])
            except BaseException as error:  # the edge of a worker
                os.write(writer, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:4000])
        os._exit(status)
    os.close(writer)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(process, signal.SIGKILL)
    with os.fdopen(reader, "rb") as file:
        message = file.read().decode()
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), message


def in_order(*steps: Callable[[], object]) -> None:
    for step in steps:
        step()


def count_renames(kill_at: int, is_after: bool, counter: Path | None = None) -> None:
    """Patch renames so that this process is killed at one of them; or only count them in a file."""
    done = 0

    def patched(rename: Callable[..., None]) -> Callable[..., None]:
        def rename_or_die(*arguments: Any, **named: Any) -> None:
            nonlocal done
            done += 1
            if counter is not None:
                counter.write_text(str(done))
            if done == kill_at and not is_after:
                os.kill(os.getpid(), signal.SIGKILL)
            rename(*arguments, **named)
            if done == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

        return rename_or_die

    os.replace, os.rename = patched(os.replace), patched(os.rename)


@dataclass
class Trial:
    """Disturbs one job again and again.

    Attributes:
        problems: one line for each time that the next run was not correct.
    """

    job: Job
    work: Path
    generator: random.Random
    problems: list[str] = field(default_factory=list)

    def measure(self) -> tuple[float, int]:
        """Return the duration of an undisturbed run, and its number of renames."""
        directory, counter = self.prepared(self.work / "measured"), self.work / "renames"

        def run() -> None:
            count_renames(0, False, counter)
            self.job.run(directory)

        start_s = time.perf_counter()
        status, message = forked(run)
        assert status == 0, f"{self.job.name}: {message}"
        return time.perf_counter() - start_s, int(counter.read_text())

    def prepared(self, directory: Path) -> Path:
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        status, message = forked(lambda: self.job.prepare(directory))
        assert status == 0, f"{self.job.name}: {message}"
        return directory

    def kill(self, num_kills: int) -> int:
        """Kill the job `num_kills` times; return after how many of them the next run was correct."""
        duration_s, num_renames = self.measure()
        correct = 0
        for number in range(num_kills):
            directory = self.prepared(self.work / "killed")
            if number % 3:
                seconds = self.generator.uniform(0, duration_s)
                how = f"after {seconds:.4f} s"
                forked(functools.partial(self.job.run, directory), seconds)
            else:
                at, is_after = self.generator.randint(1, num_renames), self.generator.random() < 0.5
                how = f"{'after' if is_after else 'before'} rename {at} of {num_renames}"
                patch = functools.partial(count_renames, at, is_after)
                forked(functools.partial(in_order, patch, functools.partial(self.job.run, directory)))
            correct += self.is_correct(directory, f"killed {how}")
        return correct

    def is_correct(self, directory: Path, how: str) -> bool:
        """Check what is left, run the job again, and check its output."""
        for step in (self.job.kept, self.job.run, self.job.check):
            status, message = forked(functools.partial(step, directory))
            if status:
                self.problems.append(f"{self.job.name}, {how}: {message or f'status {status}'}")
                return False
        left = {path.name for path in directory.iterdir()} - self.job.outputs
        left |= {path.name for path in directory.rglob("*") if path.name.endswith((".partial", ".next", ".former"))}
        if left:
            self.problems.append(f"{self.job.name}, {how}: left {sorted(left)}")
        return not left

    def fill(self, num_disks: int) -> int:
        """Run the job on full disks; return after how many of them it ends in one line and the next run is correct."""
        correct = 0
        for _ in range(num_disks):
            with full_disk(self.work / "disk") as (directory, limited):
                self.prepared(directory / "work")
                how = limited(self.generator)
                run = functools.partial(self.job.run, directory / "work")
                status, message = forked(functools.partial(in_order, how.apply, run))
                how.end()
                if status not in (0, 2):
                    self.problems.append(f"{self.job.name}, {how.name}: {message or f'status {status}'}")
                else:
                    correct += self.is_correct(directory / "work", how.name)
        return correct


@dataclass(frozen=True)
class Limit:
    """How a disk is full: `apply` is called in the process that does the work, `end` before the next run."""

    name: str
    apply: Callable[[], object]
    end: Callable[[], object]


@contextlib.contextmanager
def full_disk(mount_point: Path) -> Iterator[tuple[Path, Callable[[random.Random], Limit]]]:
    """Yield a directory, and a function that fills its disk up to a random number of free bytes."""
    mount_point.mkdir(exist_ok=True)
    options = f"size={TMPFS_BYTES}"
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(mount_point)]
    is_mounted = shutil.which("mount") and not subprocess.run(command, capture_output=True, check=False).returncode
    ballast = mount_point / "ballast"

    def fill(generator: random.Random) -> Limit:
        free = shutil.disk_usage(mount_point).free
        left = int(generator.uniform(0, 1) ** 3 * 2_000_000) // 4096 * 4096
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, free - left))
        return Limit(f"{left} bytes free", lambda: None, ballast.unlink)

    def limit(generator: random.Random) -> Limit:
        size = int(generator.uniform(0, 1) ** 3 * 800_000)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        return Limit(
            f"files of {size} bytes", lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)), lambda: None
        )

    try:
        yield mount_point, fill if is_mounted else limit
    finally:
        if is_mounted:
            subprocess.run(["umount", str(mount_point)], check=True)
        shutil.rmtree(mount_point, ignore_errors=True)


def serve(connection: Any) -> None:
    """Run the server in a process of its own, because forked jobs must not inherit its threads."""
    with serving(WeightsServer(("127.0.0.1", 0), WeightsHandler)) as server:
        connection.send(server.address)
        connection.recv()


def measure(num_kills: int, num_disks: int, work: Path, seed: int = 0) -> tuple[list[Row], list[str]]:
    """Return the rows, and a line for each failure."""
    torch.set_num_threads(1)
    encoder()
    here, there = multiprocessing.get_context("fork").Pipe()
    server = multiprocessing.get_context("fork").Process(target=serve, args=(there,))
    server.start()
    rows, problems, totals = [], [], [0, 0]
    try:
        each = jobs(here.recv())
        for number, job in enumerate(each):
            kills, disks = (total // len(each) + (number < total % len(each)) for total in (num_kills, num_disks))
            trial = Trial(job, work / str(number), random.Random(seed + number))
            trial.work.mkdir()
            killed, filled = trial.kill(kills), trial.fill(disks)
            rows.append(Row.at_least(f"{job.name}: correct after a kill (of {kills})", killed, kills))
            rows.append(Row.at_least(f"{job.name}: correct after a full disk (of {disks})", filled, disks))
            problems += trial.problems
            totals = [totals[0] + killed, totals[1] + filled]
    finally:
        here.send(None)
        server.join()
    rows.append(Row.at_least(f"kills after which the next run is correct (of {num_kills})", totals[0], num_kills))
    rows.append(Row.at_least(f"full disks after which it is correct (of {num_disks})", totals[1], num_disks))
    return rows, problems


def main() -> None:
    arguments = parser(__doc__).parse_args()
    counts = (QUICK_KILLS, QUICK_DISKS) if arguments.quick else (NUM_KILLS, NUM_FULL_DISKS)
    with tempfile.TemporaryDirectory() as work:
        rows, problems = measure(*counts, Path(work))
    for problem in problems:
        print(problem)
    finish(rows, arguments.json)


if __name__ == "__main__":
    main()
