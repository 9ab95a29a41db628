"""Decoding of ordinary JPEG, PNG and WebP files, compared with another commit of wordsight.

    git worktree add ../before COMMIT
    python -m benchmarks.decode --before ../before [--quick] [--json FILE]

Two worker processes, one per checkout, decode the same photos in alternation on one core, in 15 rounds (5 with
`--quick`). In a round, each decodes the files of each format five times for at least 0.05 s of CPU time, in turns, of
which the fastest counts. The ratio is the median of the ratios of the rounds, because the speed of a shared machine
drifts. Each round has new processes, because where a process happens to have its memory changes its speed by 5 %.
The files are photos of 128 pixels as downloaded, and the same photos enlarged to 512 x 384 and 1600 x 1200 pixels;
`decode` returns the whole image, `load_pixels` includes the resize to 224 pixels.
"""

import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

from benchmarks.table import Row, finish, parser
from PIL import Image

ROUNDS, QUICK_ROUNDS = 15, 5
NUM_FILES = 40
MIN_RATIO = 0.95
FORMATS = {"JPEG": {"quality": 90}, "progressive JPEG": {"quality": 90, "progressive": True}, "PNG": {}, "WebP": {}}
SIZES = {"128 px": None, "512 px": (512, 384), "1600 px": (1600, 1200)}
NUM_LARGE = 8
TURNS = 5
MIN_SECONDS = 0.05
FUNCTIONS = ("decode", "load_pixels")


def write_files(data: Path, directory: Path, is_quick: bool) -> list[str]:
    """Write the photos in each format and size, in directories; returns the names of these."""
    num_files = NUM_FILES // 4 if is_quick else NUM_FILES
    with tarfile.open(data / "flickr8k-val.tar") as archive:
        members = [member for member in archive if member.name.endswith(".jpg")][:num_files]
        contents = [file.read() for member in members if (file := archive.extractfile(member))]
    photos = [Image.open(io.BytesIO(content)).convert("RGB") for content in contents]
    for kind, options in FORMATS.items():
        for name, size in SIZES.items():
            (directory / f"{kind}, {name}").mkdir()
            for number, photo in enumerate(photos if size is None else photos[:NUM_LARGE]):
                scaled = photo if size is None else photo.resize(size)
                scaled.save(directory / f"{kind}, {name}" / f"{number:03d}", kind.split()[-1], **options)
    return [f"{kind}, {size}" for size in SIZES for kind in FORMATS]


def work() -> None:
    """Decode the files of the directories that are named on standard input, and print the seconds that each took."""
    from wordsight.image import Preprocessing, decode, load_pixels

    preprocessing = Preprocessing(size_px=224)
    functions = {"decode": decode, "load_pixels": lambda content: load_pixels(content, preprocessing)}
    for line in sys.stdin:
        function, _, directory = line.rstrip("\n").partition("\t")
        contents = [path.read_bytes() for path in sorted(Path(directory).iterdir())]
        functions[function](contents[0])  # warms up
        begin, num_images, seconds = time.process_time(), 0, 0.0  # the wall clock would include other processes
        while seconds < MIN_SECONDS:
            for content in contents:
                functions[function](content)
            num_images += len(contents)
            seconds = time.process_time() - begin
        print(seconds / num_images, flush=True)


class Worker:
    """A process that decodes with the code of a checkout."""

    def __init__(self, checkout: Path) -> None:
        here = Path(__file__).resolve().parents[1]
        paths = os.pathsep.join([str(checkout.resolve() / "src"), str(here)])
        command = [sys.executable, "-m", "benchmarks.decode", "--work"]
        environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=here
        )

    def seconds(self, function: str, directory: Path) -> float:
        """Seconds per image."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{function}\t{directory}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def seconds_of(
    checkouts: tuple[Path, Path], cases: list[tuple[str, Path]], rounds: int
) -> dict[tuple[str, Path], list[tuple[float, float]]]:
    """Seconds per image of each function and directory, of the two checkouts, in each round."""
    seconds: dict[tuple[str, Path], list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        workers = [Worker(checkout) for checkout in checkouts]
        for function, directory in cases:
            turns = [[worker.seconds(function, directory) for worker in workers] for _ in range(TURNS)]
            before, now = (min(taken) for taken in zip(*turns, strict=True))
            seconds[function, directory].append((before, now))
        for worker in workers:
            worker.close()
    return seconds


def row(function: str, directory: Path, seconds: list[tuple[float, float]]) -> Row:
    """Compare the seconds of the two checkouts."""
    ratio = statistics.median(before / now for before, now in seconds)
    peer, ours = (1 / statistics.median(taken) for taken in zip(*seconds, strict=True))
    return Row(f"{directory.name}: {function} (images/s)", ours, peer, ratio, MIN_RATIO, ratio >= MIN_RATIO)


def main() -> None:
    """Alternate the two checkouts and print the table."""
    assert __doc__
    command = parser(__doc__.splitlines()[0], needs_data=True)
    command.add_argument("--before", type=Path, metavar="DIRECTORY", help="a checkout of the commit to compare with")
    command.add_argument("--work", action="store_true", help="used by the benchmark itself")
    options = command.parse_args()
    if options.work:
        work()
        return
    if options.before is None or not (options.before / "src" / "wordsight").is_dir():
        command.error("--before: expected a checkout of wordsight, with src/wordsight in it")
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    checkouts = options.before, Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as root:
        names = write_files(options.data, Path(root), options.quick)
        cases = [(function, Path(root) / name) for name in names for function in FUNCTIONS]
        seconds = seconds_of(checkouts, cases, rounds)
    finish([row(*case, seconds[case]) for case in cases], options.json)


if __name__ == "__main__":
    main()
