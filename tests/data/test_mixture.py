"""The slots of a batch against hand-computed shares, and the epochs of each source."""

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
    ("weights", "batch_size", "slots"),
    [
        ((1,), 7, (7,)),
        ((1, 1), 7, (4, 3)),
        ((3, 1), 8, (6, 2)),
        ((192, 128, 64), 384, (192, 128, 64)),
        ((0.1, 0.2), 3, (1, 2)),
        ((47, 16, 15.9, 12, 6, 3.1), 25, (12, 4, 4, 3, 1, 1)),  # quotas 11.75, 4, 3.975, 3, 1.5, 0.775
    ],
)
def test_slots_are_divided_by_largest_remainders(
    weights: tuple[float, ...], batch_size: int, slots: tuple[int, ...], make_shards: Shards
) -> None:
    assert mixture_of(make_shards, *weights).slots(batch_size) == slots


def test_a_source_without_a_slot_is_refused(make_shards: Shards) -> None:
    with pytest.raises(ConfigError, match=r"000000\.tar: weight 3\.1 of 100\.0 gives no slot in a batch of 10; raise"):
        mixture_of(make_shards, 47, 16, 15.9, 12, 6, 3.1).slots(10)


def test_every_epoch_visits_each_sample_once_in_another_order(make_shards: Shards) -> None:
    order = SourceOrder(open_shards(make_shards("set", [3, 4])), seed=1, source=0)
    epochs = [[order.sample_at(epoch * 7 + index) for index in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [order.sample_at(position) for position in (0, 20, 3)] == [epochs[0][0], epochs[2][6], epochs[0][3]]


def test_sources_and_seeds_have_different_orders(make_shards: Shards) -> None:
    shards = open_shards(make_shards("set", [30]))
    orders = [SourceOrder(shards, seed, source) for seed, source in ((0, 0), (1, 0), (0, 1))]
    assert len({tuple(order.sample_at(index) for index in range(30)) for order in orders}) == 3


def test_a_mixture_without_sources_is_refused() -> None:
    with pytest.raises(ConfigError, match="without sources"):
        Mixture([])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0}, "weight 0"),
        ({"weight": float("nan")}, "weight nan"),
        ({"templates": ["a photo"]}, r"template 'a photo': expected one \{\}"),
        ({"templates": ["{} and {}"]}, "expected one"),
        ({"wieght": 1}, "did you mean 'weight'"),
    ],
)
def test_invalid_settings_of_a_source_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode({"shards": "set", **settings}, SourceConfig, "recipe.toml")


def test_the_fingerprint_depends_on_data_weight_and_templates(make_shards: Shards) -> None:
    one, other = open_shards(make_shards("one", [2])), open_shards(make_shards("other", [2]))
    mixtures = [
        Mixture([MixtureSource(one)]),
        Mixture([MixtureSource(other)]),
        Mixture([MixtureSource(one, 2.0)]),
        Mixture([MixtureSource(one, 1.0, ("a {}",))]),
    ]
    assert len({mixture.fingerprint for mixture in mixtures}) == 4
