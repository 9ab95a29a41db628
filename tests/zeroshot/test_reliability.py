"""Reliability of labels: by hand, from simulated variances, and for a model that has learned some words."""

import numpy as np
import pytest
import torch
from tests.tiny_clip import random_image, tiny_clip

from wordsight.encoder import DualEncoder
from wordsight.loss import softmax_loss
from wordsight.zeroshot import ZeroShotClassifier
from wordsight.zeroshot.calibration import softmax
from wordsight.zeroshot.reliability import MIN_RELIABILITY, NONSENSE, PLAIN, reliability

LEARNED = ["dog", "cat", "car", "house", "tree", "boat", "cup", "shoe"]
OTHERS = ["king", "river", "salt", "music", "winter", "coin", "law", "smile"]


def simulated(labels: int, between: float, interaction: float, seed: int, templates: int = 4) -> np.ndarray:
    """Embeddings (T, K, E) with given variances between labels and of the interaction of label and template."""
    generator = np.random.default_rng(seed)
    shape = (templates, labels, 64)
    parts = (between, (1, labels, 64)), (0.5, (templates, 1, 64)), (interaction, shape)
    return sum(generator.normal(scale=variance**0.5, size=size) for variance, size in parts).astype(np.float32)


def test_the_200_nonsense_words_are_distinct() -> None:
    assert len(NONSENSE) == len(set(NONSENSE)) == 200


def test_the_reliability_of_two_labels_in_two_templates_matches_a_hand_computed_case() -> None:
    embeddings, nonsense = np.random.default_rng(1).normal(size=(2, 2, 2, 3)).astype(np.float32)
    embeddings[1] = embeddings[0] + embeddings[1] / 20

    def change(x: np.ndarray) -> float:  # two by two: the interaction is the double difference
        return float(
            np.square(x[0, 0] - x[0, 1] - x[1, 0] + x[1, 1]).sum()
            / np.square(x[0, 0] + x[1, 0] - x[0, 1] - x[1, 1]).sum()
        )

    assert reliability(embeddings, nonsense) == pytest.approx(1 - change(embeddings) / change(nonsense), rel=1e-5)


@pytest.mark.parametrize(("between", "expected"), [(4.0, 0.75), (2.0, 0.5), (1.0, MIN_RELIABILITY)])
def test_the_simulated_share_is_recovered(between: float, expected: float) -> None:
    labels, nonsense = simulated(400, between, 0.01, seed=0), simulated(400, 1.0, 0.01, seed=1)
    assert reliability(labels, nonsense) == pytest.approx(expected, abs=0.03)


def test_labels_that_never_change_and_single_labels_have_reliability_1() -> None:
    steady = np.repeat(simulated(5, 1.0, 0.0, seed=0)[:1], 4, axis=0)
    assert reliability(steady, simulated(50, 1.0, 0.1, seed=1)) == 1
    assert reliability(simulated(1, 1.0, 1.0, seed=0), simulated(50, 1.0, 0.1, seed=1)) == 1


def test_the_temperature_is_one_over_the_reliability() -> None:
    clip = tiny_clip()
    classifier = ZeroShotClassifier(clip, LEARNED, temperature="labels")
    embeddings, nonsense = (
        np.stack([ZeroShotClassifier(clip, names, (template,)).weights for template in PLAIN])
        for names in (LEARNED, NONSENSE)
    )
    assert classifier.calibration.temperature == 1 / reliability(embeddings, nonsense)
    assert ZeroShotClassifier(clip, LEARNED).calibration.temperature == 1
    (prediction,) = classifier.classify([random_image(0)])
    logits = clip.logits(clip.embed_images([random_image(0)]), classifier.weights)
    assert prediction.probability == pytest.approx(softmax(logits / classifier.calibration.temperature).max(), rel=1e-4)


def test_learned_words_are_more_reliable_than_unknown_ones() -> None:
    clip = trained_clip()
    predictions = ZeroShotClassifier(clip, LEARNED).classify(map(random_image, range(8)))
    assert [prediction.label for prediction in predictions] == LEARNED
    learned_unreliability, other_unreliability = (
        1 - 1 / ZeroShotClassifier(clip, names, temperature="labels").calibration.temperature
        for names in (LEARNED, OTHERS)
    )
    assert learned_unreliability < 0.1
    assert other_unreliability > 3 * learned_unreliability


def trained_clip() -> DualEncoder:
    """A tiny model that has been trained on eight images with their names in the plain templates."""
    clip = tiny_clip()
    model = clip.model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    pixels = torch.from_numpy(np.stack([clip.preprocess(random_image(seed)) for seed in range(8)]))
    for step in range(200):
        texts = [PLAIN[(step + number) % len(PLAIN)].format(name) for number, name in enumerate(LEARNED)]
        ids = torch.from_numpy(clip.tokenize(texts)).long()
        loss = softmax_loss(model.encode_image(pixels), model.encode_text(ids), model.scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return clip
