"""Image-text pairs: sources, tar shards, mixtures of shards, the order of training, and batches.

    detect.py         what kind of data a path is
    inputs.py         the stream of images in directories, tables, shards and videos
    walk.py           image files in directories
    video.py          frames of videos
    tables.py         rows of tables
    columns.py        the choice of the columns of a table
    delimited.py      CSV, TSV and Flickr's caption files
    parquet.py        Parquet files with a bound on memory
    thrift.py         the footers and page headers of Parquet files
    file_listing.py   the files of a directory or a tar file
    class_names.py    names of classes
    entries.py        records, and the rows that describe the same image
    coco.py           COCO's annotation files
    locate.py         the images that a table names
    layouts.py        where the texts of a directory's images are
    records.py        open_source: what `wordsight shards` reads, with the texts of each image
    pack.py           records to shards
    sample.py         a sample, and the error for one that is broken
    tar.py            the members of a tar file
    index.py          the location of each sample in a shard
    manifest.py       the names, hashes and counts of a directory of shards
    remote.py         shards on a web server
    shard_reader.py   open_shards: shards as one sequence of samples
    shard_writer.py   samples to shards
    order.py          random numbers as a function of (seed, stream, epoch, position)
    mixture.py        several sources in one batch
    loader.py         batches
    openmoji.py       the demo's image-text pairs

The path of a sample in training: bytes in a shard -> `Sample` -> decoded and cropped image, drawn text -> `Batch`.
Only the loader needs torch, which is imported when its names are first used.
"""

from typing import TYPE_CHECKING, Any

from wordsight.data.columns import InputOptions
from wordsight.data.mixture import Mixture, MixtureSource, SourceConfig
from wordsight.data.order import draws
from wordsight.data.pack import PackOptions, PackSummary, pack, read_keys
from wordsight.data.records import open_source
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
    "InputOptions",
    "Loader",
    "Mixture",
    "MixtureSource",
    "PackOptions",
    "PackSummary",
    "Sample",
    "ShardSet",
    "ShardWriter",
    "SourceConfig",
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
