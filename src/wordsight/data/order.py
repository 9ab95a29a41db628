"""Which random numbers belong to which place: everything drawn is a function of (seed, stream, epoch, position).

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its n-th
block is a function of a key and of n, so any draw can be had without those before it. The key is (seed, stream),
the counter (0, attempt, position, epoch); its first word counts the numbers that one place draws. No number of
workers, ranks or resumes can change what a place sees, because nothing is carried from one place to the next.
"""

import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PURPOSES = 256


class Purpose(enum.IntEnum):
    """What a draw decides; two purposes never share numbers."""

    ORDER = 0
    TEXT = 1
    CROP = 2
    SUBSTITUTE = 3


def stream_of(purpose: Purpose, source: int = 0) -> int:
    """The number of the stream that one source of a mixture uses for one purpose."""
    return source * _PURPOSES + int(purpose)


def draws(seed: int, stream: int, epoch: int, position: int, attempt: int = 0) -> np.random.Generator:
    """The generator that belongs to one place of one epoch.

    Args:
        seed: 0 to 2**64 - 1, from the recipe.
        stream: 0 to 2**64 - 1, as `stream_of` gives it.
        epoch: 0 to 2**64 - 1.
        position: 0 to 2**64 - 1, the place within the epoch.
        attempt: 0 to 2**64 - 1, how often the place was drawn again, for substitutes of broken samples.
    """
    key = np.array([seed, stream], np.uint64)
    counter = np.array([0, attempt, position, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permutation(seed: int, stream: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which an epoch visits `count` samples: (count,) int64, each of 0 to count - 1 once."""
    return draws(seed, stream, epoch, 0).permutation(count)


def windowed_permutation(
    seed: int, stream: int, epoch: int, shard_counts: Sequence[int], window: int
) -> NDArray[np.int64]:
    """An epoch's order that never needs more than `window` shards at once, for shards that come over a network.

    The shards are permuted, cut into runs of `window`, and the samples of each run permuted among themselves.

    Args:
        seed: as `draws`.
        stream: as `draws`.
        epoch: as `draws`.
        shard_counts: how many samples each shard holds.
        window: how many shards are mixed with one another, at least 1.

    Returns:
        (sum of shard_counts,) int64, each sample once.
    """
    generator = draws(seed, stream, epoch, 0)
    first = np.concatenate([[0], np.cumsum(shard_counts)]).astype(np.int64)
    shards = generator.permutation(len(shard_counts))
    runs = []
    for start in range(0, len(shards), window):
        members = [np.arange(first[shard], first[shard + 1]) for shard in shards[start : start + window]]
        runs.append(generator.permutation(np.concatenate(members)))
    return np.concatenate(runs) if runs else np.empty(0, np.int64)
