"""Files of embeddings: what they contain, and where their parts are.

`OUT.parquet` has one row per image that could be read, with the columns `path`, `sha256` (of the image file) and
`embedding`, a list of fixed size, followed by the columns that came with the images (`table_columns.py`). The schema
metadata holds the fingerprint as JSON, under `wordsight.fingerprint`, and the version of the format, under
`wordsight.format`. The file's metadata holds the hash of the rows, under `wordsight.rows_sha256`, which another program
that writes the file again does not keep.

`OUT.unreadable.jsonl` lists the other images with the reasons; it is missing if there are none. The metadata of
`OUT.parquet` states its hash, under `wordsight.unreadable_sha256`. On request, these images are rows of `OUT.parquet`
instead, with a null as `embedding` and the reason in `error`.

`OUT.npy` holds the embeddings, (N, E) float32. Next to it, the sidecar `OUT.npy.json` holds the fingerprint, the path,
the hash and the columns of each row, the unreadable images with reasons, and the hash of `OUT.npy`.

Each output appears complete or not at all, and the hashes are compared when it is read. Whatever a hash does not cover,
because an older version wrote the file, is compared with what every embedding has: finite values, unit length.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import field
from numpy.typing import NDArray

from wordsight.config import Config, decode
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.errors import ConfigError, OutputError, WordsightError
from wordsight.files import check_writable, open_regular, read_json
from wordsight.temporary import hidden_path

FINGERPRINT_KEY = b"wordsight.fingerprint"
FORMAT_KEY = b"wordsight.format"
FORMAT = b"wordsight-embeddings-3"
"""Files without this key, of version 1, state no hash of their rows. Those of version 2 have a row for each unreadable
image, and embeddings of variable length."""

ROWS_KEY = b"wordsight.rows_sha256"
UNREADABLE_KEY = b"wordsight.unreadable_sha256"

_MAX_SIDECAR_BYTES = 1 << 32
_MAX_LINE_BYTES = 1 << 26


class EmbeddingRow(NamedTuple):
    """One image in a file of embeddings.

    Attributes:
        path: name of the image; see `ImageRef.name`.
        sha256: of the image file; of the video file for a frame; empty for a file that cannot be read.
        embedding: (E,) float32, unit length; None for an unreadable image.
        error: why the image is unreadable, otherwise empty.
        is_new: whether the embedding was computed in this run.
        columns: what came with the image; see `table_columns.carried_columns`.
    """

    path: str
    sha256: str
    embedding: NDArray[np.float32] | None
    error: str = ""
    is_new: bool = False
    columns: Mapping[str, Any] = {}


class UnreadableImage(Config, frozen=True, omit_defaults=True):
    """An image without an embedding.

    Attributes:
        path: name of the image.
        reason: why it is unreadable.
        columns: what came with the image.
    """

    path: str
    reason: str
    columns: dict[str, Any] = field(default_factory=dict)


class Sidecar(Config, frozen=True):
    """Contents of `OUT.npy.json`.

    Attributes:
        fingerprint: of the encoder.
        embeddings_sha256: hash of `OUT.npy`.
        paths: name of the image of each row.
        sha256: hash of the image file of each row.
        unreadable: images without an embedding, in the order of the input.
        rows_sha256: hash of `paths` and `sha256`; empty in files of versions that did not write it.
        format: name and version of this format.
        columns: value of each row by name of the column; null where an image came without it.
    """

    fingerprint: Fingerprint
    embeddings_sha256: str
    paths: list[str]
    sha256: list[str]
    unreadable: list[UnreadableImage]
    rows_sha256: str = ""
    format: str = "wordsight-embeddings-2"
    columns: dict[str, list[Any]] = field(default_factory=dict)


class RowsHash:
    """The hash of a stream of rows, independent of how they are grouped."""

    def __init__(self) -> None:
        self._images, self._embeddings = hashlib.sha256(), hashlib.sha256()

    def update(self, paths: Iterable[str], sha256: Iterable[str | None], embeddings: NDArray[np.float32]) -> None:
        """Add rows; `embeddings` are those of the readable images."""
        self._images.update(b"".join(map(msgspec.msgpack.encode, zip(paths, sha256, strict=True))))
        self._embeddings.update(np.ascontiguousarray(embeddings).data)

    def digest(self) -> bytes:
        """Return the hash in hexadecimal."""
        return hashlib.sha256(self._images.digest() + self._embeddings.digest()).hexdigest().encode()


def sidecar_rows_sha256(paths: list[str], sha256: list[str]) -> str:
    """Return the hash that a sidecar states."""
    return hashlib.sha256(msgspec.msgpack.encode((paths, sha256))).hexdigest()


def parts_directory(out: Path) -> Path:
    """Return the hidden directory in which an interrupted run keeps its work."""
    return hidden_path(out, "parts")


def sidecar_path(out: Path) -> Path:
    """Return the path of the JSON file next to a NumPy file."""
    return out.with_name(f"{out.name}.json")


def unreadable_path(out: Path) -> Path:
    """Return the path of the list of unreadable images next to a Parquet file."""
    return out.with_suffix(".unreadable.jsonl")


def second_path(out: Path) -> Path:
    """Return the path of the file next to a file of embeddings, which lists the unreadable images."""
    return sidecar_path(out) if out.suffix == ".npy" else unreadable_path(out)


def read_sidecar(path: Path) -> Sidecar:
    """Read the sidecar of a NumPy file; raises ConfigError if it is not one."""
    return decode(read_json(path, _MAX_SIDECAR_BYTES, ConfigError), Sidecar, str(path))


def check_output_path(out: Path, keep_unreadable: bool = False) -> None:
    """Refuse an unsupported or unwritable output path before any work is done.

    Raises:
        ConfigError: the name ends neither in .parquet nor in .npy, or a NumPy file would need rows without embeddings.
        OutputError: the path is not writable, or a file of another program is in the way.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"{out}: unsupported type of file; expected a name that ends in .parquet or .npy")
    if out.suffix == ".npy" and keep_unreadable:
        raise ConfigError(
            f"{out}: a NumPy file has no rows without embeddings; drop --keep-unreadable ({sidecar_path(out).name} "
            "lists unreadable images), or write a .parquet file"
        )
    second = second_path(out)
    check_writable(out)
    check_writable(second)
    try:
        if out.suffix == ".npy" and second.exists() and not out.exists():
            read_sidecar(second)
        elif out.suffix == ".parquet" and second.exists():
            _check_unreadable_list(second)
    except WordsightError as error:
        raise OutputError(f"{error}; it would be replaced: choose another output path") from error


def _check_unreadable_list(path: Path) -> None:
    """Require that the first line of a file is that of a list of unreadable images."""
    with open_regular(path) as file:
        line = file.readline(_MAX_LINE_BYTES)
    try:
        decode(msgspec.json.decode(line), UnreadableImage, str(path))
    except (msgspec.DecodeError, ValueError) as error:
        raise ConfigError(f"{path}: not a list of unreadable images: {error}") from error
