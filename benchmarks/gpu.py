"""Everything that only a GPU can show, as JSON files; run it with `benchmarks/gpu.sh`.

    python -m benchmarks.gpu --out DIRECTORY [--rehearse] [--minutes 7.5] [--only training,parity]

Each part runs in its own process, so that a crash or a full device memory does not affect the others, and writes
`DIRECTORY/<part>.json` after every measurement. The exit code is 1 if a part or a measurement failed.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import gpu_embed, gpu_encoding, gpu_training
from benchmarks.gpu_device import Results, environment

Part = Callable[[Results, bool, float], None]


def run_environment(results: Results, rehearsal: bool, deadline: float) -> None:
    """Record versions and devices."""
    for name, value in environment().items():
        results.record(name, value)


PARTS: dict[str, tuple[Part, float]] = {
    # share of the minutes that a part may use at most; what a part leaves is available to the later ones
    "environment": (run_environment, 0.1),
    "parity": (gpu_encoding.run_parity, 0.15),
    "embed": (gpu_embed.run, 0.2),
    "encoding": (gpu_encoding.run_encoding, 0.35),
    "training": (gpu_training.run, 1.0),
}
GRACE_S = 60.0  # for a measurement that began just before its deadline


def run_part(name: str, out: Path, rehearsal: bool, seconds: float) -> int:
    """Run one part in this process and return its exit code."""
    results = Results(out / f"{name}.json")
    PARTS[name][0](results, rehearsal, time.monotonic() + seconds)
    return 1 if results.failures else 0


def run_all(names: list[str], options: argparse.Namespace) -> dict[str, str]:
    """Run each part in a process of its own, and return what became of it."""
    end = time.monotonic() + 60 * options.minutes
    outcomes = {}
    for name in names:
        left = end - time.monotonic()
        if left < 5:
            outcomes[name] = "skipped: no time left"
            continue
        seconds = min(left, 60 * options.minutes * PARTS[name][1])
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, "--out", str(options.out)]
        command += ["--seconds", str(seconds), *(["--rehearse"] if options.rehearse else [])]
        print(f"== {name}: at most {seconds:.0f} s", flush=True)
        try:
            code = subprocess.run(command, check=False, timeout=min(left, seconds + GRACE_S)).returncode
            outcomes[name] = "ok" if code == 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            outcomes[name] = "timed out; the measurements before are in the file"
    return outcomes


def main() -> int:
    """Run all parts, or with `--part` one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIRECTORY", help="where the JSON files are written")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes, to try everything on a CPU")
    parser.add_argument("--minutes", type=float, default=7.5, help="minutes for all parts together")
    parser.add_argument("--only", help=f"comma-separated parts of {','.join(PARTS)}")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=0.0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return run_part(options.part, options.out, options.rehearse, options.seconds)
    outcomes = run_all(options.only.split(",") if options.only else list(PARTS), options)
    Results(options.out / "outcomes.json").record("outcomes", outcomes)
    return 0 if set(outcomes.values()) == {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
