"""The cache: one directory for everything that can be downloaded or computed again, and one offline switch.

    weights/       downloaded checkpoints; digests/ stores their hashes, hub/ repositories of the Hugging Face hub
    shards/        downloaded shards
    indexes/       shard indexes that could not be written next to their shard; digests/ stores hashes of shards
    onnx/, int8/   models exported for ONNX Runtime
    classifiers/   weights of large zero-shot classifiers
    embeddings/    embeddings of directories in which `wordsight find` has searched
    timings/       measured speed of the runtimes on this machine

Deleting any of it only costs time. Environment variables are read when a function is called, never on import.
"""

import contextlib
import hashlib
import os
import re
import shutil
import stat
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from wordsight.errors import OutputError, WordsightError, encodable
from wordsight.files import read_limited, sha256_file, write_atomic

CacheKind = Literal["weights", "shards", "indexes", "onnx", "int8", "classifiers", "embeddings", "timings"]
CACHE_KINDS: tuple[CacheKind, ...] = get_args(CacheKind)

_MAX_DIGEST_BYTES = 1 << 16  # a path of 4,096 bytes, the longest, with every byte escaped
_MAX_HASHED_AGAIN_BYTES = 1 << 26  # hashing 64 MiB takes 0.1 s, about as long as reading and writing a stored hash
_SHA256 = re.compile("[0-9a-f]{64}")
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
        with contextlib.suppress(FileNotFoundError):  # deleted by another process
            shutil.rmtree(usage.path)
    except OSError as error:
        raise OutputError(
            f"{usage.path}: cannot be deleted: {error.strerror or error}; check its permissions"
        ) from error
    return usage


def _usage(kind: CacheKind) -> CacheUsage:
    path = cache_directory(kind)
    sizes = []
    for directory, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted by another process since it was listed
                sizes.append((Path(directory) / name).lstat().st_size)
    return CacheUsage(kind, path, len(sizes), sum(sizes))


class _Digest(msgspec.Struct, frozen=True):
    """A stored hash and the state of the file when it was computed.

    `changed_ns` includes the time of the last status change, which reveals a changed file even if its modification time
    was set back.
    """

    path: str
    size_bytes: int
    changed_ns: tuple[int, int]
    sha256: str


def remembered_sha256(path: Path, directory: Path, error_class: type[WordsightError]) -> str:
    """Return the SHA-256 of a file; if it was hashed before and has not changed, the stored hash is returned.

    Args:
        path: a regular file.
        directory: where hashes are stored; if it is not writable, nothing is stored.
        error_class: see below.

    Raises:
        error_class: the file cannot be read.
    """
    resolved = Path(os.path.realpath(path))
    name = hashlib.sha256(str(resolved).encode("utf-8", "surrogatepass")).hexdigest()
    stored_path = directory / f"{name}.json"
    try:
        status = resolved.stat()
        if not stat.S_ISREG(status.st_mode):
            raise error_class(f"{path}: cannot be read: not a regular file; check the path")
        state = (encodable(resolved), status.st_size, (status.st_mtime_ns, status.st_ctime_ns))
        if sha256 := _stored_sha256(stored_path, state):
            return sha256
        sha256 = sha256_file(resolved)
    except OSError as error:
        raise error_class(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    with contextlib.suppress(OutputError):  # without a stored hash the file is only hashed again next time
        write_atomic(stored_path, msgspec.json.encode(_Digest(*state, sha256)))
    return sha256


def require_sha256(path: Path, stated_sha256: str, kind: CacheKind, error_class: type[WordsightError]) -> None:
    """Compare a file with the hash that its description states; an empty one, of an older version, is not compared.

    The hash of a large file is computed once and remembered.

    Args:
        path: a regular file.
        stated_sha256: in lower-case hexadecimal.
        kind: the kind of cache entry with which the hash is stored.
        error_class: see below.

    Raises:
        error_class: the file cannot be read, or has another hash.
    """
    if not stated_sha256:
        return
    is_small = path.is_file() and path.stat().st_size <= _MAX_HASHED_AGAIN_BYTES
    sha256 = sha256_file(path) if is_small else remembered_sha256(path, cache_directory(kind) / "digests", error_class)
    if sha256 != stated_sha256:
        raise error_class(
            f"{path}: damaged or replaced: its SHA-256 is {sha256[:12]}..., but the file that describes it states "
            f"{stated_sha256[:12]}...; restore it, or write both again"
        )


def _stored_sha256(stored_path: Path, state: tuple[str, int, tuple[int, int]]) -> str:
    """Return the stored hash of a file; empty if there is none or the file has changed."""
    try:
        content = read_limited(stored_path, _MAX_DIGEST_BYTES, OutputError)
        digest = msgspec.json.decode(content, type=_Digest)
    except (OutputError, msgspec.DecodeError, UnicodeDecodeError):
        return ""
    is_valid = (digest.path, digest.size_bytes, digest.changed_ns) == state and _SHA256.fullmatch(digest.sha256)
    return digest.sha256 if is_valid else ""
