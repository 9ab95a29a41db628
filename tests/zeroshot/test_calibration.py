"""Calibration compared with a numerical optimum and by simulation; background words compared by hand."""

import numpy as np
import pytest
import torch
from msgspec import structs
from scipy.optimize import minimize, minimize_scalar
from tests.tiny_clip import random_image, tiny_card, tiny_clip, tiny_config

from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, ImageError
from wordsight.model import build
from wordsight.zeroshot import NONE, ZeroShotClassifier
from wordsight.zeroshot.background import WORDS, Background
from wordsight.zeroshot.calibration import MIN_LIFT, Calibration, fit_calibration, fit_temperature, softmax
from wordsight.zeroshot.offsets import PRIOR_DEVIATION, fit_offsets

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


def biased_sample(count: int, bias: list[float], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model that adds a constant to the logits of each label, and the correct labels."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(0, len(bias), count)
    logits = 1.5 * generator.normal(size=(count, len(bias))) + 2 * (targets[:, None] == np.arange(len(bias)))
    return (logits + np.array(bias)).astype(np.float32), targets


def test_a_constant_offset_between_two_labels_is_corrected_with_120_images() -> None:
    test_logits, test_targets = biased_sample(4000, [0, 5], seed=1000)
    unbiased = biased_sample(4000, [0, 0], seed=1000)[0]
    accuracies = []
    for seed in range(20):
        calibration = fit_calibration(*biased_sample(120, [0, 5], seed), None, 0.9)
        accuracies.append(np.mean(calibration.apply(test_logits).argmax(axis=1) == test_targets))
    before, best = (np.mean(logits.argmax(axis=1) == test_targets) for logits in (test_logits, unbiased))
    assert before < 0.6
    assert np.mean(accuracies) > best - 0.02
    assert np.mean(np.array(accuracies) > before + 0.1) >= 0.9  # the others have no offsets


def test_without_an_offset_in_the_data_the_temperature_alone_is_kept() -> None:
    has_offsets = [bool(fit_calibration(*sample(200, 2.0, seed), None, 0.9).offsets) for seed in range(30)]
    assert np.mean(has_offsets) < 0.2


def test_offsets_need_ten_images_of_two_labels_in_each_half() -> None:
    logits, targets = biased_sample(36, [0, 5], seed=0)
    calibration = fit_calibration(logits, np.arange(36) // 2 % 2, None, 0.9)
    assert not calibration.offsets
    assert calibration.summary.startswith("calibrated on 36 images: temperature ")
    assert calibration.summary.endswith("no offsets, which need 20 images for each of two labels or more")
    assert "; 1 label without images" in fit_calibration(logits[:, [0, 1, 1]], targets % 2, None, 0.9).summary


def test_offsets_equal_the_optimum_that_scipy_finds() -> None:
    logits, targets = biased_sample(400, [-2, 0, 1, 3], seed=5)
    fit = fit_offsets(logits, targets, fit_temperature)
    assert fit is not None
    assert fit.is_better

    def loss(parameters: np.ndarray) -> float:
        scaled = logits * np.exp(parameters[0]) + parameters[1:]
        nll = np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(400), targets]
        return float(nll.sum() + np.square(parameters[1:]).sum() / (2 * PRIOR_DEVIATION**2))

    optimum = minimize(loss, np.zeros(5), tol=1e-9)
    assert fit.offsets == pytest.approx(optimum.x[1:], abs=0.01)
    assert fit.temperature == pytest.approx(np.exp(-optimum.x[0]), rel=0.01)
    assert fit.log_loss < fit.plain_log_loss


def test_labels_with_few_images_have_no_offset_and_separable_images_have_finite_ones() -> None:
    logits = np.repeat(np.eye(3, dtype=np.float32) * 4, [30, 30, 5], axis=0)
    fit = fit_offsets(logits, np.repeat([0, 1, 2], [30, 30, 5]), fit_temperature)
    assert fit is not None
    assert fit.offsets[2] == 0
    assert np.isfinite(fit.offsets).all()
    assert np.isfinite(fit.temperature)
    assert fit_offsets(logits[:35], np.repeat([0, 1], [30, 5]), fit_temperature) is None


def test_a_calibrated_classifier_applies_its_offsets_to_predictions_and_explanations() -> None:
    classifier = ZeroShotClassifier(tiny_clip(), ["dog", "cat"])
    classifier.calibration = Calibration(temperature=2.0, offsets=(-3.0, 3.0))
    (prediction,) = classifier.classify(IMAGES[:1])
    embeddings = classifier.clip.embed_images(IMAGES[:1])
    expected = softmax(classifier.clip.logits(embeddings, classifier.weights) / 2 + np.array([-3, 3]))[0]
    assert dict(prediction.ranking) == pytest.approx({"dog": expected[0], "cat": expected[1]})
    assert np.exp(classifier.log_probabilities(embeddings))[0] == pytest.approx(expected)


def test_a_rejection_with_an_extreme_lift_is_still_one_line() -> None:
    classifier = ZeroShotClassifier(tiny_clip(), ["dog", "cat"], none_of_these=True)
    for min_log_lift in (1e6, float("inf"), -1e6):
        classifier.calibration = Calibration(min_log_lift=min_log_lift)
        (prediction,) = classifier.classify(IMAGES[:1])
        assert (prediction.label == NONE) == (min_log_lift > 0)
        assert np.isfinite(prediction.probability)
