"""The cache: one directory for everything that can be fetched or computed again, and one offline switch.

    weights/       downloaded checkpoints; digests/ remembers their hashes
    shards/        downloaded shards
    indexes/       shard indexes that could not be written next to their shard
    onnx/, int8/   models exported for ONNX Runtime
    classifiers/   text embeddings of large zero-shot classifiers
    timings/       which runtime was faster on this machine

Deleting any of it costs time, nothing else. The environment is read when a function is called, never on import.
"""

import os
import shutil
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from wordsight.errors import OutputError

CacheKind = Literal["weights", "shards", "indexes", "onnx", "int8", "classifiers", "timings"]
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)

_TRUE = ("1", "on", "yes", "true")


class CacheUsage(NamedTuple):
    """What one kind of cache entry occupies: number of files and their total size in bytes."""

    kind: CacheKind
    path: Path
    num_files: int
    num_bytes: int


def cache_directory(kind: CacheKind | None = None) -> Path:
    """The cache directory, or the part of it that holds one kind of entry.

    `WORDSIGHT_CACHE` names the directory; otherwise it is `$XDG_CACHE_HOME/wordsight`, or `~/.cache/wordsight`.
    """
    if root := os.environ.get("WORDSIGHT_CACHE"):
        directory = Path(root).expanduser()
    else:
        caches = os.environ.get("XDG_CACHE_HOME")
        directory = (Path(caches) if caches else Path.home() / ".cache") / "wordsight"
    return directory if kind is None else directory / kind


def is_offline() -> bool:
    """Whether `WORDSIGHT_OFFLINE` or `HF_HUB_OFFLINE` forbids the use of the network."""
    return any(os.environ.get(name, "").strip().casefold() in _TRUE for name in ("WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE"))


def cache_usage() -> list[CacheUsage]:
    """The size of each kind of cache entry; kinds that hold nothing are included with zeros."""
    return [_usage(kind) for kind in CACHE_KINDS]


def clear_cache(kind: CacheKind) -> CacheUsage:
    """Delete all entries of one kind and return what they occupied.

    Raises:
        OutputError: an entry cannot be deleted.
    """
    usage = _usage(kind)
    try:
        if usage.path.exists():
            shutil.rmtree(usage.path)
    except OSError as error:
        raise OutputError(
            f"{usage.path}: cannot be deleted: {error.strerror or error}; check its permissions"
        ) from error
    return usage


def _usage(kind: CacheKind) -> CacheUsage:
    path = cache_directory(kind)
    sizes = [(Path(directory) / name).lstat().st_size for directory, _, names in os.walk(path) for name in names]
    return CacheUsage(kind, path, len(sizes), sum(sizes))
