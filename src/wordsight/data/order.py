"""Random numbers for training, each a function of (seed, stream, epoch, position).

Philox is a counter-based generator (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): its n-th block
is a function of a key and of n, so that any draw can be computed without those before it. The key is (seed, stream) and
the counter is (0, attempt, position, epoch); the first word counts the numbers drawn for one position. No state is
carried from one position to the next, so the number of workers, ranks and resumes cannot change the draws.
"""

import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PURPOSES = 256


class Purpose(enum.IntEnum):
    """The purpose of a draw; different purposes use independent streams."""

    ORDER = 0
    TEXT = 1
    CROP = 2
    SUBSTITUTE = 3
    SPLIT = 4


def stream_of(purpose: Purpose, source: int = 0) -> int:
    """Return the number of the stream that one source of a mixture uses for one purpose."""
    return source * _PURPOSES + int(purpose)


def draws(seed: int, stream: int, epoch: int, position: int, attempt: int = 0) -> np.random.Generator:
    """Return the generator for one position of one epoch.

    Args:
        seed: 0 to 2**64 - 1, from the recipe.
        stream: 0 to 2**64 - 1, from `stream_of`.
        epoch: 0 to 2**64 - 1.
        position: 0 to 2**64 - 1, the index within the epoch.
        attempt: 0 to 2**64 - 1, the number of earlier draws for the same position, whose samples were broken.
    """
    key = np.array([seed, stream], np.uint64)
    counter = np.array([0, attempt, position, epoch], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))


def permutation(seed: int, stream: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order in which an epoch visits `count` samples: (count,) int64, a permutation of 0 to count - 1."""
    return draws(seed, stream, epoch, 0).permutation(count)


def windowed_permutation(
    seed: int, stream: int, epoch: int, shard_counts: Sequence[int], window: int
) -> NDArray[np.int64]:
    """Return an epoch's order that never needs more than `window` shards at once, for remote shards.

    The shards are permuted and cut into runs of `window`; the samples of each run are permuted among themselves.

    Args:
        seed: as for `draws`.
        stream: as for `draws`.
        epoch: as for `draws`.
        shard_counts: number of samples of each shard.
        window: number of shards that are shuffled together, at least 1.

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
