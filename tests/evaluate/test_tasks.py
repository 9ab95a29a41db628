import numpy as np
import pytest

from wordsight.evaluate.tasks import as_scores, retrieval_scores, selection_score
from wordsight.metrics import wilson_interval


def test_retrieval_counts_any_caption_of_a_image_and_one_image_of_a_caption() -> None:
    """Twelve images with two captions each on a line: by hand."""
    images = np.eye(12, dtype=np.float32)
    captions = np.repeat(images, 2, axis=0)
    captions[0] = images[1]  # the first caption of image 0 looks like image 1
    figures = {f.name: f for f in retrieval_scores(images, captions, np.repeat(np.arange(12), 2).tolist())}
    # image 0 finds its second caption first; image 1 has three captions at the top, two of which are its own
    assert figures["image_to_text_recall_at_1"].value == pytest.approx((11 + 2 / 3) / 12)
    assert figures["text_to_image_recall_at_1"].value == pytest.approx(23 / 24)
    assert figures["text_to_image_recall_at_1"].chance == pytest.approx(1 / 12)
    assert figures["image_to_text_recall_at_10"].chance == pytest.approx(1 - (14 * 13) / (24 * 23))
    low, high = wilson_interval(12 * 23 / 24, 12)
    assert (figures["text_to_image_recall_at_1"].low, figures["text_to_image_recall_at_1"].high) == (low, high)
    assert figures["text_to_image_recall_at_1"].n == 12


def test_the_best_model_is_chosen_by_recall_at_10_and_accuracy() -> None:
    figures = retrieval_scores(np.eye(20, dtype=np.float32), np.eye(20, dtype=np.float32), list(range(20)))
    scores = as_scores("set", figures) | {"labels/accuracy": 0.25}
    assert selection_score(scores) == pytest.approx((1 + 1 + 0.25) / 3)
    assert selection_score({}) == 0
