"""Which validation score selects the best model."""

from collections.abc import Sequence

from wordsight.errors import ConfigError, nearest
from wordsight.metrics import Score

AUTO = "auto"
_PREFERRED = ("image_to_text_recall@10", "accuracy")
"""Metrics that `auto` stands for: the first one that is reported."""


def selection_value(scores: Sequence[Score], selection_metric: str) -> float:
    """Return the value by which models are compared: the mean over all scores that match the selection metric.

    Args:
        scores: of one validation.
        selection_metric: the name of a metric, `dataset/metric`, or `auto`.

    Raises:
        ConfigError: no score matches.
    """
    metric = reported_metric(selection_metric, [(score.dataset, score.metric) for score in scores])
    values = [score.value for score in scores if metric in (score.metric, f"{score.dataset}/{score.metric}")]
    return sum(values) / len(values)


def reported_metric(selection_metric: str, reported: Sequence[tuple[str, str]]) -> str:
    """Return the selection metric with `auto` resolved, and refuse one that is not reported.

    Args:
        selection_metric: the name of a metric, `dataset/metric`, or `auto`.
        reported: dataset and metric of each score.

    Raises:
        ConfigError: no score matches.
    """
    metrics = list(dict.fromkeys(metric for _, metric in reported))
    names = metrics + [f"{dataset}/{metric}" for dataset, metric in reported]
    if selection_metric == AUTO:
        selection_metric = next((metric for metric in _PREFERRED if metric in metrics), selection_metric)
    if selection_metric not in names:
        raise ConfigError(
            f"validation.selection_metric: no validation set reports {selection_metric!r}; "
            f"reported: {', '.join(metrics) or 'nothing'}{nearest(selection_metric, names)}"
        )
    return selection_metric
