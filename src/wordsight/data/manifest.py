"""The manifest of a directory of shards: the name, hash, size and number of samples of each, in `manifest.json`.

Manifest, shards and list of skipped images are valid only together (see `wordsight.files`). Hashing every shard would
read the whole data set before training can start. Therefore a reader compares the size and a sample of the bytes of
each shard, and the full hash only of those that were changed after the manifest was written; it is remembered.

Other programs write files of this name too. A file that is not our manifest is therefore not an error but None, which
is why it is not read with `wordsight.files.read_json`.
"""

import hashlib
import os
from pathlib import Path
from typing import Literal, Self

import msgspec

from wordsight.cache import cache_directory, remembered_sha256, require_sha256
from wordsight.errors import DataError

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 28
SKIPPED_NAME = "skipped.jsonl"

_NUM_BLOCKS, _BLOCK_BYTES = 64, 1 << 14  # 1 MiB of a shard, which takes a few milliseconds


class ManifestShard(msgspec.Struct, frozen=True):
    """One shard.

    Attributes:
        name: file name.
        sha256: of the file, in lower-case hexadecimal.
        samples: number of samples.
        bytes: size of the file.
        sample_sha256: of a sample of the file; see `sample_sha256`. Empty if an older version wrote the manifest.
    """

    name: str
    sha256: str
    samples: int
    bytes: int
    sample_sha256: str = ""


class ManifestSplit(msgspec.Struct, frozen=True):
    """How a set of images was split into parts.

    Attributes:
        part: the part that these shards are.
        shares: the expected share of each part, by name.
        seed: of the draws.
    """

    part: str
    shares: dict[str, float]
    seed: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of shards; equal samples make equal manifests.

    Attributes:
        format: identifies our manifests.
        samples: number of samples in all shards.
        skipped: number of images that could not be packed.
        shards: in order.
        skipped_sha256: of the list of skipped images; empty if an older version wrote the manifest.
        split: the part of a larger set that these shards are; unset if they are a whole set.
        manifest_sha256: of all other values of this object, which reveals that it was edited.
    """

    format: Literal["wordsight-shards-1"]
    samples: int
    skipped: int
    shards: tuple[ManifestShard, ...]
    skipped_sha256: str = ""
    split: ManifestSplit | msgspec.UnsetType = msgspec.UNSET
    manifest_sha256: str = ""

    def sealed(self) -> Self:
        """Return this manifest with its hash."""
        return msgspec.structs.replace(self, manifest_sha256=self._hash())

    def is_intact(self) -> bool:
        """Return whether the manifest was not edited after it was sealed, as far as that is known."""
        return self.manifest_sha256 in ("", self._hash())

    def _hash(self) -> str:
        return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(self, manifest_sha256=""))).hexdigest()

    def to_bytes(self) -> bytes:
        """Return the content of the JSON file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def parse_manifest(content: bytes) -> Manifest | None:
    """Parse a manifest from JSON; None if it is a file of another program."""
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_manifest(path: Path) -> Manifest | None:
    """Read the manifest in a file; None if there is no such file, or it is a file of another program.

    Raises:
        DataError: the file exists and cannot be read.
    """
    try:
        if not path.is_file() or path.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        return parse_manifest(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def sample_sha256(path: Path) -> str:
    """Return the SHA-256 of blocks that are spread evenly over a file, and include its first and its last bytes.

    All bytes of a file of at most 1 MiB are covered.

    Raises:
        OSError: the file cannot be read.
    """
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        for number in range(_NUM_BLOCKS):
            file.seek(number * max(0, size - _BLOCK_BYTES) // (_NUM_BLOCKS - 1))
            digest.update(file.read(_BLOCK_BYTES))
    return digest.hexdigest()


def check_shard(path: Path, entry: ManifestShard, manifest_path: Path) -> None:
    """Check that a local shard is the one that its manifest describes.

    Raises:
        DataError: it is another one, or cannot be read.
    """
    try:
        is_changed = _changed_ns(path) > _changed_ns(manifest_path)
        is_same = not entry.sample_sha256 or sample_sha256(path) == entry.sample_sha256
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    if is_same and is_changed:
        is_same = remembered_sha256(path, cache_directory("indexes") / "digests", DataError) == entry.sha256
    if not is_same:
        raise DataError(
            f"{path}: not the shard that {MANIFEST_NAME} describes, although it has the same size; it was replaced or "
            "damaged: pack or fetch it again"
        )


def _changed_ns(path: Path) -> int:
    status = path.stat()
    return max(status.st_mtime_ns, status.st_ctime_ns)


def check_skipped(path: Path, manifest: Manifest) -> None:
    """Check that a list of skipped images, if it is there, is the one that its manifest describes.

    Raises:
        DataError: it is another one, or cannot be read.
    """
    if os.path.lexists(path):
        require_sha256(path, manifest.skipped_sha256, "indexes", DataError)
