"""The manifest of a directory of shards: the name, hash, size and number of samples of each, in `manifest.json`.

Other programs write files of this name too. A file that is not our manifest is therefore not an error but None, which
is why it is not read with `wordsight.files.read_json`.
"""

from pathlib import Path
from typing import Literal

import msgspec

from wordsight.errors import DataError

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 28


class ManifestShard(msgspec.Struct, frozen=True):
    """One shard.

    Attributes:
        name: file name.
        sha256: of the file, in lower-case hexadecimal.
        samples: number of samples.
        bytes: size of the file.
    """

    name: str
    sha256: str
    samples: int
    bytes: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A directory of shards; equal samples make equal manifests.

    Attributes:
        format: identifies our manifests.
        samples: number of samples in all shards.
        skipped: number of images that could not be packed.
        shards: in order.
    """

    format: Literal["wordsight-shards-1"]
    samples: int
    skipped: int
    shards: tuple[ManifestShard, ...]

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
