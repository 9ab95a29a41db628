"""What a directory of shards says about itself: names, hashes and counts, in `manifest.json`."""

from pathlib import Path
from typing import Literal

import msgspec

from wordsight.errors import DataError

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 28


class ManifestShard(msgspec.Struct, frozen=True):
    """One shard: file name, SHA-256 in hexadecimal, number of samples, size in bytes."""

    name: str
    sha256: str
    samples: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of shards; equal samples give equal manifests."""

    format: Literal["wordsight-shards-1"]
    samples: int
    skipped: int
    shards: tuple[ManifestShard, ...]

    def to_bytes(self) -> bytes:
        """As the JSON file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def parse_manifest(content: bytes) -> Manifest | None:
    """A manifest from JSON, or None where it is something else of that name."""
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def read_manifest(path: Path) -> Manifest | None:
    """The manifest in a file; None where there is no file, or another program's.

    Raises:
        DataError: the file is there and cannot be read.
    """
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            return None
        return parse_manifest(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
