"""Which validation score selects the best model."""

from collections.abc import Sequence

from wordsight.errors import ConfigError, nearest
from wordsight.metrics import Score


def selection_value(scores: Sequence[Score], selection_metric: str) -> float:
    """Return the value by which models are compared: the mean over all scores that match the selection metric.

    Args:
        scores: of one validation.
        selection_metric: the name of a metric, or `dataset/metric`.

    Raises:
        ConfigError: no score matches.
    """
    check_reported(selection_metric, [(score.dataset, score.metric) for score in scores])
    values = [score.value for score in scores if selection_metric in (score.metric, f"{score.dataset}/{score.metric}")]
    return sum(values) / len(values)


def check_reported(selection_metric: str, reported: Sequence[tuple[str, str]]) -> None:
    """Refuse a selection metric that is not reported.

    Args:
        selection_metric: the name of a metric, or `dataset/metric`.
        reported: dataset and metric of each score.

    Raises:
        ConfigError: no score matches.
    """
    metrics = list(dict.fromkeys(metric for _, metric in reported))
    names = metrics + [f"{dataset}/{metric}" for dataset, metric in reported]
    if selection_metric not in names:
        raise ConfigError(
            f"validation.selection_metric: no validation set reports {selection_metric!r}; "
            f"reported: {', '.join(metrics) or 'nothing'}{nearest(selection_metric, names)}"
        )
