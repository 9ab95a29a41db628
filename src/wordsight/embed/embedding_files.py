"""Files of embeddings: the embeddings, the fingerprint of the encoder that computed them, and the unreadable images.

`OUT.parquet` has one row per image, with the columns `path`, `sha256` (of the image file), `embedding` (null for an
unreadable image) and `error`. The schema metadata holds the fingerprint as JSON, under `wordsight.fingerprint`, and the
version of the format, under `wordsight.format`. The file's metadata holds the hash of the rows, under
`wordsight.rows_sha256`, which another program that writes the file again does not keep.

`OUT.npy` holds the embeddings of the readable images, (N, E) float32. Next to it, the sidecar `OUT.npy.json` holds the
fingerprint, the path and the hash of each row, the unreadable images with reasons, and the hash of `OUT.npy`.

Either output appears complete or not at all, and its hashes are compared when it is read. Whatever a hash does not
cover, because an older version wrote the file, is compared with what every embedding has: finite values, unit length.
"""

import hashlib
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
from wordsight.errors import ConfigError, DataError, OutputError
from wordsight.files import check_writable, matching_description, open_described, read_json
from wordsight.temporary import hidden_path

FINGERPRINT_KEY = b"wordsight.fingerprint"
FORMAT_KEY = b"wordsight.format"
FORMAT = b"wordsight-embeddings-2"  # files without this key, of version 1, state no hash of their rows
ROWS_KEY = b"wordsight.rows_sha256"

_ROWS_PER_GROUP = 4096
_MAX_SIDECAR_BYTES = 1 << 32
_MAX_REASON_CHARACTERS = 200
_UNIT_LENGTH_TOLERANCE = 1e-4
_ROWS_PER_CHECK = 1 << 16  # bounds the memory of the check of a mapped file


class DamagedEmbeddingsError(DataError):
    """A file of embeddings of this model, of which no embedding can be trusted; its images are embedded again."""


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
        rows_sha256: hash of `paths` and `sha256`; empty in files of versions that did not write it.
        format: name and version of this format.
    """

    fingerprint: Fingerprint
    embeddings_sha256: str
    paths: list[str]
    sha256: list[str]
    unreadable: list[UnreadableImage]
    rows_sha256: str = ""
    format: str = "wordsight-embeddings-1"


class PreviousEmbeddings:
    """Embeddings of earlier runs, identified by the hash of the image file and, for a video frame, its time.

    An image that was moved or renamed keeps its embedding; one whose contents changed does not.

    Attributes:
        num_damaged: rows that are not embeddings, because they are not finite or not of unit length. They are left out.
    """

    def __init__(self) -> None:
        self.num_damaged = 0
        self._rows: dict[str, tuple[NDArray[np.float32], int]] = {}

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, path: str, sha256: str) -> NDArray[np.float32] | None:
        """Return the embedding of an image, (E,) float32, or None."""
        embeddings_NE, row = self._rows.get(_identity(path, sha256), (None, 0))
        return None if embeddings_NE is None else embeddings_NE[row]

    def add(self, embeddings_NE: NDArray[np.float32], paths: Iterable[str], sha256: Iterable[str]) -> None:
        """Add (N, E) float32 embeddings with the path and the hash of each."""
        is_valid_N = _is_valid(embeddings_NE)
        self.num_damaged += len(is_valid_N) - int(is_valid_N.sum())
        for row, (path, digest) in enumerate(zip(paths, sha256, strict=True)):
            if is_valid_N[row]:
                self._rows[_identity(path, digest)] = embeddings_NE, row

    def update(self, other: "PreviousEmbeddings") -> None:
        """Add all embeddings of another collection; they replace equal images."""
        self._rows.update(other._rows)


def _identity(path: str, sha256: str) -> str:
    return sha256 + path[path.rindex(FRAME_MARK) :] if FRAME_MARK in path else sha256


def _is_valid(embeddings_NE: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows are finite and of unit length, (N,)."""
    is_valid_N = np.empty(len(embeddings_NE), np.bool_)
    for start in range(0, len(embeddings_NE), _ROWS_PER_CHECK):
        rows = slice(start, start + _ROWS_PER_CHECK)
        with np.errstate(over="ignore", invalid="ignore"):
            lengths = np.linalg.norm(embeddings_NE[rows], axis=1)
            is_valid_N[rows] = np.abs(lengths - 1) <= _UNIT_LENGTH_TOLERANCE
    return is_valid_N


