"""Paired tests against hand-computed cases, closed forms and SciPy."""

import numpy as np
import pytest

from wordsight.evaluation.comparison import (
    NUM_RESAMPLES,
    compare,
    format_p_value,
    mcnemar_p_value,
    permutation_p_value,
)
from wordsight.evaluation.measurement import Measurement

stats = pytest.importorskip("scipy.stats")


def hits(values: object, metric: str = "accuracy") -> Measurement:
    return Measurement(metric, np.asarray(values, np.float64), chance=0.5)


def test_mcnemar_matches_hand_computed_cases() -> None:
    assert mcnemar_p_value(8, 2) == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar_p_value(0, 6) == pytest.approx(2 / 64)
    assert [mcnemar_p_value(*counts) for counts in ((0, 0), (1, 0), (5, 5), (4, 5))] == [1, 1, 1, 1]


@pytest.mark.parametrize("counts", [(3, 11), (600, 480), (40, 0), (20_000, 19_400)])
def test_mcnemar_agrees_with_the_binomial_test_of_scipy(counts: tuple[int, int]) -> None:
    expected = stats.binomtest(counts[0], sum(counts), 0.5).pvalue
    assert mcnemar_p_value(*counts) == mcnemar_p_value(*counts[::-1]) == pytest.approx(expected, rel=1e-6)


def test_two_equal_models_do_not_differ() -> None:
    for values in ([1, 0, 1, 1], [0.2, 0.4, 1, 0]):
        compared = compare("b", hits(values), "a", hits(values), "pets")
        assert (compared.difference, compared.low, compared.high, compared.p_value) == (0, 0, 0, 1)


def test_the_difference_is_that_of_the_model_to_the_baseline() -> None:
    """Of 20 images the model gets 18 right and the baseline 10, and all that the baseline gets right."""
    compared = compare("new", hits([1] * 18 + [0] * 2), "old", hits([1] * 10 + [0] * 10), "pets")
    assert compared.difference == pytest.approx(0.4)
    assert compared.p_value == pytest.approx(2 / 2**8)
    # the number of resampled images with a difference is binomial
    assert 20 * compared.low == pytest.approx(stats.binom.ppf(0.025, 20, 0.4), abs=1)
    assert 20 * compared.high == pytest.approx(stats.binom.ppf(0.975, 20, 0.4), abs=1)
    assert str(compared).startswith("pets, accuracy: new - old = +40.0 points [+20.0, +60.0] of 20, p = 0.0078 (exact")


def test_the_permutation_test_agrees_with_all_permutations_in_scipy() -> None:
    random = np.random.Generator(np.random.Philox(1))
    for shift in (0.0, 0.2, 0.5):
        first = random.integers(0, 6, 12) / 5
        second = np.clip(first - shift + random.integers(-1, 2, 12) / 5, 0, 1)
        expected = stats.permutation_test(
            (first, second), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
        ).pvalue
        error = 4 * np.sqrt(expected * (1 - expected) / NUM_RESAMPLES) + 2 / NUM_RESAMPLES
        assert permutation_p_value(first - second) == pytest.approx(expected, abs=error)
    assert permutation_p_value(np.zeros(9)) == 1


def test_the_bootstrap_interval_agrees_with_scipy() -> None:
    random = np.random.Generator(np.random.Philox(2))
    first, second = random.integers(0, 6, (2, 300)) / 5
    compared = compare("a", hits(first, "recall"), "b", hits(second, "recall"), "pets")
    peer = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=10_000, rng=np.random.default_rng(0)
    ).confidence_interval
    assert (compared.low, compared.high) == pytest.approx((peer.low, peer.high), abs=0.005)
    assert compared.test.startswith("paired permutation test")


def test_equally_good_models_are_seldom_called_different() -> None:
    """The negative control: at most 5 % of comparisons between random models have p < 0.05."""
    random = np.random.Generator(np.random.Philox(3))
    pairs = [(random.integers(0, 6, (2, 60)) / 5) for _ in range(80)]
    false_alarms = [permutation_p_value(first - second) < 0.05 for first, second in pairs]
    assert stats.binomtest(sum(false_alarms), len(pairs), 0.05, alternative="greater").pvalue > 0.01
    assert any(false_alarms)


def test_the_seed_is_fixed() -> None:
    random = np.random.Generator(np.random.Philox(4))
    first, second = (hits(random.random(50)) for _ in range(2))
    assert compare("a", first, "b", second, "x") == compare("a", first, "b", second, "x")


def test_only_measurements_of_the_same_images_can_be_compared() -> None:
    with pytest.raises(ValueError, match="compare"):
        compare("a", hits([1, 0]), "b", hits([1, 0, 1]), "pets")
    with pytest.raises(ValueError, match="compare"):
        compare("a", hits([1, 0]), "b", hits([1, 0], "recall"), "pets")


def test_p_values_have_two_digits() -> None:
    assert [format_p_value(p) for p in (1.0, 0.0312, 1e-4, 9e-5)] == ["p = 1", "p = 0.031", "p = 0.0001", "p < 0.0001"]
