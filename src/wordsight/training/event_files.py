"""TensorBoard event files of a run: metrics, scores with their intervals, and hyperparameters (extra `log`).

    tensorboard/             scalars: the metrics of steps, and one tag `dataset/metric` for each score
    tensorboard/intervals/   value, low and high of each score, which the charts of the tab Custom Scalars show as bands

TensorBoard draws a band only from three scalars of one run. They are in a run of their own, so that the list of scalars
of the training run has one tag for each score.

The files are written anew from `metrics.jsonl` when a run is resumed: no point is repeated, and none is lost, whatever
was in memory when the previous process was killed.
"""

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wordsight.errors import MissingExtraError
from wordsight.files import as_output_error

_INTERVALS = "intervals"
_ENDS = ("value", "low", "high")
_PATTERN = "events.out.tfevents.*"


class EventFiles:
    """Writes the rows of `metrics.jsonl` as TensorBoard events.

    Args:
        directory: of the event files; those that it contains are replaced.
        rows: rows that were written earlier, with the keys `step` and `elapsed_s`.
        recipe: plain data, whose keys are the hyperparameters.
        elapsed_s: duration of the run up to now.

    Raises:
        MissingExtraError: TensorBoard is not installed.
        OutputError: the directory is not writable.
    """

    def __init__(
        self, directory: Path, rows: Iterable[Mapping[str, Any]], recipe: Mapping[str, Any], elapsed_s: float
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingExtraError("TensorBoard", "log") from error
        try:
            for path in [*directory.glob(_PATTERN), *(directory / _INTERVALS).glob(_PATTERN)]:
                path.unlink()
            self._scalars: Any = SummaryWriter(str(directory), purge_step=0)
            self._intervals: Any = SummaryWriter(str(directory / _INTERVALS), purge_step=0)
        except OSError as error:
            raise as_output_error(error, directory) from error
        self._hyperparameters = dict(_flat(recipe))
        self._tags: list[str] = []
        self._start_s = time.time() - elapsed_s
        for row in rows:
            self.add(row)

    def add(self, row: Mapping[str, Any]) -> None:
        """Write a row of steps or of a validation; interruptions of the run do not count in the time of an event."""
        step, wall_s = row["step"], self._start_s + row.get("elapsed_s", 0.0)
        if "scores" not in row:
            values = {name: value for name, value in row.items() if name not in ("step", "elapsed_s")}
            _add(self._scalars, values, step, wall_s)
            return
        tags = {f"{score['dataset']}/{score['metric']}": score for score in row["scores"]}
        _add(self._scalars, {tag: score["value"] for tag, score in tags.items()}, step, wall_s)
        ends = {f"{tag}/{end}": score[end] for tag, score in tags.items() for end in _ENDS}
        _add(self._intervals, ends, step, wall_s)
        if not set(tags) <= set(self._tags):
            self._tags = list(dict.fromkeys([*self._tags, *tags]))
            self._describe()

    def flush(self) -> None:
        """Write what is in memory, so that a killed process loses nothing."""
        self._scalars.flush()
        self._intervals.flush()

    def _describe(self) -> None:
        """Write the hyperparameters, with the scores as their results, and the charts with bands."""
        from torch.utils.tensorboard.summary import custom_scalars, hparams

        writer = self._scalars.file_writer
        for summary in hparams(self._hyperparameters, dict.fromkeys(self._tags, 0.0)):
            writer.add_summary(summary)
        charts: dict[str, dict[str, list[Any]]] = {}
        for tag in self._tags:
            dataset, _, metric = tag.rpartition("/")
            charts.setdefault(dataset, {})[metric] = ["Margin", [f"{tag}/{end}" for end in _ENDS]]
        self._intervals.file_writer.add_summary(custom_scalars(charts))

    def close(self) -> None:
        """Close the files."""
        if not self._tags:
            self._describe()
        with contextlib.suppress(OSError):
            self._scalars.close()
            self._intervals.close()


def _add(writer: Any, values: Mapping[str, float], step: int, wall_s: float) -> None:
    """Write several scalars as one event."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()])
    writer.file_writer.add_summary(summary, step, wall_s)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, bool | int | float | str]]:
    """Yield the dotted keys of nested tables with their values; lists as JSON."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, bool | int | float | str) else json.dumps(value)
