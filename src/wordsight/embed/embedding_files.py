"""Files of embeddings: the embeddings, the fingerprint of the encoder that computed them, and the unreadable images.

`OUT.parquet` has one row per image, with the columns `path`, `sha256` (of the image file), `embedding` (null for an
unreadable image) and `error`. The schema metadata holds the fingerprint as JSON, under `wordsight.fingerprint`.

`OUT.npy` holds the embeddings of the readable images, (N, E) float32. Next to it, the sidecar `OUT.npy.json` holds the
fingerprint, the path and the hash of each row, the unreadable images with reasons, and the hash of `OUT.npy`.

Either output appears complete or not at all.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wordsight.config import Config, decode
from wordsight.data.video import FRAME_MARK
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.errors import ConfigError, DataError
from wordsight.files import check_writable, open_atomic, read_json, sha256_file

FINGERPRINT_KEY = b"wordsight.fingerprint"

_ROWS_PER_GROUP = 4096
_MAX_SIDECAR_BYTES = 1 << 32
_MAX_REASON_CHARACTERS = 200


class EmbeddingRow(NamedTuple):
    """One image in a file of embeddings.

    Attributes:
        path: name of the image; see `ImageRef.name`.
        sha256: of the image file; of the video file for a frame; empty for a file that cannot be read.
        embedding: (E,) float32, unit length; None for an unreadable image.
        error: why the image is unreadable, otherwise empty.
        is_new: whether the embedding was computed in this run.
    """

    path: str
    sha256: str
    embedding: NDArray[np.float32] | None
    error: str = ""
    is_new: bool = False


class UnreadableImage(Config, frozen=True):
    """An image without an embedding, and the reason."""

    path: str
    reason: str


class Sidecar(Config, frozen=True):
    """Contents of `OUT.npy.json`.

    Attributes:
        fingerprint: of the encoder.
        embeddings_sha256: hash of `OUT.npy`.
        paths: name of the image of each row.
        sha256: hash of the image file of each row.
        unreadable: images without an embedding, in the order of the input.
        format: name and version of this format.
    """

    fingerprint: Fingerprint
    embeddings_sha256: str
    paths: list[str]
    sha256: list[str]
    unreadable: list[UnreadableImage]
    format: str = "wordsight-embeddings-1"


class PreviousEmbeddings:
    """Embeddings of earlier runs, identified by the hash of the image file and, for a video frame, its time.

    An image that was moved or renamed keeps its embedding; one whose contents changed does not.
    """

    def __init__(self) -> None:
        self._rows: dict[str, tuple[NDArray[np.float32], int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, path: str, sha256: str) -> NDArray[np.float32] | None:
        """Return the embedding of an image, (E,) float32, or None."""
        embeddings_NE, row = self._rows.get(_identity(path, sha256), (None, 0))
        return None if embeddings_NE is None else embeddings_NE[row]

    def add(self, embeddings_NE: NDArray[np.float32], paths: Iterable[str], sha256: Iterable[str]) -> None:
        """Add (N, E) float32 embeddings with the path and the hash of each."""
        for row, (path, digest) in enumerate(zip(paths, sha256, strict=True)):
            self._rows[_identity(path, digest)] = embeddings_NE, row

    def update(self, other: "PreviousEmbeddings") -> None:
        """Add all embeddings of another collection; they replace equal images."""
        self._rows.update(other._rows)


def _identity(path: str, sha256: str) -> str:
    return sha256 + path[path.rindex(FRAME_MARK) :] if FRAME_MARK in path else sha256


def check_output_path(out: Path) -> None:
    """Refuse an unsupported or unwritable output path before any work is done.

    Raises:
        ConfigError: the name ends neither in .parquet nor in .npy.
        OutputError: the path is not writable.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"{out}: unsupported type of file; expected a name that ends in .parquet or .npy")
    check_writable(out)


def sidecar_path(out: Path) -> Path:
    """Return the path of the JSON file next to a NumPy file."""
    return out.with_name(f"{out.name}.json")


def read_embeddings(path: Path, fingerprint: Fingerprint) -> PreviousEmbeddings:
    """Read the embeddings of a file that was written by an encoder with the same fingerprint.

    Raises:
        DataError: not a file of embeddings, or the fingerprint differs; the message names both fingerprints.
    """
    try:
        stored, previous = _read_parquet(path) if path.suffix == ".parquet" else _read_numpy(path)
    except (OSError, ValueError, KeyError, ConfigError, pa.ArrowException, msgspec.DecodeError) as error:
        reason = " ".join(str(error).split())[:_MAX_REASON_CHARACTERS]
        raise DataError(f"{path}: exists and is not a file of embeddings ({reason}); choose another path") from error
    if stored != fingerprint:
        raise DataError(
            f"{path}: holds embeddings of {stored}, but this model is {fingerprint}; "
            "choose another path, or the model that wrote the file"
        )
    return previous


