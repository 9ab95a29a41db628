"""Metrics against hand-computed cases, closed forms and SciPy; a constant model scores exactly chance."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

from wordsight.metrics import (
    Score,
    accuracy,
    accuracy_hits,
    auroc,
    calibration_error,
    conformal_quantile,
    first_positions,
    recall_at_k,
    recall_chance,
    recall_hits,
    wilson_interval,
)


def test_wilson_interval_has_the_published_values() -> None:
    # Newcombe, Two-sided confidence intervals for the single proportion, Stat. Med. 17 (1998), table I, method 3.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (hits, n), (low, high) in published.items():
        assert wilson_interval(hits, n) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (3, 7), (50, 100), (999, 1000), (0, 5000)])
def test_wilson_interval_solves_its_defining_equation(hits: int, n: int) -> None:
    low, high = wilson_interval(hits, n, confidence=0.95)
    z = 1.959963984540054
    for end in (low, high):
        if 0 < end < 1:
            assert abs(hits / n - end) == pytest.approx(z * np.sqrt(end * (1 - end) / n), abs=1e-9)
    assert 0 <= low <= hits / n <= high <= 1


def test_wilson_interval_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for hits, n, confidence in [(3, 10, 0.9), (50, 1000, 0.95), (9, 9, 0.99)]:
        peer = stats.binomtest(hits, n).proportion_ci(confidence, method="wilson")
        assert wilson_interval(hits, n, confidence) == pytest.approx((peer.low, peer.high), abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "n", "confidence"), [(1, 0, 0.95), (-1, 4, 0.95), (5, 4, 0.95), (1, 4, 1.0), (1, 4, 0)]
)
def test_wilson_interval_of_an_invalid_proportion_is_an_error(hits: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="wilson_interval"):
        wilson_interval(hits, n, confidence)


def test_accuracy_matches_a_hand_computed_case() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.4, 0.4, 0.2], [0.1, 0.8, 0.1]])
    targets = np.array([0, 1, 1, 1])
    assert accuracy_hits(scores, targets).tolist() == [1.0, 0.0, 0.5, 1.0]
    score = accuracy(scores, targets, "toys")
    assert (score.dataset, score.metric) == ("toys", "accuracy")
    assert (score.value, score.n, score.chance) == (0.625, 4, 1 / 3)
    assert (score.low, score.high) == wilson_interval(2.5, 4)


def test_a_target_that_scores_nan_is_a_miss() -> None:
    scores = np.array([[np.nan, np.nan], [np.nan, 1.0], [0.5, 0.1]])
    assert accuracy_hits(scores, np.array([0, 0, 0])).tolist() == [0.0, 0.0, 1.0]


def test_a_constant_model_scores_chance_exactly() -> None:
    assert accuracy(np.zeros((6, 4)), np.array([0, 1, 2, 3, 0, 1])).value == 0.25
    similarity = np.ones((3, 15))
    relevant = [range(5), range(5, 10), range(10, 15)]
    for k in (1, 5, 10, 15, 40):
        score = recall_at_k(similarity, relevant, k)
        assert score.value == pytest.approx(score.chance, abs=1e-12)
    assert recall_at_k(np.full((4, 8), np.nan), [[0], [1], [2], [3]], 2).value == pytest.approx(2 / 8)
    assert first_positions(np.ones((1, 9)), [[4]]).tolist() == [5.0]


def test_any_caption_of_an_image_is_a_hit() -> None:
    similarity = np.array([[0.1, 0.9, 0.5, 0.4], [0.8, 0.1, 0.2, 0.3]])
    relevant = [[0, 1], [2, 3]]
    assert recall_hits(similarity, relevant, 1).tolist() == [1.0, 0.0]
    assert recall_hits(similarity, relevant, 2).tolist() == [1.0, 1.0]
    assert first_positions(similarity, relevant).tolist() == [1.0, 2.0]


def test_text_to_image_recall_matches_a_hand_computed_case() -> None:
    similarity = np.array([[0.9, 0.5, 0.1], [0.7, 0.6, 0.5], [0.2, 0.3, 0.1]])
    assert [recall_at_k(similarity, [[0], [1], [2]], k).value for k in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1])


def test_ties_count_as_the_mean_over_all_orders() -> None:
    similarity = np.array([[3.0, 2.0, 2.0, 2.0, 1.0], [2.0, 2.0, 3.0, 3.0, 2.0]])
    relevant = [[1, 2], [0, 4]]
    for k in (1, 2, 3, 4):
        expected = []
        for row, own in zip(similarity, relevant, strict=True):
            is_hit = [
                bool(set(sorted(order, key=lambda index, row=row: -row[index])[:k]) & set(own))
                for order in itertools.permutations(range(5))
            ]
            expected.append(np.mean(is_hit))
        assert recall_hits(similarity, relevant, k) == pytest.approx(expected, abs=1e-12)


def test_the_expected_position_is_the_mean_over_all_orders() -> None:
    row, own = np.array([3.0, 2.0, 2.0, 2.0, 2.0]), {1, 2}
    positions = []
    for order in itertools.permutations(range(5)):
        by_score = sorted(order, key=lambda index: -row[index])
        positions.append(1 + min(by_score.index(index) for index in own))
    assert first_positions(row[None], [[1, 2]])[0] == pytest.approx(np.mean(positions))


def test_the_chance_level_of_recall_has_a_closed_form() -> None:
    assert recall_chance(1000, 1, 10) == pytest.approx(0.01)
    assert recall_chance(5, 2, 1) == pytest.approx(2 / 5)
    assert recall_chance(5, 2, 2) == pytest.approx(1 - 3 / 10)
    assert recall_chance(4, 2, 3) == 1
    assert recall_chance(5000, 5, 10) == pytest.approx(0.00996, abs=5e-6)


def test_random_similarities_have_recall_at_chance_level() -> None:
    random = np.random.Generator(np.random.Philox(7))
    relevant = [range(5 * image, 5 * image + 5) for image in range(400)]
    score = recall_at_k(random.normal(size=(400, 2000)), relevant, 50)
    assert score.low < score.chance < score.high
    assert score.metric == "recall@50"


@pytest.mark.parametrize("relevant", [[[0]], [[0], []], [[0], [3]], [[0], [-1]]])
def test_recall_with_invalid_relevant_candidates_is_an_error(relevant: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="retrieval"):
        recall_at_k(np.zeros((2, 3)), relevant, 1)


def test_accuracy_with_targets_out_of_range_is_an_error() -> None:
    for targets in ([0, 3], [-1, 0], [0]):
        with pytest.raises(ValueError, match="accuracy_hits"):
            accuracy(np.zeros((2, 3)), np.array(targets))


@pytest.mark.parametrize(("unreadable", "note"), [(0, ""), (3, " (3 unreadable)")])
def test_a_printed_score_contains_interval_items_chance_and_method(unreadable: int, note: str) -> None:
    score = Score(
        dataset="flickr8k-val",
        metric="recall@10",
        value=0.1234,
        low=0.11,
        high=0.138,
        n=1000,
        unreadable=unreadable,
        chance=0.01,
        method="Wilson 95 %",
    )
    assert str(score) == f"flickr8k-val, recall@10: 12.3 % [11.0, 13.8] of 1,000{note}, chance 1.0 % (Wilson 95 %)"


def test_metrics_do_not_load_torch() -> None:
    code = "import sys, wordsight.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_calibration_error_matches_a_hand_computed_case() -> None:
    confidence = np.array([0.9, 0.1, 0.8, 0.2])  # two bins: (0.1, 0.2) with hits 0 and 1, (0.8, 0.9) with 1 and 1
    hits = np.array([1.0, 0.0, 1.0, 1.0])
    assert calibration_error(confidence, hits, bins=2) == pytest.approx((abs(0.3 - 1) + abs(1.7 - 2)) / 4)
    assert calibration_error(confidence, hits, bins=1) == pytest.approx(abs(2.0 - 3) / 4)
    assert calibration_error(confidence, hits, bins=15) == pytest.approx((0.1 + 0.8 + 0.2 + 0.1) / 4)


def test_calibration_error_is_small_only_for_calibrated_probabilities() -> None:
    generator = np.random.Generator(np.random.Philox(3))
    confidence = generator.random(40_000)
    hits = (generator.random(40_000) < confidence).astype(float)
    assert calibration_error(confidence, hits) < 0.01
    assert calibration_error(confidence**0.5, hits) == pytest.approx(2 / 3 - 1 / 2, abs=0.01)


@pytest.mark.parametrize(("confidence", "hits", "bins"), [([], [], 15), ([0.5], [1, 0], 15), ([0.5], [1], 0)])
def test_calibration_error_of_mismatched_arrays_is_an_error(confidence: list, hits: list, bins: int) -> None:
    with pytest.raises(ValueError, match="calibration_error"):
        calibration_error(np.array(confidence), np.array(hits), bins)


def test_auroc_is_the_proportion_of_correctly_ordered_pairs() -> None:
    generator = np.random.Generator(np.random.Philox(4))
    higher, lower = generator.integers(2, 9, 60).astype(float), generator.integers(0, 7, 45).astype(float)
    pairs = [(h > low) + (h == low) / 2 for h in higher for low in lower]
    assert auroc(higher, lower) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert auroc(lower, higher) == pytest.approx(1 - np.mean(pairs), abs=1e-12)
    assert auroc(np.zeros(3), np.zeros(5)) == 0.5
    with pytest.raises(ValueError, match="auroc: 0 and 5"):
        auroc(np.zeros(0), np.zeros(5))


def test_conformal_quantile_is_the_order_statistic_that_guarantees_the_coverage() -> None:
    scores = np.arange(1.0, 20.0)[::-1]  # 19 scores: the 18th smallest, (19 + 1) * 0.9
    assert conformal_quantile(scores, 0.9) == 18
    assert conformal_quantile(scores[:9], 0.9) == 19
    assert conformal_quantile(scores[:8], 0.9) == np.inf
    with pytest.raises(ValueError, match="coverage 1"):
        conformal_quantile(scores, 1)


def test_the_guaranteed_coverage_is_reached_on_average() -> None:
    generator = np.random.Generator(np.random.Philox(5))
    draws = generator.normal(size=(4000, 31))
    coverage = np.mean([row[-1] <= conformal_quantile(row[:-1], 0.8) for row in draws])
    assert coverage == pytest.approx(25 / 31, abs=0.02)  # exactly ceil(31 * 0.8) / 31, whatever the distribution
