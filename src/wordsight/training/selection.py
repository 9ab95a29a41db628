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
    values = [score.value for score in scores if selection_metric in (score.metric, f"{score.dataset}/{score.metric}")]
    if not values:
        metrics = list(dict.fromkeys(score.metric for score in scores))
        names = metrics + [f"{score.dataset}/{score.metric}" for score in scores]
        raise ConfigError(
            f"validation.selection_metric: no validation set reports {selection_metric!r}; "
            f"reported: {', '.join(metrics) or 'nothing'}{nearest(selection_metric, names)}"
        )
    return sum(values) / len(values)
