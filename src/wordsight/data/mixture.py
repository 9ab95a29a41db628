"""A mixture of several sources (sets of shards), each of which fills a constant number of slots of every batch.

The slots of a global batch are divided by the largest remainders of weight times batch size (Hamilton's method); the
earlier source wins ties. The slots of a source are contiguous, and sources are in the order of the recipe. Each source
has its own epochs: of its c slots, slot k of step s is position p = s * c + k of the source, which is index p mod n of
epoch p div n, where n is the source's number of samples.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from wordsight.config import Config
from wordsight.data.order import Purpose, permutation, stream_of, windowed_permutation
from wordsight.data.sample import Sample, Texts
from wordsight.data.shard_reader import ShardSet
from wordsight.errors import ConfigError
from wordsight.image import Augmentation

SLOT = "{}"
"""The slot of a template, which the caption or the name of the label replaces."""

MAX_WEIGHT = 1e12
"""Weights are shares or numbers of samples; larger ones could overflow when they are added."""


class SourceConfig(Config, frozen=True):
    """One source of a mixture, as configured in a recipe.

    Attributes:
        shards: one or several paths or addresses, as for `open_shards`; a name can be relative to a `--data` directory.
        weight: the source's share of a batch is its weight divided by the sum of all weights.
        templates: templates for the texts, each with one `{}` for the caption or the name of the label; without any,
            texts are used unchanged.
        augmentation: augmentation of the source's images; by default that of the recipe.
        word_dropout: probability of leaving out each word of a text; at least one word is kept.
        texts: which texts of an image that has both are used: `captions`, or the `names` of its label. An image that
            has only one of the two is used with that.
    """

    shards: str | tuple[str, ...]
    weight: float = 1.0
    templates: tuple[str, ...] = ()
    augmentation: Augmentation | None = None
    word_dropout: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    texts: Literal["captions", "names"] = "captions"

    def __post_init__(self) -> None:
        if not 0 < self.weight <= MAX_WEIGHT:
            raise ConfigError(f"{self.shards}: weight {self.weight}: expected a number above 0, at most {MAX_WEIGHT:g}")
        for template in self.templates:
            if template.count(SLOT) != 1:
                raise ConfigError(f"{self.shards}: template {template!r}: expected one {{}} where the name goes")


class MixtureSource(msgspec.Struct, frozen=True):
    """The open shards of a source, and the settings of its `SourceConfig`."""

    shards: ShardSet
    weight: float = 1.0
    templates: tuple[str, ...] = ()
    augmentation: Augmentation | None = None
    word_dropout: float = 0.0
    texts: Literal["captions", "names"] = "captions"

    def uses_names(self, sample: Sample | Texts) -> bool:
        """Return whether the names of a sample's label are used, and not its captions."""
        return bool(sample.names) and (self.texts == "names" or not sample.captions)

    def texts_of(self, sample: Sample | Texts) -> tuple[str, ...]:
        """Return the texts of a sample that are used."""
        return sample.names if self.uses_names(sample) else sample.captions


class Mixture:
    """The open sources of a training run, in order.

    Args:
        sources: at least one.
    """

    def __init__(self, sources: Sequence[MixtureSource]) -> None:
        if not sources:
            raise ConfigError("a mixture without sources; expected at least one set of shards")
        self.sources = tuple(sources)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the data and the settings of all sources."""
        parts = [
            (s.shards.fingerprint, s.weight, s.templates, s.augmentation, s.word_dropout)
            + ((s.texts,) if s.texts != "captions" else ())  # older runs have no such key
            for s in self.sources
        ]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def slots(self, batch_size: int) -> tuple[int, ...]:
        """Return the number of slots of each source in every global batch; the sum is `batch_size`.

        Raises:
            ConfigError: a source would get no slot.
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
                    f"{name}: weight {source.weight} of {total} gives no slot in a batch of {batch_size}; "
                    "raise its weight or the batch size"
                )
        return tuple(counts)


class SourceOrder:
    """The order in which the samples of one source are used, epoch after epoch.

    Args:
        shards: samples of the source.
        seed: seed of the run.
        source: index of the source in the mixture.
    """

    def __init__(self, shards: ShardSet, seed: int, source: int) -> None:
        self._shards = shards
        self._seed = seed
        self._stream = stream_of(Purpose.ORDER, source)
        self._order_of = functools.lru_cache(maxsize=2)(self._shuffle)

    def sample_at(self, position: int) -> int:
        """Return the number of the sample at a position, counted from the start of training."""
        epoch, index = divmod(position, len(self._shards))
        return int(self._order_of(epoch)[index])

    def _shuffle(self, epoch: int) -> NDArray[np.int64]:
        if self._shards.window is None:
            return permutation(self._seed, self._stream, epoch, len(self._shards))
        return windowed_permutation(self._seed, self._stream, epoch, self._shards.counts, self._shards.window)
