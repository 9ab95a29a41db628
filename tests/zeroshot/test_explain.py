"""The map marks what the answer stands on: by a case whose answer is known, and by blanking what it marks."""

import io
from typing import Any, cast

import numpy as np
import pytest
from PIL import Image
from tests.tiny_clip import random_image, tiny_clip

from wordsight.errors import ConfigError, ImageError
from wordsight.image import Preprocessing
from wordsight.zeroshot import ZeroShotClassifier, explain
from wordsight.zeroshot.calibration import Calibration
from wordsight.zeroshot.explain import log_probabilities


class Corner:
    """A model whose first number is how red the upper left quarter is; the rest of the image means nothing."""

    name, precision, scale, bias, weights_hash = "by hand", "float32", 10.0, 0.0, ""

    def encode_pixels(self, squares: np.ndarray) -> np.ndarray:
        quarter = squares[:, :8, :8].astype(np.float32).mean(axis=(1, 2)) / 255
        red = quarter[:, 0] - quarter[:, 1]
        return np.stack([red, np.sqrt(1 - red**2)], axis=1).astype(np.float32)


def classifier() -> Any:
    clip = tiny_clip()
    clip.runtime = cast(Any, Corner())
    labels = ZeroShotClassifier.__new__(ZeroShotClassifier)
    labels.clip, labels.names = clip, ("red", "other")
    labels.weights, labels.calibration = np.eye(2, dtype=np.float32), Calibration()
    return labels


def test_the_place_that_decides_is_marked_and_no_other() -> None:
    assert Preprocessing(size_px=16) == tiny_clip().card.preprocessing
    image = np.full((16, 16, 3), 90, np.uint8)
    image[:8, :8] = (250, 20, 20)
    image[8:, 8:] = (20, 20, 250)
    found = explain(classifier(), image, "red")
    assert found.loss.shape == (16, 16)
    assert found.loss[:6, :6].min() > 0.1
    assert np.abs(found.loss[12:, 12:]).max() < 1e-6
    assert explain(classifier(), image, "other").loss[:8, :8].max() < -0.01
    drawn = np.asarray(Image.open(io.BytesIO(found.drawn())).convert("RGB")).astype(int)
    assert drawn.shape == (256, 256, 3)  # 16 times as large
    assert (drawn[40, 40, 0] - drawn[40, 40, 2]) > 100
    assert np.ptp(drawn[232, 232]) <= 1  # gray


def test_the_best_label_is_explained_where_none_is_named() -> None:
    image = np.full((16, 16, 3), 90, np.uint8)
    assert explain(classifier(), image).label == "other"
    with pytest.raises(ImageError):
        explain(classifier(), b"no image")
    with pytest.raises(ConfigError, match=r"label 'rad': not one of the classifier's; did you mean 'red'\?"):
        explain(classifier(), image, "rad")


def test_what_is_explained_is_the_probability_that_is_shown() -> None:
    labels = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "tree"], temperature="labels")
    (answer,) = labels.classify(image := random_image(0, 16, 16).copy())
    assert labels.calibration.temperature > 1
    assert np.exp(log_probabilities(labels, image[None])).max() == pytest.approx(answer.probability, rel=1e-4)


def test_one_label_alone_is_explained_by_its_cosine() -> None:
    labels = ZeroShotClassifier(tiny_clip(), ["cat"])
    found = explain(labels, random_image(0))
    assert np.abs(found.loss).max() > 1e-4


def test_blanking_what_is_marked_costs_more_than_blanking_at_random() -> None:
    """Over 200 images, the most marked tenth of the places against a random tenth."""
    labels, generator = ZeroShotClassifier(tiny_clip(), ["cat", "dog", "tree", "house"]), np.random.default_rng(5)
    marked, drawn = [], []
    for seed in range(200):
        found = explain(labels, random_image(seed, 16, 16))
        number = labels.names.index(found.label)
        whole = log_probabilities(labels, found.square[None])[0, number]
        colour = found.square.mean(axis=(0, 1)).astype(np.uint8)
        for losses, order in ((marked, np.argsort(-found.loss, axis=None)), (drawn, generator.permutation(256))):
            blanked = found.square.reshape(-1, 3).copy()
            blanked[order[:26]] = colour
            losses.append(whole - log_probabilities(labels, blanked.reshape(1, 16, 16, 3))[0, number])
    assert np.mean(marked) > 2 * abs(np.mean(drawn))
    assert np.mean(np.array(marked) > np.array(drawn)) > 0.7
