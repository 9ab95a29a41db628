"""The page of `wordsight runs --page`: the table, and the curves of all runs against steps and against time."""

from collections.abc import Callable, Sequence

from wordsight.cli.runs_table import Row, RunsTable
from wordsight.report import MAX_CURVES, Curve, Page, Plot, Section, Table
from wordsight.training.runs import Points

_MINUTE_S, _HOUR_S = 60, 3600


def build_page(table: RunsTable) -> Page:
    """Build the page; runs beyond the number of curves of a plot are in the table only."""
    rows = table.runs[:MAX_CURVES]
    limit = (
        f"The curves are those of the first {MAX_CURVES} of {len(table.runs)} runs; choose others with --sort, or name "
        "the runs to compare."
        if len(table.runs) > MAX_CURVES
        else ""
    )
    chosen = f"The best step is the one with the highest {table.metric}. " if table.metric else ""
    main = [name for name in table.columns if name not in table.other_scores]
    tables = [_table(table, main, f"{chosen}Recipe keys are shown if they differ.")]
    if table.other_scores:
        tables.append(
            _table(table, ["run", *table.other_scores], "Other scores of the best models, with their intervals.")
        )
    sections = [
        Section("Runs", "\n\n".join([*table.notes, *filter(None, [limit])]), tables),
        *_score_sections(rows, table.metric),
        _section("Loss", "", "loss", [(row.name, row.run.losses) for row in rows]),
        _section("Learning rate", "", "learning rate", [(row.name, row.run.learning_rates) for row in rows]),
    ]
    count = f"{len(table.runs)} training runs" if len(table.runs) != 1 else "One training run"
    return Page("Training runs", f"{count}, compared by wordsight.", [each for each in sections if each.blocks])


def _table(table: RunsTable, names: Sequence[str], caption: str) -> Table:
    headings = [table.heading(name).replace("\n", " ") for name in names]
    return Table(headings, [[table.columns[name].text(row) for name in names] for row in table.runs], caption)


def _score_sections(rows: Sequence[Row], selection_metric: str) -> list[Section]:
    """One section for each score and, if its runs were validated on different data, for each of these."""
    sections: dict[tuple[str, str, str], list[tuple[str, Points]]] = {}
    letters: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        for (dataset, metric), points in row.run.score_curves.items():
            sections.setdefault((dataset, metric, row.letter), []).append((row.name, points))
            letters.setdefault((dataset, metric), set()).add(row.letter)
    result = []
    chosen = (selection_metric, selection_metric.rpartition("/")[2])
    for (dataset, metric, letter), curves in sorted(sections.items(), key=lambda each: each[0][1] not in chosen):
        is_divided = len(letters[dataset, metric]) > 1
        title = f"{dataset} {metric}" + (f", data {letter}" if is_divided else "")
        text = "Bands are confidence intervals."
        if is_divided:
            text += " Runs that were validated on other data are in a section of their own."
        result.append(_section(title, text, metric, curves, is_share=True))
    return result


def _section(
    title: str, text: str, label: str, curves: Sequence[tuple[str, Points]], is_share: bool = False
) -> Section:
    """A section with two plots: against steps and against time."""
    kept = [(name, points) for name, points in curves if any(True for _ in points)]
    if not kept:
        return Section(title)
    longest_s = max(point.seconds for _, points in kept for point in points)
    unit, unit_s = (
        ("h", _HOUR_S) if longest_s > 3 * _HOUR_S else ("min", _MINUTE_S) if longest_s > _MINUTE_S else ("s", 1)
    )
    plots = [
        Plot([_curve(name, points, x) for name, points in kept], x_label, label, is_share=is_share)
        for x_label, x in (
            ("step", lambda step, seconds: step),
            (f"time ({unit})", lambda step, seconds: seconds / unit_s),
        )
    ]
    return Section(title, text, plots)


def _curve(name: str, points: Points, x: Callable[[int, float], float]) -> Curve:
    listed = list(points)
    has_interval = bool(listed) and listed[0].low is not None
    return Curve(
        name,
        [x(point.step, point.seconds) for point in listed],
        [point.value for point in listed],
        low=[point.value if point.low is None else point.low for point in listed] if has_interval else (),
        high=[point.value if point.high is None else point.high for point in listed] if has_interval else (),
    )
