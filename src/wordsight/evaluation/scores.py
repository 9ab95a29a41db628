"""The results of an evaluation: the scores of each model, and the comparisons between models."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from wordsight.errors import ConfigError, counted, nearest
from wordsight.evaluation.comparison import Comparison, format_p_value
from wordsight.metrics import Score

_DISPLAYED_DIGITS = 12


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one dataset.

    A sequence of `wordsight.metrics.Score`: iterate over them, or index with the name of a metric, as in
    `scores["accuracy"].value`. Printed, it is one line per score.

    Attributes:
        model: name of the model.
        dataset: name of the dataset.
        split: the part of the dataset that was evaluated; `all` unless it was named.
        scores: one per metric.
        weights_sha256: hash of the weights; empty for an object that is not a `DualEncoder`.
        fingerprint: digest of everything that determines the embeddings; empty likewise.
        data_sha256: hash of the evaluated images, captions and labels. Neither their order nor their names nor the
            format matter: a directory and the shards packed from it have the same hash.
        templates: the prompt templates of classification: the name of a set, or texts joined by ` | `; empty for
            retrieval alone.
        unreadable: the images that could not be read, and are in no score: name and reason.
    """

    model: str
    dataset: str
    split: str
    scores: tuple[Score, ...]
    weights_sha256: str = ""
    fingerprint: str = ""
    data_sha256: str = ""
    templates: str = ""
    unreadable: tuple[tuple[str, str], ...] = ()

    def origin(self) -> dict[str, str]:
        """Return what every score of this model was computed from, by column."""
        names = ("model", "weights_sha256", "fingerprint", "data_sha256", "split", "templates")
        return {name: getattr(self, name) for name in names}

    def __iter__(self) -> Iterator[Score]:
        return iter(self.scores)

    def __len__(self) -> int:
        return len(self.scores)

    def __getitem__(self, metric: str) -> Score:
        """Return the score of a metric.

        Raises:
            ConfigError: no such metric; the message names the nearest one.
        """
        by_metric = {score.metric: score for score in self.scores}
        if metric not in by_metric:
            raise ConfigError(f"{metric!r}: not one of the scores, {', '.join(by_metric)}{nearest(metric, by_metric)}")
        return by_metric[metric]

    def __str__(self) -> str:
        return "\n".join(map(str, self.scores))


@dataclass(frozen=True)
class EvaluationResult:
    """The scores of several models on the same images.

    Attributes:
        models: the scores of each model, in the order of the models.
        comparisons: of every further model with the first one, in the same order, one for each metric.
        contents: what was evaluated, such as `1,000 images with 5,000 captions`.
    """

    models: tuple[Scores, ...]
    comparisons: tuple[tuple[Comparison, ...], ...]
    contents: tuple[str, ...]

    def rows(self) -> list[dict[str, Any]]:
        """Return one row per model and metric, with everything that is needed to report the score.

        The last columns compare the model with the first one; for the first model they are None.
        """
        rows = []
        for scores, comparisons in zip(self.models, ((), *self.comparisons), strict=True):
            by_metric = {comparison.metric: comparison for comparison in comparisons}
            rows += [{**scores.origin(), **asdict(score), **_compared(by_metric.get(score.metric))} for score in scores]
        return rows

    def lines(self) -> list[str]:
        """Return the result as text: one line per metric, or a paragraph per metric with one line per model."""
        first = self.models[0]
        split = "" if first.split == "all" else f" ({first.split})"
        unreadable = f"; {counted(len(first.unreadable), 'unreadable image')}" if first.unreadable else ""
        data = f"data {first.data_sha256[:_DISPLAYED_DIGITS]}"
        lines = [f"{first.dataset}{split}: {' and '.join(self.contents)}, {data}{unreadable}"]
        if len(self.models) == 1:
            width = max(len(score.metric) for score in first)
            lines.append(f"{first.model}:")
            lines += [f"  {score.metric:{width}}  {_value(score)}, chance {_percent(score.chance)}" for score in first]
            return [*lines, *self._methods()]
        width = max(len(scores.model) for scores in self.models)
        for score in first:
            lines += ["", f"{score.metric}, chance {_percent(score.chance)}"]
            for scores, comparisons in zip(self.models, ((), *self.comparisons), strict=True):
                line = f"  {scores.model:{width}}  {_value(scores[score.metric])}"
                lines.append(line + "".join(_difference(each) for each in comparisons if each.metric == score.metric))
        return [*lines, "", *self._methods()]

    def _methods(self) -> list[str]:
        methods = "; ".join(dict.fromkeys(score.method for score in self.models[0]))
        lines = [f"[low, high]: {methods}."]
        if self.comparisons:
            tests = "; ".join(dict.fromkeys(each.test for each in self.comparisons[0]))
            interval = self.comparisons[0][0].method
            lines.append(f"Differences from {self.models[0].model} in points: {interval}; p: {tests}.")
        return lines


def _compared(comparison: Comparison | None) -> dict[str, Any]:
    """The columns of a row that compare it with the first model."""
    columns = {"baseline": "baseline", "difference": "difference", "difference_low": "low", "difference_high": "high"}
    columns |= {"difference_method": "method", "p_value": "p_value", "test": "test"}
    return {column: getattr(comparison, attribute, None) for column, attribute in columns.items()}


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _value(score: Score) -> str:
    return f"{100 * score.value:5.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def _difference(comparison: Comparison) -> str:
    difference, low, high = (100 * share for share in (comparison.difference, comparison.low, comparison.high))
    return f"  {difference:+.1f} [{low:+.1f}, {high:+.1f}], {format_p_value(comparison.p_value)}"
