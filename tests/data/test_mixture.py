"""Shares of a batch by hand, and each source walking through its own epochs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from wordsight.config import decode
from wordsight.data.mixture import Mixture, MixtureSource, SourceConfig, SourceOrder
from wordsight.data.shard_reader import open_shards
from wordsight.errors import ConfigError

Shards = Callable[..., Path]


def mixture_of(make_shards: Shards, *weights: float) -> Mixture:
    shards = open_shards(make_shards("set", [2]))
    return Mixture([MixtureSource(shards, weight) for weight in weights])


@pytest.mark.parametrize(
    ("weights", "batch_size", "places"),
    [
        ((1,), 7, (7,)),
        ((1, 1), 7, (4, 3)),
        ((3, 1), 8, (6, 2)),
        ((192, 128, 64), 384, (192, 128, 64)),
        ((0.1, 0.2), 3, (1, 2)),
        ((47, 16, 15.9, 12, 6, 3.1), 25, (12, 4, 4, 3, 1, 1)),  # quotas 11.75, 4, 3.975, 3, 1.5, 0.775
    ],
)
def test_places_are_shared_by_largest_remainders(
    weights: tuple[float, ...], batch_size: int, places: tuple[int, ...], make_shards: Shards
) -> None:
    assert mixture_of(make_shards, *weights).slots(batch_size) == places


def test_a_source_without_a_place_is_refused(make_shards: Shards) -> None:
    with pytest.raises(ConfigError, match=r"000000\.tar: weight 3\.1 of 100\.0 gives no place in a batch of 10; raise"):
        mixture_of(make_shards, 47, 16, 15.9, 12, 6, 3.1).slots(10)


def test_a_walk_visits_each_sample_once_an_epoch_and_reshuffles(make_shards: Shards) -> None:
    walk = SourceOrder(open_shards(make_shards("set", [3, 4])), seed=1, source=0)
    epochs = [[walk.sample_at(epoch * 7 + place) for place in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [walk.sample_at(place) for place in (0, 20, 3)] == [epochs[0][0], epochs[2][6], epochs[0][3]]


def test_sources_and_seeds_walk_differently(make_shards: Shards) -> None:
    shards = open_shards(make_shards("set", [30]))
    walks = [SourceOrder(shards, seed, source) for seed, source in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(walk.sample_at(place) for place in range(30)) for walk in walks}) == 3


def test_a_mixture_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="without sources"):
        Mixture([])


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"weight": 0}, "weight 0"),
        ({"weight": float("nan")}, "weight nan"),
        ({"templates": ["a photo"]}, r"template 'a photo': expected one \{\}"),
        ({"templates": ["{} and {}"]}, "expected one"),
        ({"wieght": 1}, "did you mean 'weight'"),
    ],
)
def test_impossible_sources_are_refused(told: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        decode({"shards": "set", **told}, SourceConfig, "recipe.toml")


def test_the_fingerprint_follows_data_weight_and_templates(make_shards: Shards) -> None:
    one, other = open_shards(make_shards("one", [2])), open_shards(make_shards("other", [2]))
    mixtures = [
        Mixture([MixtureSource(one)]),
        Mixture([MixtureSource(other)]),
        Mixture([MixtureSource(one, 2.0)]),
        Mixture([MixtureSource(one, 1.0, ("a {}",))]),
    ]
    assert len({mixture.fingerprint for mixture in mixtures}) == 4
