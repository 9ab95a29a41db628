"""`wordsight runs`: training runs compared."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from wordsight.cli.runs_table import RunsTable

RunsArgument = Annotated[
    list[Path],
    typer.Argument(metavar="DIR", help="Training runs, or directories that contain them.", show_default=False),
]
SortOption = Annotated[
    str,
    typer.Option(
        "--sort",
        metavar="COLUMN",
        help="Column by which to sort: run, state, step, best step, time, data, a metric (best first), a recipe key.",
        show_default="run, as given",
    ),
]
PageOption = Annotated[
    Path | None,
    typer.Option("--page", metavar="FILE.html", help="Also write a page with the table and the curves of all runs."),
]


def runs(
    directories: RunsArgument,
    sort: SortOption = "",
    page: PageOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare training runs.

    Prints a table of runs with their state, the scores of their best models with confidence intervals, the time, and
    the recipe keys that differ. On a terminal, columns that do not fit are left out; elsewhere all are printed,
    separated by tabs. A damaged run is listed with the reason.

    \b
    Example:
      wordsight runs runs/ --page runs.html
    """
    from wordsight.cli.runs_table import build_table, with_order
    from wordsight.cli.terminal import print_json, print_note, show_progress
    from wordsight.files import check_writable
    from wordsight.training.runs import find_runs, read_run

    if page is not None:
        check_writable(page)
    summaries = []
    paths = find_runs(directories)
    with show_progress(len(paths), "runs", quiet) as progress:
        for path in paths:
            summaries.append(read_run(path))
            progress(len(summaries))
    table = with_order(build_table(summaries), sort)
    if page is not None:
        from wordsight.cli.runs_page import build_page

        build_page(table).write(page)
    for note in table.notes:
        print_note(note, quiet)
    print_json(table.as_json()) if as_json else _print(table, quiet)


def _print(table: "RunsTable", quiet: bool) -> None:
    import sys

    from wordsight.cli.terminal import print_lines, print_note
    from wordsight.errors import printable

    if not sys.stdout.isatty():
        rows = [list(table.columns), *([column.text(run) for column in table.columns.values()] for run in table.runs)]
        print("\n".join("\t".join(map(printable, row)) for row in rows))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    shown, hidden = table.fitting(console.width)
    grid = Table(box=None, pad_edge=False)
    for name in shown:
        heading = "\n".join(map(printable, table.heading(name).split("\n")))
        grid.add_column(
            Text(heading), justify="right" if table.columns[name].is_right else "left", no_wrap=name != "reason"
        )
    for run in table.runs:
        grid.add_row(*(Text(printable(table.columns[name].text(run))) for name in shown))
    console.print(grid)
    if table.metric:
        print_lines(f"the best step is the one with the highest {table.metric}")
    if hidden:
        names = ", ".join(hidden[:4]) + (f" and {len(hidden) - 4} more" if len(hidden) > 4 else "")
        print_note(f"not shown: {names}; use a wider terminal, --json or --page FILE.html", quiet)
