"""The two tasks on embeddings, against naive computations and hand-computed cases."""

import tracemalloc

import numpy as np
import pytest

from wordsight import metrics
from wordsight.evaluation.classification import classes_of, measure_classification
from wordsight.evaluation.retrieval import measure_retrieval
from wordsight.metrics import wilson_interval


def unit(random: np.random.Generator, rows: int, columns: int = 16) -> np.ndarray:
    values = random.normal(size=(rows, columns)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def naive_recall(image_NE: np.ndarray, text_ME: np.ndarray, owner: list[int], k: int) -> tuple[float, float]:
    """Recall@k in both directions by sorting."""
    similarity = image_NE.astype(np.float64) @ text_ME.T.astype(np.float64)
    to_text = [
        any(owner[text] == image for text in sorted(range(len(owner)), key=lambda text: -row[text])[:k])
        for image, row in enumerate(similarity)
    ]
    to_image = [
        owner[text] in sorted(range(len(image_NE)), key=lambda image: -column[image])[:k]
        for text, column in enumerate(similarity.T)
    ]
    return float(np.mean(to_text)), float(np.mean(to_image))


@pytest.mark.parametrize("block_values", [1, 1000, 1 << 23])
def test_recall_is_that_of_a_naive_computation_in_blocks_of_any_size(block_values, monkeypatch) -> None:
    """Images have one to four captions, which are not sorted by image."""
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", block_values)
    random = np.random.Generator(np.random.Philox(5))
    owner = [*range(40), *random.integers(0, 40, 60).tolist()]
    image_NE = unit(random, 40)
    text_ME = image_NE[owner] + 2 * unit(random, 100)
    measured = {each.metric: each for each in measure_retrieval(image_NE, text_ME, owner)}
    for k in (1, 5, 10):
        to_text, to_image = naive_recall(image_NE, text_ME, owner, k)
        assert measured[f"image_to_text_recall@{k}"].value == pytest.approx(to_text)
        assert measured[f"text_to_image_recall@{k}"].value == pytest.approx(to_image)
    assert 0.1 < measured["text_to_image_recall@1"].value < 0.9  # not trivial


def test_a_constant_model_scores_chance() -> None:
    ones = np.ones((12, 4), np.float32) / 2
    owner = np.repeat(np.arange(12), 3)
    measured = measure_retrieval(ones, np.repeat(ones, 3, axis=0), owner)
    measured += measure_classification(ones, ones[:6], np.arange(12) % 6)
    for each in measured:
        assert each.value == pytest.approx(each.chance)


def test_large_sets_are_compared_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 x 10,000 similarities take 40 MB in float32, and a block 2 MB."""
    monkeypatch.setattr(metrics, "_BLOCK_VALUES", 1 << 19)
    random = np.random.Generator(np.random.Philox(6))
    image_NE, text_ME = unit(random, 1000, 8), unit(random, 10_000, 8)
    owner = np.repeat(np.arange(1000), 10)
    tracemalloc.start()
    measure_retrieval(image_NE, text_ME, owner)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < 10e6


def test_accuracies_match_a_hand_computed_case() -> None:
    """Three images of class 0, of which one is mistaken for class 1, and one of class 1, which is right."""
    image_NE = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    accuracy, per_class = measure_classification(image_NE, np.eye(2, dtype=np.float32), np.array([0, 0, 0, 1]))
    assert (accuracy.metric, per_class.metric) == ("accuracy", "mean_per_class_accuracy")
    assert accuracy.value == 3 / 4
    assert per_class.value == pytest.approx((2 / 3 + 1) / 2)
    assert per_class.effective_n == pytest.approx(2**2 / (1 / 3 + 1))
    score = per_class.score("pets", unreadable=2)
    assert (score.low, score.high) == pytest.approx(wilson_interval(3 * 5 / 6, 3))
    assert (score.n, score.unreadable, score.chance) == (4, 2, 0.5)
    assert score.method == "Wilson 95 % with Kish's effective sample size"


def test_accuracies_agree_with_sorting_and_counting() -> None:
    random = np.random.Generator(np.random.Philox(7))
    target_N = np.concatenate([np.arange(9), random.integers(0, 9, 200) ** 2 // 9])
    weights_KE = unit(random, 9)
    image_NE = weights_KE[target_N] + unit(random, len(target_N))
    accuracy, top_5, per_class = measure_classification(image_NE, weights_KE, target_N)
    scores = image_NE.astype(np.float64) @ weights_KE.T
    assert accuracy.value == pytest.approx((scores.argmax(1) == target_N).mean())
    is_right = scores.argmax(1) == target_N
    assert per_class.value == pytest.approx(np.mean([is_right[target_N == label].mean() for label in range(9)]))
    assert per_class.value != pytest.approx(accuracy.value, abs=1e-3)
    assert top_5.metric == "accuracy@5"
    assert top_5.value == pytest.approx((np.argsort(-scores, axis=1)[:, :5] == target_N[:, None]).any(1).mean())
    assert (accuracy.chance, top_5.chance) == (1 / 9, 5 / 9)


def test_equal_classes_give_both_accuracies_the_same_interval() -> None:
    random = np.random.Generator(np.random.Philox(8))
    accuracy, per_class = measure_classification(unit(random, 40), unit(random, 4), np.arange(40) % 4)
    first, second = accuracy.score("x"), per_class.score("x")
    assert (first.value, first.low, first.high) == pytest.approx((second.value, second.low, second.high))


def test_equal_names_are_one_class() -> None:
    classes, target_N = classes_of([("dog",), ("cat", "kitty"), ("dog",)])
    assert classes == [("cat", "kitty"), ("dog",)]
    assert target_N.tolist() == [1, 0, 1]
