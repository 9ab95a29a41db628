"""Temperature and sets of labels by closed form and by simulation; what general words say, by hand."""

import numpy as np
import pytest
import torch
from msgspec import structs
from scipy.optimize import minimize_scalar
from tests.tiny_clip import random_image, tiny_card, tiny_clip, tiny_config

from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, ImageError
from wordsight.model import build
from wordsight.zeroshot import NONE, ZeroShotClassifier
from wordsight.zeroshot.background import WORDS, Background
from wordsight.zeroshot.calibration import LEAST_LIFT, Calibration, calibration_of, fit_temperature, softmax

IMAGES = [random_image(seed) for seed in range(24)]
TRUTH = [["dog", "cat", "bird"][seed % 3] for seed in range(24)]


class Scaled:
    """A model of two numbers whose logits are ten times the cosine."""

    def logits(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return 10 * images @ texts.T


def drawn(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn from their softmax at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, 5)) * 3
    ladder = softmax(logits / temperature).cumsum(axis=1)
    return logits.astype(np.float32), (generator.random((count, 1)) > ladder[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_drew_the_labels_is_found(temperature: float) -> None:
    logits, labels = drawn(20_000, temperature)
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(temperature, rel=0.06)
    losses = minimize_scalar(
        lambda t: -np.log(softmax(logits / t)[np.arange(len(labels)), labels]).mean(),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-6},
    )
    assert found == pytest.approx(losses.x, rel=1e-3)


def test_sets_hold_what_they_promise_and_a_temperature_of_its_own_half() -> None:
    had, size = [], []
    for seed in range(200):
        logits, labels = drawn(101, 2.0, seed)
        made = calibration_of(logits[:100], labels[:100], None, 0.8)
        doubt = 1 - softmax(logits[100:] / made.temperature)[0]
        had.append(doubt[labels[100]] <= made.most_doubt)
        size.append((doubt <= made.most_doubt).sum())
    assert np.mean(had) == pytest.approx(0.8, abs=0.08)
    assert 1 < np.mean(size) < 4
    assert made.coverage == 0.8
    assert made.least_log_lift == Calibration().least_log_lift == np.log(LEAST_LIFT)


def test_the_least_lift_keeps_the_share_that_is_promised() -> None:
    logits, labels = drawn(19, 1.0)
    made = calibration_of(logits, labels, np.arange(19.0), 0.9)
    assert made.least_log_lift == 1  # 18 of 19 reach it


def test_two_hundred_words_are_all_different() -> None:
    assert len(WORDS) == len(set(WORDS)) == 200


def test_lift_and_single_probabilities_of_a_hand_case() -> None:
    angles = np.radians([0, 40, 80, 120])
    words = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ways = np.radians([-5, 60])
    labels = np.stack([np.cos(ways), np.sin(ways)], axis=1).astype(np.float32)
    background = Background(Scaled(), words, labels)  # type: ignore[arg-type]
    image = np.array([1, 0], np.float32)
    # words are 40 degrees from their nearest; within that are the first of label 0, the second and third of label 1
    logits = (10 * labels @ image).astype(np.float32)
    word = 10 * words @ image
    alone = background.independent(image, logits)
    assert alone[0] == pytest.approx(1 / (1 + np.exp(word[1:] - logits[0]).sum()), rel=1e-4)
    assert alone[1] == pytest.approx(1 / (1 + np.exp(word[[0, 3]] - logits[1]).sum()), rel=1e-4)
    assert background.lift(image, logits) == pytest.approx(
        np.log(np.mean(np.exp(logits.astype(float)))) - word[3], rel=1e-4
    )


def test_labels_that_are_the_words_themselves_leave_words_to_stand_against() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    image = rows[0]
    assert np.isfinite(Background(Scaled(), rows, rows).lift(image, 10 * rows @ image))  # type: ignore[arg-type]


def test_none_of_these_is_said_with_its_reason_and_only_when_asked_for() -> None:
    clip = tiny_clip()
    plain = list(ZeroShotClassifier(clip, ["dog", "cat"]).classify(IMAGES[:4]))
    asked = ZeroShotClassifier(clip, ["dog", "cat"], none_of_these=True)
    answers = list(asked.classify(IMAGES[:4]))
    assert all(answer.label != NONE and not answer.reason for answer in plain)
    for answer, other in zip(answers, plain, strict=True):  # a random model's labels fit no better than general words
        assert (answer.label, answer.labels) == (NONE, ())
        assert answer.probability > 0.5
        assert answer.reason.startswith("the labels fit it ")
        assert answer.reason.endswith(" times as well as general words do, less than 4 times")
        assert answer.ranking == other.ranking


def test_in_multi_label_mode_a_label_does_not_depend_on_the_others() -> None:
    clip = tiny_clip()
    both = ZeroShotClassifier(clip, ["dog", "cat", "bird"], multi_label=True)
    alone = ZeroShotClassifier(clip, ["cat"], multi_label=True)
    for several, single in zip(both.classify(IMAGES[:5]), alone.classify(IMAGES[:5]), strict=True):
        assert dict(several.ranking)["cat"] == pytest.approx(single.probability, abs=1e-5)
        assert several.labels == tuple(name for name, probability in several.ranking if probability > 0.5)


def test_a_model_of_the_sigmoid_loss_is_read_as_it_was_trained() -> None:
    config = structs.replace(tiny_config(), logit_bias=True)
    model = build(config, torch.Generator().manual_seed(0)).eval()
    clip = DualEncoder(model, tiny_card(model=config))
    labels = ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True)
    logits = clip.logits(clip.embed_images(IMAGES[:1]), labels.weights)[0].astype(float)
    (answer,) = labels.classify(IMAGES[:1])
    assert answer.probability == pytest.approx(1 / (1 + np.exp(-logits.max())), rel=1e-5)