def _read_parquet(path: Path) -> tuple[Fingerprint, PreviousEmbeddings]:
    previous = PreviousEmbeddings()
    with pq.ParquetFile(path) as file:
        stored = msgspec.json.decode((file.schema_arrow.metadata or {})[FINGERPRINT_KEY])
        fingerprint = decode(stored, Fingerprint, str(path))
        for batch in file.iter_batches(_ROWS_PER_GROUP, columns=["path", "sha256", "embedding"]):
            readable = batch.filter(batch["embedding"].is_valid())
            embeddings_NE = readable["embedding"].flatten().to_numpy().reshape(-1, fingerprint.model.embed_dim)
            previous.add(embeddings_NE, readable["path"].to_pylist(), readable["sha256"].to_pylist())
    return fingerprint, previous


def _read_numpy(path: Path) -> tuple[Fingerprint, PreviousEmbeddings]:
    json_path = sidecar_path(path)
    sidecar = decode(read_json(json_path, _MAX_SIDECAR_BYTES, ConfigError), Sidecar, str(json_path))
    embeddings_NE = np.load(path, mmap_mode="r", allow_pickle=False)
    if embeddings_NE.dtype != np.float32 or embeddings_NE.ndim != 2 or len(embeddings_NE) != len(sidecar.sha256):
        raise ValueError(f"{embeddings_NE.dtype} array of shape {embeddings_NE.shape} does not match its sidecar")
    previous = PreviousEmbeddings()
    previous.add(embeddings_NE, sidecar.paths, sidecar.sha256)
    return sidecar.fingerprint, previous


def write_parquet(file: BinaryIO, rows: Iterator[EmbeddingRow], fingerprint: Fingerprint) -> None:
    """Write a stream of rows; a few thousand are held in memory.

    The type of the embeddings is a list of variable length, because pyarrow up to version 25 cannot read lists of fixed
    length of which some are null.
    """
    columns = [("path", pa.string()), ("sha256", pa.string())]
    columns += [("embedding", pa.list_(pa.float32())), ("error", pa.string())]
    schema = pa.schema(columns, metadata={FINGERPRINT_KEY: msgspec.json.encode(fingerprint)})
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_PER_GROUP)):
            arrays = [
                pa.array([row.path for row in group], pa.string()),
                pa.array([row.sha256 or None for row in group], pa.string()),
                pa.array([row.embedding for row in group], schema.field("embedding").type),
                pa.array([row.error or None for row in group], pa.string()),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


@contextmanager
def open_numpy(out: Path, fingerprint: Fingerprint) -> Iterator["NumpyWriter"]:
    """Open a NumPy file of embeddings for writing; file and sidecar appear if the block succeeds."""
    with open_atomic(sidecar_path(out)) as sidecar_file:
        with open_atomic(out) as file:
            writer = NumpyWriter(file, fingerprint.model.embed_dim)
            yield writer
        sidecar = Sidecar(fingerprint, sha256_file(out), writer.paths, writer.sha256, writer.unreadable)
        sidecar_file.write(msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n")


class NumpyWriter:
    """Writes embeddings to a NumPy file, and collects what belongs into its sidecar."""

    def __init__(self, file: BinaryIO, embed_dim: int) -> None:
        self.paths: list[str] = []
        self.sha256: list[str] = []
        self.unreadable: list[UnreadableImage] = []
        self._file = file
        self._embed_dim = embed_dim

    def write(self, rows: Iterable[EmbeddingRow]) -> None:
        """Write a stream of rows.

        The header, which precedes the embeddings, states their number. It is written first to reserve its space, and
        again at the end; NumPy pads headers so that the number can grow.
        """
        self._write_header()
        start = self._file.tell()
        for row in rows:
            if row.embedding is None:
                self.unreadable.append(UnreadableImage(row.path, row.error))
                continue
            self._file.write(row.embedding.astype("<f4").tobytes())
            self.paths.append(row.path)
            self.sha256.append(row.sha256)
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == start

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.paths), self._embed_dim)}
        np.lib.format.write_array_header_1_0(self._file, header)
