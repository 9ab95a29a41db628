"""A threshold for `Prediction.labels`."""

import pytest
from tests.tiny_clip import tiny_clip, write_images

from wordsight.errors import ConfigError
from wordsight.zeroshot import ZeroShotClassifier


def test_a_threshold_selects_the_labels_above_it(tmp_path):
    images = write_images(tmp_path, 3)
    classifier = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "bird"])
    for threshold in (0.1, 0.33, 0.9):
        for prediction in classifier.with_threshold(threshold).classify(images):
            assert prediction.labels == tuple(name for name, value in prediction.ranking if value > threshold)
    assert classifier.threshold is None
    assert [len(prediction.labels) for prediction in classifier.classify(images)] == [1, 1, 1]


@pytest.mark.parametrize("threshold", [0, 1, -1, 2, float("nan")])
def test_a_threshold_outside_of_0_to_1_is_an_error(threshold):
    with pytest.raises(ConfigError, match="expected a probability above 0 and below 1"):
        ZeroShotClassifier(tiny_clip(), ["cat", "dog"]).with_threshold(threshold)