def test_calibrating_gives_another_classifier_with_sets_and_leaves_the_first_alone() -> None:
    labels = ZeroShotClassifier(tiny_clip(), [("dog", "hound"), "cat", "bird"], none_of_these=True)
    truth = ["Hound" if name == "dog" else name for name in TRUTH]
    calibrated = labels.calibrate(iter(IMAGES), truth)
    assert labels.calibration == Calibration()
    assert calibrated.calibration.coverage == 0.9
    answers = list(calibrated.classify(IMAGES))
    assert sum(answer.label != NONE for answer in answers) >= 0.9 * len(IMAGES)
    second_half = [answer for answer in answers[1::2] if answer.label != NONE]
    held = [TRUTH[2 * n + 1] in answer.labels for n, answer in enumerate(answers[1::2]) if answer.label != NONE]
    assert sum(held) >= len(second_half) - 1
    for answer in answers:
        logits = calibrated.clip.logits(calibrated.clip.embed_images([answer.image]), calibrated.weights)
        expected = softmax(logits / calibrated.calibration.temperature)[0].max()
        assert answer.ranking[0][1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": ["dug", *TRUTH[1:]]}, "'dug': not one of the labels; did you mean 'dog'"),
        ({"truth": TRUTH[1:]}, "24 images and 23 labels"),
        ({"images": IMAGES[:17], "truth": TRUTH[:17]}, "17 labelled images: a coverage of 0.9 needs 18"),
        ({"coverage": 1.0}, "coverage 1: expected a share between 0 and 1"),
        ({"coverage": 0.99}, "a coverage of 0.99 needs 198 or more"),
    ],
)
def test_what_cannot_calibrate_is_refused(changes: dict, message: str) -> None:
    labels = ZeroShotClassifier(tiny_clip(), ["dog", "cat", "bird"])
    with pytest.raises(ConfigError, match=message):
        labels.calibrate(**({"images": IMAGES, "truth": TRUTH} | changes))


def test_a_broken_image_is_told_and_left_out() -> None:
    labels = ZeroShotClassifier(tiny_clip(), ["dog", "cat", "bird"])
    told: list[int] = []
    torn = [*IMAGES[:3], b"no image", *IMAGES[3:]]
    made = labels.calibrate(torn, [*TRUTH[:3], "cat", *TRUTH[3:]], on_broken=lambda number, _: told.append(number))
    assert told == [3]
    assert made.calibration == labels.calibrate(IMAGES, TRUTH).calibration
    with pytest.raises(ConfigError, match="none of 24 labelled images could be read"):
        labels.calibrate([b"no image"] * 24, TRUTH, on_broken=lambda number, _: told.append(number))


def test_modes_that_exclude_each_other_are_refused() -> None:
    clip = tiny_clip()
    with pytest.raises(ConfigError, match="multi-label mode has no use for none of these"):
        ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True, none_of_these=True)
    with pytest.raises(ConfigError, match="multi-label mode has no use for a temperature"):
        ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True, temperature="labels")
    with pytest.raises(ConfigError, match="multi-label mode cannot be calibrated"):
        ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True).calibrate(IMAGES, TRUTH)
    with pytest.raises(ImageError):
        ZeroShotClassifier(clip, ["dog", "cat", "bird"]).calibrate([b"no image"] * 24, TRUTH)
