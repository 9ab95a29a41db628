"""Occlusion maps mark the decisive pixels: a hand-made model, and the effect of blanking the marked pixels."""

import io
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from tests.tiny_clip import random_image, tiny_clip

from wordsight.errors import ConfigError, ImageError
from wordsight.image import Preprocessing, load_pixels
from wordsight.zeroshot import ZeroShotClassifier, explain
from wordsight.zeroshot.calibration import Calibration
from wordsight.zeroshot.explain import log_probabilities


class Corner:
    """A model whose first feature is how red the upper left quarter is; the rest of the image has no effect."""

    name, precision, scale, bias, weights_hash = "by hand", "float32", 10.0, 0.0, ""

    def encode_pixels(self, pixels: np.ndarray) -> np.ndarray:
        quarter = pixels[:, :8, :8].astype(np.float32).mean(axis=(1, 2)) / 255
        red = quarter[:, 0] - quarter[:, 1]
        return np.stack([red, np.sqrt(1 - red**2)], axis=1).astype(np.float32)


def classifier() -> Any:
    clip = tiny_clip()
    clip.runtime = cast(Any, Corner())
    made = ZeroShotClassifier.__new__(ZeroShotClassifier)
    made.clip, made.names = clip, ("red", "other")
    made.weights, made.calibration = np.eye(2, dtype=np.float32), Calibration()
    made.multi_label = False
    return made


def test_only_the_decisive_region_is_marked() -> None:
    assert Preprocessing(size_px=16) == tiny_clip().card.preprocessing
    image = np.full((16, 16, 3), 90, np.uint8)
    image[:8, :8] = (250, 20, 20)
    image[8:, 8:] = (20, 20, 250)
    explanation = explain(classifier(), image, "red")
    drop = explanation.log_probability_drop
    assert drop.shape == (16, 16)
    assert drop[:6, :6].min() > 0.1
    assert np.abs(drop[12:, 12:]).max() < 1e-6
    assert explain(classifier(), image, "other").log_probability_drop[:8, :8].max() < -0.01
    rendered = np.asarray(Image.open(io.BytesIO(explanation.to_png())).convert("RGB")).astype(int)
    assert rendered.shape == (256, 256, 3)  # enlarged 16 times
    assert (rendered[40, 40, 0] - rendered[40, 40, 2]) > 100
    assert np.ptp(rendered[232, 232]) <= 1  # grey


def test_the_most_probable_label_is_explained_by_default() -> None:
    image = np.full((16, 16, 3), 90, np.uint8)
    assert explain(classifier(), image).label == "other"
    with pytest.raises(ImageError):
        explain(classifier(), b"no image")
    with pytest.raises(ConfigError, match=r"label 'rad': not one of the classifier's labels; did you mean 'red'\?"):
        explain(classifier(), image, "rad")


def test_log_probabilities_agree_with_the_prediction() -> None:
    zero_shot = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "tree"], temperature="labels")
    (prediction,) = zero_shot.classify(image := random_image(0, 16, 16).copy())
    assert zero_shot.calibration.temperature > 1
    assert np.exp(log_probabilities(zero_shot, image[None])).max() == pytest.approx(prediction.probability, rel=1e-4)


def test_a_single_label_is_explained_by_its_logit() -> None:
    explanation = explain(ZeroShotClassifier(tiny_clip(), ["cat"]), random_image(0))
    assert np.abs(explanation.log_probability_drop).max() > 1e-4


def test_blanking_the_marked_pixels_costs_more_than_blanking_random_ones() -> None:
    """Over 200 images, the most strongly marked tenth of the pixels against a random tenth."""
    zero_shot, generator = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "tree", "house"]), np.random.default_rng(5)
    marked_drops, random_drops = [], []
    for seed in range(200):
        explanation = explain(zero_shot, random_image(seed, 16, 16))
        pixels = explanation.pixels
        index = zero_shot.names.index(explanation.label)
        whole = log_probabilities(zero_shot, pixels[None])[0, index]
        colour = pixels.mean(axis=(0, 1)).astype(np.uint8)
        by_drop = np.argsort(-explanation.log_probability_drop, axis=None)
        for drops, order in ((marked_drops, by_drop), (random_drops, generator.permutation(256))):
            blanked = pixels.reshape(-1, 3).copy()
            blanked[order[:26]] = colour
            drops.append(whole - log_probabilities(zero_shot, blanked.reshape(1, 16, 16, 3))[0, index])
    assert np.mean(marked_drops) > 2 * abs(np.mean(random_drops))
    assert np.mean(np.array(marked_drops) > np.array(random_drops)) > 0.7


@pytest.mark.parametrize("names", [["dog", "cat", "bird"], ["dog"]])
def test_the_explained_probability_is_the_one_that_is_shown(names: list[str]) -> None:
    image = random_image(0)
    for options in ({"multi_label": True}, {"temperature": "labels"}, {"none_of_these": True}):
        if len(names) == 1 and "multi_label" not in options:
            continue
        classifier = ZeroShotClassifier(tiny_clip(), names, **options)
        (prediction,) = classifier.classify([image])
        (shown,) = np.exp(log_probabilities(classifier, load_pixels(image, classifier.clip.card.preprocessing)[None]))
        assert dict(prediction.ranking) == pytest.approx(dict(zip(names, shown, strict=True)), rel=1e-4)


def test_a_label_judged_independently_is_explained_independently_of_the_others() -> None:
    image = random_image(0)
    one, three = (
        ZeroShotClassifier(tiny_clip(), names, multi_label=True) for names in (["dog"], ["dog", "cat", "bird"])
    )
    drops = [explain(each, image, "dog").log_probability_drop for each in (one, three)]
    np.testing.assert_allclose(*drops, atol=1e-4)
    assert np.abs(drops[0]).max() > 1e-4
