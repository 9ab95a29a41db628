"""How far labels are more than their spelling: by hand, by drawn variances, and of a model that learned some words."""

import numpy as np
import pytest
import torch
from tests.tiny_clip import random_image, tiny_clip

from wordsight.encoder import DualEncoder
from wordsight.loss import softmax_loss
from wordsight.zeroshot import ZeroShotClassifier
from wordsight.zeroshot.calibration import softmax
from wordsight.zeroshot.reliability import LEAST_RELIABILITY, NONSENSE, PLAIN, reliability

LEARNED = ["dog", "cat", "car", "house", "tree", "boat", "cup", "shoe"]
OTHERS = ["king", "river", "salt", "music", "winter", "coin", "law", "smile"]


def drawn(labels: int, between: float, change: float, seed: int, templates: int = 4) -> np.ndarray:
    """Rows of labels, moved by templates, and by both together."""
    generator = np.random.default_rng(seed)
    shape = (templates, labels, 64)
    parts = (between, (1, labels, 64)), (0.5, (templates, 1, 64)), (change, shape)
    return sum(generator.normal(scale=variance**0.5, size=size) for variance, size in parts).astype(np.float32)


def test_words_without_meaning_are_all_different() -> None:
    assert len(NONSENSE) == len(set(NONSENSE)) == 200


def test_two_labels_in_two_sentences_by_hand() -> None:
    rows, others = np.random.default_rng(1).normal(size=(2, 2, 2, 3)).astype(np.float32)
    rows[1] = rows[0] + rows[1] / 20

    def change(x: np.ndarray) -> float:  # with so few the deviations are the double difference, and that of the sums
        return float(
            np.square(x[0, 0] - x[0, 1] - x[1, 0] + x[1, 1]).sum()
            / np.square(x[0, 0] + x[1, 0] - x[0, 1] - x[1, 1]).sum()
        )

    assert reliability(rows, others) == pytest.approx(1 - change(rows) / change(others), rel=1e-5)


@pytest.mark.parametrize(("between", "expected"), [(4.0, 0.75), (2.0, 0.5), (1.0, LEAST_RELIABILITY)])
def test_the_share_that_was_drawn_is_found(between: float, expected: float) -> None:
    labels, nonsense = drawn(400, between, 0.01, seed=0), drawn(400, 1.0, 0.01, seed=1)
    assert reliability(labels, nonsense) == pytest.approx(expected, abs=0.03)


def test_labels_that_never_change_are_known_and_one_alone_says_nothing() -> None:
    steady = np.repeat(drawn(5, 1.0, 0.0, seed=0)[:1], 4, axis=0)
    assert reliability(steady, drawn(50, 1.0, 0.1, seed=1)) == 1
    assert reliability(drawn(1, 1.0, 1.0, seed=0), drawn(50, 1.0, 0.1, seed=1)) == 1


def test_probabilities_are_read_at_one_over_the_reliability() -> None:
    clip = tiny_clip()
    labels = ZeroShotClassifier(clip, LEARNED, temperature="labels")
    rows, nonsense = (
        np.stack([ZeroShotClassifier(clip, names, (template,)).weights for template in PLAIN])
        for names in (LEARNED, NONSENSE)
    )
    assert labels.calibration.temperature == 1 / reliability(rows, nonsense)
    assert ZeroShotClassifier(clip, LEARNED).calibration.temperature == 1
    (answer,) = labels.classify([random_image(0)])
    logits = clip.logits(clip.embed_images([random_image(0)]), labels.weights)
    assert answer.probability == pytest.approx(softmax(logits / labels.calibration.temperature).max(), rel=1e-4)


def test_learned_words_are_more_reliable_than_others() -> None:
    clip = learned()
    right = [answer.label for answer in ZeroShotClassifier(clip, LEARNED).classify(map(random_image, range(8)))]
    assert right == LEARNED
    learned_share, other_share = (
        1 - 1 / ZeroShotClassifier(clip, names, temperature="labels").calibration.temperature
        for names in (LEARNED, OTHERS)
    )
    assert learned_share < 0.1
    assert other_share > 3 * learned_share


def learned() -> DualEncoder:
    """A tiny model that has learned eight images by their names, in the plain sentences."""
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
