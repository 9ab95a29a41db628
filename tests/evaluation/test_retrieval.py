import numpy as np
import pytest

from wordsight.evaluation import retrieval_scores
from wordsight.metrics import wilson_interval


def test_any_caption_of_an_image_and_the_one_image_of_a_caption_are_hits() -> None:
    """Twelve images with two captions each, computed by hand."""
    images = np.eye(12, dtype=np.float32)
    captions = np.repeat(images, 2, axis=0)
    captions[0] = images[1]  # the first caption of image 0 resembles image 1
    owners = np.repeat(np.arange(12), 2).tolist()
    scores = {score.metric: score for score in retrieval_scores(images, captions, owners, "twelve", unreadable=3)}
    # image 0 finds its second caption first; image 1 has three captions tied for first, two of which are its own
    assert scores["image_to_text_recall@1"].value == pytest.approx((11 + 2 / 3) / 12)
    assert scores["text_to_image_recall@1"].value == pytest.approx(23 / 24)
    assert scores["text_to_image_recall@1"].chance == pytest.approx(1 / 12)
    assert scores["image_to_text_recall@10"].chance == pytest.approx(1 - (14 * 13) / (24 * 23))
    low, high = wilson_interval(12 * 23 / 24, 12)
    assert (scores["text_to_image_recall@1"].low, scores["text_to_image_recall@1"].high) == (low, high)
    assert scores["text_to_image_recall@1"].n == 12
    assert {(score.dataset, score.unreadable) for score in scores.values()} == {("twelve", 3)}
