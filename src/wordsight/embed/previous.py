"""Read the embeddings that earlier runs have computed, and verify that they are those that were written."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wordsight.config import decode
from wordsight.data.video import FRAME_MARK
from wordsight.embed.embedding_files import (
    FINGERPRINT_KEY,
    FORMAT_KEY,
    ROWS_KEY,
    UNREADABLE_KEY,
    RowsHash,
    read_sidecar,
    sidecar_path,
    sidecar_rows_sha256,
    unreadable_path,
)
from wordsight.embed.parquet_values import decoded_rows
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.errors import ConfigError, DataError
from wordsight.files import matching_description, open_regular

_ROWS_PER_BATCH = 4096
_MAX_REASON_CHARACTERS = 200
_UNIT_LENGTH_TOLERANCE = 1e-4
_ROWS_PER_CHECK = 1 << 16  # bounds the memory of the check of a mapped file


class DamagedEmbeddingsError(DataError):
    """A file of embeddings of this model, of which no embedding can be trusted; its images are embedded again."""


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
        previous, rows_hash = PreviousEmbeddings(), RowsHash()
        try:
            for batch in file.iter_batches(_ROWS_PER_BATCH, columns=["path", "sha256", "embedding"]):
                _add_batch(previous, rows_hash, batch, fingerprint.model.embed_dim)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            raise DamagedEmbeddingsError(f"{path}: damaged ({_reason(error)})") from error
        stated = (file.metadata.metadata or {}).get(ROWS_KEY)
    if FORMAT_KEY in metadata and stated != rows_hash.digest():
        raise DamagedEmbeddingsError(f"{path}: its rows are not those that were written")
    return previous


def _add_batch(previous: PreviousEmbeddings, rows_hash: RowsHash, batch: pa.RecordBatch, embed_dim: int) -> None:
    readable = batch.filter(batch["embedding"].is_valid()) if batch["embedding"].null_count else batch
    embeddings_NE = decoded_rows(readable["embedding"], embed_dim)
    rows_hash.update(batch["path"].to_pylist(), batch["sha256"].to_pylist(), embeddings_NE)
    previous.add(embeddings_NE, readable["path"].to_pylist(), readable["sha256"].to_pylist())


def _read_numpy(path: Path, fingerprint: Fingerprint) -> PreviousEmbeddings:
    sidecar = matching_description(path, sidecar_path(path), read_sidecar, lambda sidecar: sidecar.embeddings_sha256)
    if sidecar is None:
        _require_fingerprint(path, read_sidecar(sidecar_path(path)).fingerprint, fingerprint)
        raise DamagedEmbeddingsError(f"{path}: not the file that {sidecar_path(path).name} describes")
    _require_fingerprint(path, sidecar.fingerprint, fingerprint)
    rows_sha256 = sidecar_rows_sha256(sidecar.paths, sidecar.sha256)
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


def finish_interrupted_write(out: Path) -> None:
    """Put a Parquet file in place that is complete, but whose writer was killed after it replaced the list next to it.

    To be called by the process that holds the lock of `out`.
    """
    if out.suffix == ".parquet" and unreadable_path(out).exists():
        with suppress(DataError, OSError):
            matching_description(unreadable_path(out), out, _stated_unreadable_sha256, lambda sha256: sha256)


def _stated_unreadable_sha256(path: Path) -> str:
    try:
        with open_regular(path) as file, pq.ParquetFile(file) as table:
            return (table.metadata.metadata or {})[UNREADABLE_KEY].decode()
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: states no list of unreadable images") from error
