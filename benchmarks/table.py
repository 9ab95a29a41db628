"""The common end of every benchmark: its rows as a table and as JSON, and an exit code for the targets.

A benchmark builds its command line with `parser`, measures, and passes its rows to `finish`.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from wordsight.files import write_atomic

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
HEADER = ("name", "ours", "peer", "ratio", "target", "holds")


@dataclass(frozen=True)
class Row:
    """One measurement. The name includes the unit: `4,000 clean captions, warm (texts/s)`.

    Create rows with `compare`, `at_least` or `at_most`, which compute `ratio` and `holds`.

    Attributes:
        ours: our value.
        peer: the peer's value in the same run, if there is one.
        ratio: `ours / peer`.
        target: the bound, on the ratio or on `ours`; None if the row has none.
        holds: whether the target is met; True if there is none.
    """

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    target: float | None
    holds: bool

    @classmethod
    def compare(cls, name: str, ours: float, peer: float, target: float | None = None) -> "Row":
        """Compare a rate with a peer's; `target` is the minimum ratio."""
        ratio = ours / peer
        return cls(name, ours, peer, ratio, target, target is None or ratio >= target)

    @classmethod
    def measured(cls, name: str, ours: float) -> "Row":
        """A value of ours without peer or target."""
        return cls(name, ours, None, None, None, True)

    @classmethod
    def at_least(cls, name: str, ours: float, target: float, peer: float | None = None) -> "Row":
        """A value of ours, such as a score, with a lower bound; the peer's value is only shown."""
        return cls(name, ours, peer, ours / peer if peer else None, target, ours >= target)

    @classmethod
    def at_most(cls, name: str, ours: float, target: float, peer: float | None = None) -> "Row":
        """A value of ours, such as a difference, with an upper bound; the peer's value is only shown."""
        return cls(name, ours, peer, ours / peer if peer else None, target, ours <= target)


def parser(description: str | None, needs_data: bool = False) -> argparse.ArgumentParser:
    """Build a command line with the options that all benchmarks share.

    Args:
        description: usually the benchmark's module docstring.
        needs_data: whether to add `--data DIRECTORY`, for benchmarks that read the archives of real data.

    Returns:
        A parser with `--json FILE` and `--quick`, to which a benchmark adds its own options.
    """
    command = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--json", type=Path, metavar="FILE", help="also write the rows to FILE as JSON")
    command.add_argument(
        "--quick",
        action="store_true",
        help="at most three minutes on two idle cores: fewer rounds, less data, only rows that need no long training",
    )
    if needs_data:
        command.add_argument(
            "--data",
            type=Path,
            default=DATA,
            metavar="DIRECTORY",
            help="the archives of real data (default: %(default)s)",
        )
    return command


def finish(rows: Sequence[Row], json_path: Path | None = None) -> NoReturn:
    """Print the rows, write them to `json_path` as a JSON list, and exit with 1 if a target is missed, else 0."""
    lines = [HEADER, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADER))]
    for name, *numbers in lines:
        aligned = (number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True))
        print("  ".join((name.ljust(widths[0]), *aligned)))
    if json_path is not None:
        write_atomic(json_path, (json.dumps([asdict(row) for row in rows], indent=2) + "\n").encode())
    sys.exit(0 if all(row.holds for row in rows) else 1)


def _cells(row: Row) -> tuple[str, ...]:
    numbers = (_format_number(number) for number in (row.ours, row.peer, row.ratio, row.target))
    return (row.name, *numbers, "-" if row.target is None else "yes" if row.holds else "NO")


def _format_number(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
