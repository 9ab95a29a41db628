"""Calibration compared with a numerical optimum and by simulation; background words compared by hand."""

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
from wordsight.zeroshot.calibration import MIN_LIFT, Calibration, fit_calibration, fit_temperature, softmax

IMAGES = [random_image(seed) for seed in range(24)]
TARGETS = [["dog", "cat", "bird"][seed % 3] for seed in range(24)]


class Scaled:
    """A model whose logits are ten times the cosine similarity."""

    def logits(self, images: np.ndarray, texts: np.ndarray) -> np.ndarray:
        return 10 * images @ texts.T


def sample(count: int, temperature: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and targets sampled from their softmax at a temperature."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(count, 5)) * 3
    cumulative = softmax(logits / temperature).cumsum(axis=1)
    return logits.astype(np.float32), (generator.random((count, 1)) > cumulative[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_of_the_sampled_targets_is_recovered(temperature: float) -> None:
    logits, targets = sample(20_000, temperature)
    fitted = fit_temperature(logits, targets)
    assert fitted == pytest.approx(temperature, rel=0.06)
    optimum = minimize_scalar(
        lambda t: -np.log(softmax(logits / t)[np.arange(len(targets)), targets]).mean(),
        bounds=(0.1, 10),
        method="bounded",
        options={"xatol": 1e-6},
    )
    assert fitted == pytest.approx(optimum.x, rel=1e-3)


def test_prediction_sets_have_the_requested_coverage() -> None:
    is_covered, sizes = [], []
    for seed in range(200):
        logits, targets = sample(101, 2.0, seed)
        calibration = fit_calibration(logits[:100], targets[:100], None, 0.8)
        nonconformity = 1 - softmax(logits[100:] / calibration.temperature)[0]
        is_covered.append(nonconformity[targets[100]] <= calibration.max_nonconformity)
        sizes.append((nonconformity <= calibration.max_nonconformity).sum())
    assert np.mean(is_covered) == pytest.approx(0.8, abs=0.08)
    assert 1 < np.mean(sizes) < 4
    assert calibration.coverage == 0.8
    assert calibration.min_log_lift == Calibration().min_log_lift == np.log(MIN_LIFT)


def test_the_rejection_threshold_accepts_the_requested_share() -> None:
    logits, targets = sample(19, 1.0)
    calibration = fit_calibration(logits, targets, np.arange(19.0), 0.9)
    assert calibration.min_log_lift == 1  # reached by 18 of 19


def test_the_200_background_words_are_distinct() -> None:
    assert len(WORDS) == len(set(WORDS)) == 200


def test_lift_and_independent_probabilities_match_a_hand_computed_case() -> None:
    angles = np.radians([0, 40, 80, 120])
    words = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    label_angles = np.radians([-5, 60])
    labels = np.stack([np.cos(label_angles), np.sin(label_angles)], axis=1).astype(np.float32)
    background = Background(Scaled(), words, labels)  # type: ignore[arg-type]
    image = np.array([1, 0], np.float32)
    # Words are 40 degrees from the nearest other word. Nearer than that: word 0 to label 0; words 1 and 2 to label 1.
    logits = (10 * labels @ image).astype(np.float32)
    word_logits = 10 * words @ image
    independent = background.independent(image, logits)
    assert independent[0] == pytest.approx(1 / (1 + np.exp(word_logits[1:] - logits[0]).sum()), rel=1e-4)
    assert independent[1] == pytest.approx(1 / (1 + np.exp(word_logits[[0, 3]] - logits[1]).sum()), rel=1e-4)
    assert background.log_lift(image, logits) == pytest.approx(
        np.log(np.mean(np.exp(logits.astype(float)))) - word_logits[3], rel=1e-4
    )


def test_some_words_are_kept_even_if_all_of_them_are_labels() -> None:
    words = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    image = words[0]
    assert np.isfinite(Background(Scaled(), words, words).log_lift(image, 10 * words @ image))  # type: ignore[arg-type]


def test_rejection_is_opt_in_and_gives_a_reason() -> None:
    clip = tiny_clip()
    default = list(ZeroShotClassifier(clip, ["dog", "cat"]).classify(IMAGES[:4]))
    rejecting = list(ZeroShotClassifier(clip, ["dog", "cat"], none_of_these=True).classify(IMAGES[:4]))
    assert all(prediction.label != NONE and not prediction.reason for prediction in default)
    for prediction, other in zip(rejecting, default, strict=True):  # a random model fits no label better than the words
        assert (prediction.label, prediction.labels) == (NONE, ())
        assert prediction.probability > 0.5
        assert prediction.reason.startswith("the labels fit this image ")
        assert prediction.reason.endswith(" times as well as general words do; the threshold is 4 times")
        assert prediction.ranking == other.ranking


def test_in_multi_label_mode_a_label_does_not_depend_on_the_others() -> None:
    clip = tiny_clip()
    three = ZeroShotClassifier(clip, ["dog", "cat", "bird"], multi_label=True)
    one = ZeroShotClassifier(clip, ["cat"], multi_label=True)
    for prediction, single in zip(three.classify(IMAGES[:5]), one.classify(IMAGES[:5]), strict=True):
        assert dict(prediction.ranking)["cat"] == pytest.approx(single.probability, abs=1e-5)
        assert prediction.labels == tuple(name for name, probability in prediction.ranking if probability > 0.5)


def test_multi_label_probabilities_of_a_sigmoid_model_are_the_sigmoids_of_its_logits() -> None:
    config = structs.replace(tiny_config(), logit_bias=True)
    model = build(config, torch.Generator().manual_seed(0)).eval()
    clip = DualEncoder(model, tiny_card(model=config))
    classifier = ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True)
    logits = clip.logits(clip.embed_images(IMAGES[:1]), classifier.weights)[0].astype(float)
    (prediction,) = classifier.classify(IMAGES[:1])
    assert prediction.probability == pytest.approx(1 / (1 + np.exp(-logits.max())), rel=1e-5)


def test_calibrate_returns_a_calibrated_copy() -> None:
    classifier = ZeroShotClassifier(tiny_clip(), [("dog", "hound"), "cat", "bird"], none_of_these=True)
    targets = ["Hound" if name == "dog" else name for name in TARGETS]
    calibrated = classifier.calibrate(iter(IMAGES), targets)
    assert classifier.calibration == Calibration()
    assert calibrated.calibration.coverage == 0.9
    predictions = list(calibrated.classify(IMAGES))
    assert sum(prediction.label != NONE for prediction in predictions) >= 0.9 * len(IMAGES)
    second_half = [prediction for prediction in predictions[1::2] if prediction.label != NONE]
    is_covered = [
        TARGETS[2 * index + 1] in prediction.labels
        for index, prediction in enumerate(predictions[1::2])
        if prediction.label != NONE
    ]
    assert sum(is_covered) >= len(second_half) - 1
    for prediction in predictions:
        logits = calibrated.clip.logits(calibrated.clip.embed_images([prediction.image]), calibrated.weights)
        expected = softmax(logits / calibrated.calibration.temperature)[0].max()
        assert prediction.ranking[0][1] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": ["dug", *TARGETS[1:]]}, "'dug': not one of the labels; did you mean 'dog'"),
        ({"targets": TARGETS[1:]}, "24 images and 23 labels"),
        ({"images": IMAGES[:17], "targets": TARGETS[:17]}, "17 labelled images: a coverage of 0.9 needs at least 18"),
        ({"coverage": 1.0}, "coverage 1: expected a share between 0 and 1"),
        ({"coverage": 0.99}, "a coverage of 0.99 needs at least 198"),
    ],
)
def test_invalid_calibration_data_is_rejected(changes: dict, message: str) -> None:
    classifier = ZeroShotClassifier(tiny_clip(), ["dog", "cat", "bird"])
    with pytest.raises(ConfigError, match=message):
        classifier.calibrate(**({"images": IMAGES, "targets": TARGETS} | changes))


