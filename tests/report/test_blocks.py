"""Blocks validate their contents and compute scales."""

import math

import pytest

from wordsight.report import Curve, Matrix, Plot, RankedText, Table, Tile, Tiles, tile
from wordsight.report.blocks import ScoreLike


class _Score:
    dataset, metric = "flickr8k", "recall@10"
    value, low, high, n, chance, method = 0.12, 0.1, 0.14, 1000, 0.01, "Wilson 95 %"


def test_a_score_of_metrics_is_score_like() -> None:
    from wordsight.metrics import Score

    score: ScoreLike = Score(
        dataset="flickr8k",
        metric="recall@10",
        value=0.12,
        low=0.1,
        high=0.14,
        n=1000,
        chance=0.01,
        method="Wilson 95 %",
    )
    assert tile(score) == Tile("flickr8k recall@10", "12.0 %", "10.0 to 14.0 % (Wilson 95 %), 1,000 items", score)


def test_the_scale_covers_every_interval_and_chance() -> None:
    low, high = _Score(), _Score()
    high.chance = 0.3
    assert Tiles([tile(low)]).scale_end == 0.2
    assert Tiles([tile(low), tile(high)]).scale_end == 0.5
    assert Tiles([Tile("seconds", "12")]).scale_end == 1.0
    high.high = 1.0
    assert Tiles([tile(high)]).scale_end == 1.0


def test_matrix_strengths_span_the_finite_values() -> None:
    matrix = Matrix([[-0.1, math.nan], [0.3, 0.1]], [b"", b""], ["a", "b"])
    assert matrix.range == (-0.1, 0.3)
    assert [matrix.strength(value) for value in (-0.1, 0.3)] == [0.0, 1.0]
    assert matrix.strength(0.1) == pytest.approx(0.5)
    assert matrix.strength(math.inf) is None
    assert Matrix([[2.0]], [b""], ["a"]).strength(2.0) == 0.5


def test_bar_widths_are_clipped() -> None:
    assert [RankedText("a", share).width for share in (0.4, 7.0, -1.0, math.nan)] == [0.4, 1.0, 0.0, 0.0]


def test_inconsistent_shapes_are_rejected() -> None:
    with pytest.raises(ValueError, match="row 1 has 1 cells"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(ValueError, match="2 x values, 1 y values"):
        Curve("loss", [1, 2], [1])
    with pytest.raises(ValueError, match="0 curves"):
        Plot([], "step", "loss")
    with pytest.raises(ValueError, match="1 texts"):
        Matrix([[1.0, 2.0]], [b""], ["a"])
    with pytest.raises(ValueError, match="partners"):
        Matrix([[1.0]], [b""], ["a"], partners=[0, 0])