def parts_directory(out: Path) -> Path:
    """Return the hidden directory in which an interrupted run keeps its work."""
    return hidden_path(out, "parts")


def check_output_path(out: Path) -> None:
    """Refuse an unsupported or unwritable output path before any work is done.

    Raises:
        ConfigError: the name ends neither in .parquet nor in .npy.
        OutputError: the path is not writable, or the sidecar of another file is in the way.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"{out}: unsupported type of file; expected a name that ends in .parquet or .npy")
    check_writable(out)
    if out.suffix == ".npy":
        check_writable(sidecar_path(out))
        if sidecar_path(out).exists() and not out.exists():
            try:
                read_sidecar(sidecar_path(out))
            except ConfigError as error:
                raise OutputError(f"{error}; it would be replaced: choose another output path") from error


def sidecar_path(out: Path) -> Path:
    """Return the path of the JSON file next to a NumPy file."""
    return out.with_name(f"{out.name}.json")


def read_embeddings(path: Path, fingerprint: Fingerprint) -> PreviousEmbeddings:
    """Read the embeddings of a file that was written by an encoder with the same fingerprint.

    Raises:
        DamagedEmbeddingsError: the file is one of this encoder, but its contents are not those that were written.
        DataError: not a file of embeddings, or the fingerprint differs; the message names both fingerprints.
    """
    read = _read_parquet if path.suffix == ".parquet" else _read_numpy
    try:
        return read(path, fingerprint)
    except (OSError, ValueError, KeyError, ConfigError, pa.ArrowException) as error:
        raise DataError(
            f"{path}: exists and is not a file of embeddings ({_reason(error)}); choose another path"
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_CHARACTERS]


def _require_fingerprint(path: Path, stored: Fingerprint, fingerprint: Fingerprint) -> None:
    if stored != fingerprint:
        raise DataError(
            f"{path}: holds embeddings of {stored}, but this model is {fingerprint}; "
            "choose another path, or the model that wrote the file"
        )


def _read_parquet(path: Path, fingerprint: Fingerprint) -> PreviousEmbeddings:
    with pq.ParquetFile(path) as file:
        metadata = file.schema_arrow.metadata or {}
        stored = decode(msgspec.json.decode(metadata[FINGERPRINT_KEY]), Fingerprint, str(path))
        _require_fingerprint(path, stored, fingerprint)
        previous, rows_hash = PreviousEmbeddings(), _RowsHash()
        try:
            for batch in file.iter_batches(_ROWS_PER_GROUP, columns=["path", "sha256", "embedding"]):
                _add_batch(previous, rows_hash, batch, fingerprint.model.embed_dim)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            raise DamagedEmbeddingsError(f"{path}: damaged ({_reason(error)})") from error
        stated = (file.metadata.metadata or {}).get(ROWS_KEY)
    if FORMAT_KEY in metadata and stated != rows_hash.digest():
        raise DamagedEmbeddingsError(f"{path}: its rows are not those that were written")
    return previous


def _add_batch(previous: PreviousEmbeddings, rows_hash: "_RowsHash", batch: pa.RecordBatch, embed_dim: int) -> None:
    readable = batch.filter(batch["embedding"].is_valid()) if batch["embedding"].null_count else batch
    column = readable["embedding"]
    if column.type != pa.list_(pa.float32()) or (np.diff(column.offsets.to_numpy()) != embed_dim).any():
        raise ValueError(f"expected embeddings of {embed_dim} float32 components")
    embeddings_NE = column.flatten().to_numpy().reshape(-1, embed_dim)
    rows_hash.update(batch["path"].to_pylist(), batch["sha256"].to_pylist(), embeddings_NE)
    previous.add(embeddings_NE, readable["path"].to_pylist(), readable["sha256"].to_pylist())


class _RowsHash:
    """The hash of a stream of rows, independent of how they are grouped."""

    def __init__(self) -> None:
        self._images, self._embeddings = hashlib.sha256(), hashlib.sha256()

    def update(self, paths: Iterable[str], sha256: Iterable[str | None], embeddings: NDArray[np.float32]) -> None:
        """Add rows; `embeddings` are those of the readable images."""
        self._images.update(b"".join(map(msgspec.msgpack.encode, zip(paths, sha256, strict=True))))
        self._embeddings.update(np.ascontiguousarray(embeddings).data)

    def digest(self) -> bytes:
        return hashlib.sha256(self._images.digest() + self._embeddings.digest()).hexdigest().encode()


def read_sidecar(path: Path) -> Sidecar:
    """Read the sidecar of a NumPy file; raises ConfigError if it is not one."""
    return decode(read_json(path, _MAX_SIDECAR_BYTES, ConfigError), Sidecar, str(path))


def _read_numpy(path: Path, fingerprint: Fingerprint) -> PreviousEmbeddings:
    sidecar = matching_description(path, sidecar_path(path), read_sidecar, lambda sidecar: sidecar.embeddings_sha256)
    if sidecar is None:
        _require_fingerprint(path, read_sidecar(sidecar_path(path)).fingerprint, fingerprint)
        raise DamagedEmbeddingsError(f"{path}: not the file that {sidecar_path(path).name} describes")
    _require_fingerprint(path, sidecar.fingerprint, fingerprint)
    rows_sha256 = _rows_sha256(sidecar.paths, sidecar.sha256)
    if (sidecar.rows_sha256 or rows_sha256) != rows_sha256:
        raise DamagedEmbeddingsError(f"{sidecar_path(path)}: its rows are not those that were written")
    embeddings_NE = np.load(path, mmap_mode="r", allow_pickle=False)
    expected = (len(sidecar.sha256), fingerprint.model.embed_dim)
    if embeddings_NE.dtype != np.float32 or embeddings_NE.shape != expected or len(sidecar.paths) != expected[0]:
        raise DamagedEmbeddingsError(
            f"{path}: {embeddings_NE.dtype} array of shape {embeddings_NE.shape} does not match its sidecar"
        )
    previous = PreviousEmbeddings()
    previous.add(embeddings_NE, sidecar.paths, sidecar.sha256)
    return previous


def _rows_sha256(paths: list[str], sha256: list[str]) -> str:
    return hashlib.sha256(msgspec.msgpack.encode((paths, sha256))).hexdigest()


def write_parquet(file: BinaryIO, rows: Iterator[EmbeddingRow], fingerprint: Fingerprint) -> None:
    """Write a stream of rows; a few thousand are held in memory.

    The type of the embeddings is a list of variable length, because pyarrow up to version 25 cannot read lists of fixed
    length of which some are null.
    """
    columns = [("path", pa.string()), ("sha256", pa.string())]
    columns += [("embedding", pa.list_(pa.float32())), ("error", pa.string())]
    schema = pa.schema(columns, metadata={FINGERPRINT_KEY: msgspec.json.encode(fingerprint), FORMAT_KEY: FORMAT})
    rows_hash = _RowsHash()
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_PER_GROUP)):
            paths, sha256 = [row.path for row in group], [row.sha256 or None for row in group]
            embeddings = [row.embedding for row in group if row.embedding is not None]
            rows_hash.update(paths, sha256, np.concatenate(embeddings) if embeddings else np.empty(0, np.float32))
            arrays = [
                pa.array(paths, pa.string()),
                pa.array(sha256, pa.string()),
                pa.array([row.embedding for row in group], schema.field("embedding").type),
                pa.array([row.error or None for row in group], pa.string()),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        writer.add_key_value_metadata({ROWS_KEY: rows_hash.digest()})


@contextmanager
def open_numpy(out: Path, fingerprint: Fingerprint) -> Iterator["NumpyWriter"]:
    """Open a NumPy file of embeddings for writing; file and sidecar appear together if the block succeeds."""
    writer: NumpyWriter

    def describe(sha256: str) -> bytes:
        rows = writer.paths, writer.sha256
        sidecar = Sidecar(fingerprint, sha256, *rows, writer.unreadable, _rows_sha256(*rows))
        return msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"

    with open_described(out, sidecar_path(out), describe) as file:
        writer = NumpyWriter(file, fingerprint.model.embed_dim)
        yield writer


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
