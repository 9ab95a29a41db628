"""What every benchmark ends with: its rows as a table, as JSON, and an exit code that says whether the bounds hold."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from wordsight.files import write_atomic

HEADS = ("name", "ours", "peer", "ratio", "target", "holds")


@dataclass(frozen=True)
class Row:
    """One measured line. The unit belongs into the name: `4,000 clean captions, warm (texts/s)`.

    Make it with `compare`, `at_least` or `at_most`: they work out `ratio` and `holds`.
    """

    name: str
    ours: float
    peer: float | None
    ratio: float | None
    target: float | None
    holds: bool

    @classmethod
    def compare(cls, name: str, ours: float, peer: float, target: float | None = None) -> "Row":
        """A rate against a peer's; `target` is the least ratio, None where nothing is promised."""
        ratio = ours / peer
        return cls(name, ours, peer, ratio, target, target is None or ratio >= target)

    @classmethod
    def at_least(cls, name: str, ours: float, target: float, peer: float | None = None) -> "Row":
        """A figure of ours (a score, say) that has to reach `target` by itself; the peer's stands beside it."""
        return cls(name, ours, peer, ours / peer if peer else None, target, ours >= target)

    @classmethod
    def at_most(cls, name: str, ours: float, target: float, peer: float | None = None) -> "Row":
        """A figure of ours (a difference, say) that has to stay within `target`."""
        return cls(name, ours, peer, ours / peer if peer else None, target, ours <= target)


def parser(description: str | None) -> argparse.ArgumentParser:
    """A command line with the option that every benchmark has; a benchmark adds its own to it."""
    command = argparse.ArgumentParser(description=description)
    command.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as JSON")
    return command


def finish(rows: Sequence[Row], json_path: Path | None = None) -> NoReturn:
    """Print the rows, write them as a JSON list where a path is given, and leave: 1 where a bound does not hold."""
    cells = [HEADS, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADS))]
    for line in cells:
        name, *figures = (
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        print("  ".join((name, *figures)))
    if json_path is not None:
        write_atomic(json_path, (json.dumps([asdict(row) for row in rows], indent=2) + "\n").encode())
    sys.exit(0 if all(row.holds for row in rows) else 1)


def _cells(row: Row) -> tuple[str, ...]:
    figures = (_figure(number) for number in (row.ours, row.peer, row.ratio, row.target))
    return (row.name, *figures, "-" if row.target is None else "yes" if row.holds else "NO")


def _figure(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
