"""The table of `wordsight runs`: its columns, their order, and the notes about runs that cannot be compared."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wordsight.errors import ConfigError, nearest
from wordsight.metrics import Score
from wordsight.training.runs import RunSummary, data_letters, differing

_MAX_VALUE_CHARACTERS = 60


@dataclasses.dataclass(frozen=True, eq=False)
class Row:
    """A run of the table.

    Attributes:
        run: what was read.
        name: the shortest path that distinguishes it from the others.
        letter: runs with the same letter were validated on the same data.
        keys: the values of the recipe keys that differ.
    """

    run: RunSummary
    name: str
    letter: str
    keys: Mapping[str, Any]

    def score(self, dataset: str, metric: str) -> Score | None:
        """The score of the best model."""
        return next((each for each in self.run.scores if (each.dataset, each.metric) == (dataset, metric)), None)

    @property
    def state(self) -> str:
        """The state with the step: `interrupted at step 480 of 1,000`."""
        of_total = f" of {self.run.total_steps:,}" if self.run.total_steps else ""
        if self.run.state == "finished":
            return "finished"
        joined = {"running": "running, step", "interrupted": "interrupted at step", "damaged": "damaged, step"}
        return f"{joined[self.run.state]} {self.run.steps:,}{of_total}"


@dataclasses.dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        text: formats the cell of a row; a dash if there is no value.
        key: the value by which rows are sorted; None comes last.
        is_right: whether it is right-aligned.
        heading: on a terminal; by default the name of the column.
    """

    text: Callable[[Row], str]
    key: Callable[[Row], Any]
    is_right: bool = False
    heading: str = ""


@dataclasses.dataclass(frozen=True)
class RunsTable:
    """The rows and columns, from the left in the order of their importance for a narrow terminal.

    Attributes:
        runs: the rows.
        columns: name -> column.
        optional: the columns that may be left out, the least important one last.
        other_scores: the columns of scores that did not select the best models.
        metric: the selection metric of all runs; empty if they differ, and then it is a column.
        notes: lines about runs that are damaged or cannot be compared.
    """

    runs: Sequence[Row]
    columns: Mapping[str, Column]
    optional: Sequence[str]
    other_scores: Sequence[str]
    metric: str
    notes: Sequence[str]

    def heading(self, name: str) -> str:
        """The heading of a column on a terminal, which can have several lines."""
        return self.columns[name].heading or name

    def fitting(self, width: int) -> tuple[list[str], list[str]]:
        """Return the columns that fit on a terminal, and those that do not."""
        widths = {
            name: max(map(len, [*self.heading(name).split("\n"), *(column.text(row) for row in self.runs)])) + 2
            for name, column in self.columns.items()
        }
        hidden: list[str] = []
        for name in reversed(self.optional):
            if sum(widths[each] for each in self.columns if each not in hidden) - 2 <= width:
                break
            hidden.insert(0, name)
        return [name for name in self.columns if name not in hidden], hidden

    def as_json(self) -> list[dict[str, Any]]:
        """The runs as plain data."""
        return [
            {
                "run": str(row.run.directory),
                "state": row.run.state,
                "step": row.run.steps,
                "steps": row.run.total_steps or None,
                "best_step": row.run.best_step,
                "selection_metric": row.run.metric,
                "selection_value": row.run.best_value,
                "seconds": row.run.seconds,
                "scores": [dataclasses.asdict(score) for score in row.run.scores],
                "data": row.letter or None,
                "validation_data": dict(row.run.validation_data),
                "training_data": row.run.training_data or None,
                "differing_keys": dict(row.keys),
                "reason": row.run.reason or None,
            }
            for row in self.runs
        ]


