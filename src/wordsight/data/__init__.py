"""Pairs to batches: tar shards, what they are made from, mixtures, the order of training, and the loader.

    sample.py    one pair, and the ways in which it can be broken
    tar.py       the members of a tar file
    index.py     where the samples of a shard lie
    remote.py    shards on a web server
    reader.py    open_shards: shards as one sequence
    manifest.py  what a directory of shards says about itself
    shards.py    writing them
    trees.py, tables.py, labels.py, sources.py, pack.py    what `wordsight shards` reads, and how it packs it
    order.py     random numbers as a function of (seed, epoch, position)
    mixture.py   several shard sets in one batch
    loader.py    batches

A sample on its way to training: shard bytes -> `Sample` -> decoded, cropped, drawn text -> `Batch`. Only the loader
needs torch; it is imported when its names are first used.
"""

from typing import TYPE_CHECKING, Any

from wordsight.data.mixture import Mixture, MixtureSource, SourceConfig
from wordsight.data.order import draws
from wordsight.data.pack import PackOptions, PackSummary, pack, read_keys
from wordsight.data.records import SourceOptions, open_source
from wordsight.data.sample import BrokenSample, BrokenSampleError, Sample
from wordsight.data.shard_reader import ShardSet, open_shards
from wordsight.data.shard_writer import ShardWriter, writing_shards

if TYPE_CHECKING:
    from wordsight.data.loader import Batch, BatchPlan, Loader

__all__ = [
    "Batch",
    "BatchPlan",
    "BrokenSample",
    "BrokenSampleError",
    "Loader",
    "Mixture",
    "MixtureSource",
    "PackOptions",
    "PackSummary",
    "Sample",
    "ShardSet",
    "ShardWriter",
    "SourceConfig",
    "SourceOptions",
    "draws",
    "open_shards",
    "open_source",
    "pack",
    "read_keys",
    "writing_shards",
]


def __getattr__(name: str) -> Any:
    if name in ("Batch", "BatchPlan", "Loader"):
        from wordsight.data import loader

        return getattr(loader, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
