"""The cache: one directory for everything that can be downloaded or computed again, and one offline switch.

    weights/       downloaded checkpoints; digests/ stores their hashes, hub/ repositories of the Hugging Face hub
    shards/        downloaded shards
    indexes/       shard indexes that could not be written next to their shard
    onnx/, int8/   models exported for ONNX Runtime
    classifiers/   weights of large zero-shot classifiers
    timings/       measured speed of the runtimes on this machine

Deleting any of it only costs time. Environment variables are read when a function is called, never on import.
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
    """The disk usage of one kind of cache entry.

    Attributes:
        kind: one of `CACHE_KINDS`.
        path: its directory, which need not exist.
        num_files: the number of files in it.
        num_bytes: their total size.
    """

    kind: CacheKind
    path: Path
    num_files: int
    num_bytes: int


def cache_directory(kind: CacheKind | None = None) -> Path:
    """Return the cache directory, or its subdirectory for one kind of entry; it need not exist.

    It is `$WORDSIGHT_CACHE` if that variable is set, otherwise `$XDG_CACHE_HOME/wordsight`, and by default
    `~/.cache/wordsight`.
    """
    if root := os.environ.get("WORDSIGHT_CACHE"):
        directory = Path(root).expanduser()
    else:
        caches = os.environ.get("XDG_CACHE_HOME")
        directory = (Path(caches) if caches else Path.home() / ".cache") / "wordsight"
    return directory if kind is None else directory / kind


def is_offline() -> bool:
    """Return whether `WORDSIGHT_OFFLINE` or `HF_HUB_OFFLINE` forbids network access.

    The values 1, on, yes and true (in any case) count as set; all others do not.
    """
    return any(os.environ.get(name, "").strip().casefold() in _TRUE for name in ("WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE"))


def cache_usage() -> list[CacheUsage]:
    """Return the disk usage of every kind of cache entry, in the order of `CACHE_KINDS`."""
    return [_usage(kind) for kind in CACHE_KINDS]


def clear_cache(kind: CacheKind) -> CacheUsage:
    """Delete all cache entries of one kind and return the disk usage that they had.

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
