"""Hostile inputs: each ends in success or one error line, in time, within the memory budget, and changes nothing else.

    python -m benchmarks.hostile [--quick] [--only NAME] [--json FILE]

The inputs are those of `tests/hostile/corpus.py`: valid files of every kind, changed by a seeded generator, and attacks
made by hand. Each is read by a command in a process of its own. Failures are listed on standard error.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.table import Row, finish, parser
from tests.hostile import corpus
from tests.hostile.sandbox import (
    MAX_SECONDS,
    MEMORY_BUDGET_BYTES,
    HostileInput,
    Outcome,
    import_everything,
    run,
    serving_responses,
)

from wordsight.parallel import available_cpus

MIN_INPUTS = 700
MUTATIONS_PER_SEED = 2 * len(corpus.MUTATIONS)


def inputs(quick: bool) -> list[HostileInput]:
    """All inputs, or about a fifth of them."""
    mutated = [
        corpus.mutated(name, seed, number)
        for name, seed in corpus.seeds().items()
        for number in range(MUTATIONS_PER_SEED)
    ]
    return [*mutated, *corpus.special_inputs()][:: 5 if quick else 1]


_chosen: list[HostileInput] = []  # of a worker process; inputs are closures, which cannot be sent to it


def _choose(quick: bool, only: str) -> list[HostileInput]:
    import_everything()
    _chosen[:] = [each for each in inputs(quick) if only in each.name]
    return _chosen


def _run(number: int, work: Path, port: int) -> Outcome:
    return run(_chosen[number], work / str(number), port)


def outcomes_of(quick: bool, only: str) -> Iterator[tuple[str, Outcome]]:
    """Run the inputs in one process per CPU, each of which forks a process per input; yields names and outcomes."""
    names = [each.name for each in _choose(quick, only)]
    with tempfile.TemporaryDirectory() as work, serving_responses(Path(work)) as port:
        context = multiprocessing.get_context("spawn")  # a process that computed before it was forked cannot fork again
        with context.Pool(available_cpus(), _choose, (quick, only)) as pool:
            do = partial(_run, work=Path(work), port=port)
            yield from zip(names, pool.imap(do, range(len(names))), strict=True)
            pool.close()
            pool.join()


def main() -> None:
    """Run the inputs and print the table."""
    command = parser(__doc__)
    command.add_argument("--only", default="", metavar="NAME", help="only inputs whose name contains this")
    options = command.parse_args()
    outcomes: list[Outcome] = []
    for name, outcome in outcomes_of(options.quick, options.only):
        outcomes.append(outcome)
        for failure in outcome.failures:
            print(f"{name}: {failure}", file=sys.stderr, flush=True)
    total = len(outcomes)
    slowest, peak = max(o.seconds for o in outcomes), max(o.peak_bytes for o in outcomes) / (1 << 20)
    rows = [
        Row.at_least("hostile inputs", total, 0 if options.quick or options.only else MIN_INPUTS),
        Row.at_least("ended in success or one line", sum(o.is_one_line for o in outcomes) / total, 1),
        Row.at_most("slowest (s)", slowest, MAX_SECONDS),
        Row.at_most("largest memory (MiB)", peak, MEMORY_BUDGET_BYTES >> 20),
        Row.at_most("inputs that changed a file outside the output", sum(bool(o.changed) for o in outcomes), 0),
        Row.measured("inputs that were read", sum(o.code == 0 for o in outcomes)),
    ]
    finish(rows, options.json)


if __name__ == "__main__":
    main()
