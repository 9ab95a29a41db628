"""Time that `import wordsight` and `wordsight --help` take in a fresh process, beyond a bare interpreter.

    python -m benchmarks.startup [--quick] [--json FILE]

Each command runs in a fresh process with warm file caches; the three alternate, and the rows compare the medians of
seven rounds. `--quick` changes nothing: the whole run takes seconds.
"""

import statistics
import subprocess
import sys
import time

from benchmarks.table import Row, finish, parser

ROUNDS = 7
MAX_EXTRA_S = 0.1
COMMANDS = {
    "bare": ["-c", "pass"],
    "import wordsight": ["-c", "import wordsight"],
    "wordsight --help": ["-m", "wordsight", "--help"],
}


def run(arguments: list[str]) -> float:
    """Seconds of one fresh process."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> None:
    """Alternate the commands and print the table."""
    assert __doc__
    options = parser(__doc__.splitlines()[0]).parse_args()
    for arguments in COMMANDS.values():
        run(arguments)
    rounds = [{name: run(arguments) for name, arguments in COMMANDS.items()} for _ in range(ROUNDS)]
    median = {name: statistics.median(times[name] for times in rounds) for name in COMMANDS}
    names = [name for name in COMMANDS if name != "bare"]
    rows = [
        Row.at_most(f"{name}, beyond bare Python (s)", median[name] - median["bare"], MAX_EXTRA_S) for name in names
    ]
    finish(rows, options.json)


if __name__ == "__main__":
    main()
