"""Several shard sets in one batch, each with its share of the places.

The shares are constant: every global batch has the same number of places for each source, by largest remainders of
weight times batch size (Hamilton's method), the source that stands first winning ties. A source's places lie side by
side, sources in the order of the recipe. Each source walks through its own epochs: place k of its c places of step s is
its position p = s * c + k, which is place p mod n of epoch p div n, n being its number of samples.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wordsight.config import Config
from wordsight.data.order import Purpose, permutation, stream_of, windowed_permutation
from wordsight.data.shard_reader import ShardSet
from wordsight.errors import ConfigError
from wordsight.image import Augmentation

SLOT = "{}"


class SourceConfig(Config, frozen=True):
    """One source of a mixture, as a recipe tells it.

    Attributes:
        shards: path or address, or several, as for `open_shards`; a name may be one below a directory of data.
        weight: its share of the batch is weight over the sum of weights.
        templates: of texts, each with one `{}` for the caption or the label's name; empty for the bare text.
        augmentation: how crops of its images are drawn; where it does not say, as the recipe does.
        word_dropout: with which probability each word of a text is left out; at least one stays.
    """

    shards: str | tuple[str, ...]
    weight: float = 1.0
    templates: tuple[str, ...] = ()
    augmentation: Augmentation | None = None
    word_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ConfigError(f"{self.shards}: weight {self.weight}: expected a number above 0")
        for template in self.templates:
            if template.count(SLOT) != 1:
                raise ConfigError(f"{self.shards}: template {template!r}: expected one {{}} where the name goes")


class MixtureSource(msgspec.Struct, frozen=True):
    """A source that is open, and what of its `SourceConfig` decides what is seen of it."""

    shards: ShardSet
    weight: float = 1.0
    templates: tuple[str, ...] = ()
    augmentation: Augmentation | None = None
    word_dropout: float = 0.0


class Mixture:
    """Open sources in their order.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[MixtureSource]) -> None:
        if not sources:
            raise ConfigError("a mixture without sources; name at least one set of shards")
        self.sources = tuple(sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the sources' data and all that is said of them."""
        parts = [(s.shards.fingerprint, s.weight, s.templates, s.augmentation, s.word_dropout) for s in self.sources]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def slots(self, batch_size: int) -> tuple[int, ...]:
        """How many places of every global batch belong to each source; they add up to `batch_size`.

        Raises:
            ConfigError: a source would get none.
        """
        total = sum(source.weight for source in self.sources)
        quotas = [batch_size * source.weight / total for source in self.sources]
        counts = [math.floor(quota) for quota in quotas]
        by_remainder = sorted(range(len(quotas)), key=lambda source: counts[source] - quotas[source])
        for number in by_remainder[: batch_size - sum(counts)]:
            counts[number] += 1
        for count, source in zip(counts, self.sources, strict=True):
            if not count:
                name = source.shards.shards[0].name
                raise ConfigError(
                    f"{name}: weight {source.weight} of {total} gives no place in a batch of {batch_size}; "
                    "raise its weight or the batch size"
                )
        return tuple(counts)


class SourceOrder:
    """The order in which one source of a mixture is visited, epoch after epoch.

    Args:
        shards: the source's samples.
        seed: of the run.
        source: its number in the mixture.
    """

    def __init__(self, shards: ShardSet, seed: int, source: int) -> None:
        self._shards = shards
        self._seed = seed
        self._stream = stream_of(Purpose.ORDER, source)
        self._epoch = functools.lru_cache(maxsize=2)(self._order_of)

    def sample_at(self, position: int) -> int:
        """The number of the sample at a position, counted from the start of training."""
        epoch, place = divmod(position, len(self._shards))
        return int(self._epoch(epoch)[place])

    def _order_of(self, epoch: int) -> NDArray[np.int64]:
        if self._shards.window is None:
            return permutation(self._seed, self._stream, epoch, len(self._shards))
        return windowed_permutation(self._seed, self._stream, epoch, self._shards.counts, self._shards.window)
