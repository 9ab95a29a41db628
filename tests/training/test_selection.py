import numpy as np
import pytest

from wordsight.errors import ConfigError
from wordsight.evaluation import retrieval_scores
from wordsight.metrics import Score
from wordsight.training.selection import selection_value


def accuracy(dataset: str, value: float) -> Score:
    return Score(dataset=dataset, metric="accuracy", value=value, low=0, high=1, n=4, chance=0.25, method="Wilson 95 %")


SCORES = [
    *retrieval_scores(np.eye(20, dtype=np.float32), np.eye(20, dtype=np.float32), list(range(20)), "pairs"),
    accuracy("pets", 0.25),
    accuracy("food", 0.5),
]


@pytest.mark.parametrize(
    ("selection_metric", "value"),
    [("image_to_text_recall@10", 1), ("accuracy", 0.375), ("pets/accuracy", 0.25), ("pairs/text_to_image_recall@1", 1)],
)
def test_the_selection_metric_is_averaged_over_the_datasets_that_report_it(selection_metric: str, value: float) -> None:
    assert selection_value(SCORES, selection_metric) == pytest.approx(value)


@pytest.mark.parametrize(
    ("selection_metric", "suggestion"),
    [("acuracy", "accuracy"), ("pats/accuracy", "pets/accuracy"), ("text_to_image_recal@5", "text_to_image_recall@5")],
)
def test_a_selection_metric_that_nothing_reports_is_one_line_with_the_nearest(
    selection_metric: str, suggestion: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        selection_value(SCORES, selection_metric)
    message = str(caught.value)
    assert message.startswith(f"validation.selection_metric: no validation set reports '{selection_metric}'")
    assert message.endswith(f"; did you mean '{suggestion}'?")
    assert "text_to_image_recall@5, text_to_image_recall@10, accuracy; did" in message
    assert "\n" not in message


def test_a_selection_metric_without_scores_is_an_error() -> None:
    with pytest.raises(ConfigError, match="reported: nothing"):
        selection_value([], "accuracy")


def test_auto_is_the_recall_of_captions_and_otherwise_the_accuracy() -> None:
    assert selection_value(SCORES, "auto") == 1
    assert selection_value(SCORES[-2:], "auto") == 0.375
    with pytest.raises(ConfigError, match="no validation set reports 'auto'; reported: nothing"):
        selection_value([], "auto")
