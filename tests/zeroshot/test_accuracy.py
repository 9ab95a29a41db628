"""Accuracy, recall, precision and confusions against a case counted by hand."""

import math

import pytest

from wordsight.metrics import accuracy, wilson_interval
from wordsight.zeroshot import ClassScore, ConfusionCounts


def test_a_small_case_counted_by_hand():
    counts = ConfusionCounts(num_classes=4)
    for target, prediction in ("aa", "aa", "ab", "bb", "ba", "bc", "cb", "cb"):
        counts.add(target, prediction, float(target == prediction))
    score = counts.score("data", unreadable=2)
    assert (score.value, score.n, score.chance, score.unreadable) == (3 / 8, 8, 1 / 4, 2)
    assert (score.low, score.high) == wilson_interval(3, 8)
    assert counts.classes() == [
        ClassScore("c", 2, 1, 0),
        ClassScore("b", 3, 4, 1),
        ClassScore("a", 3, 3, 2),
    ]
    assert [each.recall for each in counts.classes()] == pytest.approx([0, 1 / 3, 2 / 3])
    assert [each.precision for each in counts.classes()] == pytest.approx([0, 1 / 4, 2 / 3])
    assert counts.confusions() == [("c", "b", 2), ("a", "b", 1), ("b", "a", 1), ("b", "c", 1)]


def test_a_class_without_images_or_predictions_has_no_share():
    counts = ConfusionCounts(num_classes=2)
    counts.add("a", "b", 0.0)
    first, last = counts.classes()
    assert (first.label, first.recall) == ("a", 0.0)
    assert math.isnan(first.precision)
    assert (last.label, last.precision, last.recall_interval) == ("b", 0.0, (0.0, 1.0))
    assert math.isnan(last.recall)


def test_ties_count_as_in_the_metrics():
    import numpy as np

    counts = ConfusionCounts(num_classes=2)
    counts.add("a", "a", 1 / 2)
    counts.add("b", "a", 1 / 2)
    assert counts.score("").value == accuracy(np.zeros((2, 2)), np.array([0, 1])).value