def build_table(runs: Sequence[RunSummary]) -> RunsTable:
    """Build the table of runs, in their order."""
    letters, keys = data_letters(runs), differing(runs)
    names = _names(runs)
    rows = [
        Row(run, name, letter, {key: values[number] for key, values in keys.items()})
        for number, (run, name, letter) in enumerate(zip(runs, names, letters, strict=True))
    ]
    metrics = {run.metric for run in runs if run.recipe}
    scores = list(dict.fromkeys((score.dataset, score.metric) for run in runs for score in run.scores))
    scores.sort(key=lambda score: not metrics & {score[1], "/".join(score)})  # the selection metric first
    columns = {
        "run": Column(lambda row: row.name, lambda row: row.name),
        "state": Column(lambda row: row.state, lambda row: row.run.state),
        **{f"{dataset}/{metric}": _score_column(dataset, metric) for dataset, metric in scores},
        "best step": _number_column(lambda row: row.run.best_step),
        **(
            {"chosen by": Column(lambda row: row.run.metric or "last step", lambda row: row.run.metric)}
            if len(metrics) > 1
            else {}
        ),
        "time": Column(lambda row: duration(row.run.seconds), lambda row: row.run.seconds, is_right=True),
        "data": Column(lambda row: row.letter or "-", lambda row: row.letter or None),
        **{key: _key_column(key) for key in keys},
    }
    if any(run.reason for run in runs):
        columns["reason"] = Column(lambda row: row.run.reason or "-", lambda row: row.run.reason or None)
    if len(set(filter(None, letters))) < 2:
        del columns["data"]
    score_names = [f"{dataset}/{metric}" for dataset, metric in scores]
    optional = [*score_names[:1], *keys, *score_names[1:], *(["reason"] if "reason" in columns else [])]
    metric = next(iter(metrics)) if len(metrics) == 1 else None
    others = score_names[max(1, sum(bool(metrics & {score[1], "/".join(score)}) for score in scores)) :]
    return RunsTable(rows, columns, optional, others, metric or "", _notes(rows))


def with_order(table: RunsTable, sort: str) -> RunsTable:
    """Return the table sorted by a column: scores from the highest, everything else from the lowest; blanks last.

    Args:
        table: the table.
        sort: name of a column, of a metric, or the last part of a recipe key; empty for the present order.

    Raises:
        ConfigError: no such column.
    """
    if not sort:
        return table
    wanted = sort.replace("_", " ") if sort.replace("_", " ") in (*table.columns, "step") else sort
    if wanted == "step":
        return dataclasses.replace(table, runs=sorted(table.runs, key=lambda row: row.run.steps))
    matches = [name for name in table.columns if wanted in (name, name.rpartition("/")[2], name.rpartition(".")[2])]
    if not matches:
        known = [*table.columns, *(name.rpartition("/")[2] for name in table.columns if "/" in name)]
        raise ConfigError(f"--sort {sort}: no such column; known: {', '.join(table.columns)}{nearest(sort, known)}")
    column = table.columns[matches[0]]
    present = [row for row in table.runs if column.key(row) is not None]
    is_score = isinstance(column, _ScoreColumn)
    try:
        present.sort(key=column.key, reverse=is_score)
    except TypeError:  # values of several types
        present.sort(key=column.text)
    return dataclasses.replace(table, runs=[*present, *(row for row in table.runs if column.key(row) is None)])


def duration(seconds: float | None) -> str:
    """Format a duration: `42 s`, `12 min 30 s`, `3 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


class _ScoreColumn(Column):
    """A column of scores, of which high values are the best."""


def _score_column(dataset: str, metric: str) -> Column:
    def text(row: Row) -> str:
        score = row.score(dataset, metric)
        if score is None:
            return "-"
        return f"{100 * score.value:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"

    def key(row: Row) -> float | None:
        score = row.score(dataset, metric)
        return None if score is None else score.value

    return _ScoreColumn(text, key, is_right=True, heading=f"{dataset}\n{metric}".replace("_recall@", "\nrecall@"))


def _number_column(value: Callable[[Row], int | None]) -> Column:
    def text(row: Row) -> str:
        number = value(row)
        return "-" if number is None else f"{number:,}"

    return Column(text, value, is_right=True)


def _key_column(key: str) -> Column:
    return Column(lambda row: value_text(row.keys[key]), lambda row: row.keys[key], heading=key.replace(".", ".\n"))


def value_text(value: Any) -> str:
    """Format a value of a recipe; long ones are shortened."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 3]}..."


def _names(runs: Sequence[RunSummary]) -> list[str]:
    """The paths without the directory that all have in common."""
    if len(runs) > 1 and len({run.directory.parent for run in runs}) == 1:
        return [run.directory.name for run in runs]
    return [str(run.directory) for run in runs]


def _notes(rows: Sequence[Row]) -> list[str]:
    notes = [f"{row.run.directory}: damaged: {row.run.reason}" for row in rows if row.run.reason]
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row.letter:
            groups.setdefault(row.letter, []).append(row.name)
    if len(groups) > 1:
        listed = "; ".join(f"{letter}: {', '.join(names)}" for letter, names in groups.items())
        notes.append(
            f"not comparable: these runs were validated on different data; compare scores within a letter: {listed}"
        )
    return notes