def test_an_unreadable_image_is_reported_and_skipped() -> None:
    classifier = ZeroShotClassifier(tiny_clip(), ["dog", "cat", "bird"])
    unreadable: list[int] = []
    images, targets = [*IMAGES[:3], b"no image", *IMAGES[3:]], [*TARGETS[:3], "cat", *TARGETS[3:]]
    calibrated = classifier.calibrate(images, targets, on_unreadable=lambda index, _: unreadable.append(index))
    assert unreadable == [3]
    assert calibrated.calibration == classifier.calibrate(IMAGES, TARGETS).calibration
    with pytest.raises(ConfigError, match="none of 24 labelled images could be read"):
        classifier.calibrate([b"no image"] * 24, TARGETS, on_unreadable=lambda index, _: unreadable.append(index))


def test_modes_that_exclude_each_other_are_rejected() -> None:
    clip = tiny_clip()
    with pytest.raises(ConfigError, match="multi-label mode cannot be combined with none_of_these"):
        ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True, none_of_these=True)
    with pytest.raises(ConfigError, match="multi-label mode cannot be combined with temperature 'labels'"):
        ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True, temperature="labels")
    with pytest.raises(ConfigError, match="multi-label mode cannot be calibrated"):
        ZeroShotClassifier(clip, ["dog", "cat"], multi_label=True).calibrate(IMAGES, TARGETS)
    with pytest.raises(ImageError):
        ZeroShotClassifier(clip, ["dog", "cat", "bird"]).calibrate([b"no image"] * 24, TARGETS)
