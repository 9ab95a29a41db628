"""Files of embeddings: what was embedded, by whom, and what could not be.

`OUT.parquet`: columns `path`, `sha256` of the image's file, `embedding` (null where broken) and `error`; the fingerprint
in the schema's metadata under `wordsight.fingerprint`. `OUT.npy`: the embeddings of readable images, (N, E) float32;
beside it `OUT.npy.json` with the fingerprint, path and hash of each row, the broken images with reasons, and the hash
of the embeddings' file. Either appears whole or not at all.
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
from wordsight.files import check_writable, open_atomic, sha256_file

FINGERPRINT_KEY = b"wordsight.fingerprint"

_ROWS_IN_GROUP = 4096
_MAX_SIDECAR_BYTES = 1 << 32


class Row(NamedTuple):
    """A image with its embedding, (E,) float32 of unit length, and whether it is new; or None, and the reason."""

    path: str
    sha256: str
    embedding: NDArray[np.float32] | None
    error: str = ""
    is_new: bool = False


class Broken(Config, frozen=True):
    """A image without a embedding."""

    path: str
    reason: str


class Sidecar(Config, frozen=True):
    """What stands beside a NumPy file."""

    fingerprint: Fingerprint
    embeddings_sha256: str
    paths: list[str]
    sha256: list[str]
    broken: list[Broken]
    format: str = "wordsight-embeddings-2"


class Known(NamedTuple):
    """Embeddings that were computed before: where each image's lies, by the hash of its file and the time of a frame."""

    places: dict[str, tuple[NDArray[np.float32], int]]

    def embedding(self, path: str, sha256: str) -> NDArray[np.float32] | None:
        """(E,) float32, or None."""
        embeddings, number = self.places.get(_key(path, sha256), (None, 0))
        return None if embeddings is None else embeddings[number]

    def add(self, embeddings: NDArray[np.float32], paths: Iterable[str], sha256: Iterable[str]) -> None:
        """(N, E) float32, and of each row the path and the hash."""
        for number, (path, digest) in enumerate(zip(paths, sha256, strict=True)):
            self.places[_key(path, digest)] = embeddings, number


def _key(path: str, sha256: str) -> str:
    return sha256 + path[path.rindex(FRAME_MARK) :] if FRAME_MARK in path else sha256


def check_out(out: Path) -> None:
    """Refuse a file of a kind that is not known or at a place that cannot be written, before there is work to lose.

    Raises:
        ConfigError: neither .parquet nor .npy.
        OutputError: as `check_writable`.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise ConfigError(f"{out}: embeddings go to a file that ends in .parquet or .npy")
    check_writable(out)


def sidecar_of(out: Path) -> Path:
    """Where the JSON of a NumPy file lies."""
    return out.with_name(f"{out.name}.json")


def read_known(path: Path, fingerprint: Fingerprint) -> Known:
    """The embeddings of a file, which must be of this fingerprint.

    Raises:
        DataError: not a file of embeddings, or of another fingerprint; both are named.
    """
    try:
        found, known = _read_parquet(path) if path.suffix == ".parquet" else _read_numpy(path)
    except (OSError, ValueError, KeyError, ConfigError, pa.ArrowException, msgspec.DecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: is there and not a file of embeddings ({reason}); choose another place") from error
    if found != fingerprint:
        raise DataError(
            f"{path}: its embeddings are of {found}; this model's would be of {fingerprint}: "
            "choose another file, or that model"
        )
    return known


def _read_parquet(path: Path) -> tuple[Fingerprint, Known]:
    known = Known({})
    with pq.ParquetFile(path) as file:
        told = msgspec.json.decode((file.schema_arrow.metadata or {})[FINGERPRINT_KEY])
        fingerprint = decode(told, Fingerprint, str(path))
        for batch in file.iter_batches(_ROWS_IN_GROUP, columns=["path", "sha256", "embedding"]):
            readable = batch.filter(batch["embedding"].is_valid())
            embeddings = readable["embedding"].flatten().to_numpy().reshape(-1, fingerprint.model.embed_dim)
            known.add(embeddings, readable["path"].to_pylist(), readable["sha256"].to_pylist())
    return fingerprint, known


def _read_numpy(path: Path) -> tuple[Fingerprint, Known]:
    beside = sidecar_of(path)
    if beside.stat().st_size > _MAX_SIDECAR_BYTES:
        raise ValueError("its sidecar is too large")
    sidecar = decode(msgspec.json.decode(beside.read_bytes()), Sidecar, str(beside))
    embeddings = np.load(path, mmap_mode="r", allow_pickle=False)
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or len(embeddings) != len(sidecar.sha256):
        raise ValueError("it does not fit its sidecar")
    known = Known({})
    known.add(embeddings, sidecar.paths, sidecar.sha256)
    return sidecar.fingerprint, known


def write_parquet(file: BinaryIO, rows: Iterator[Row], fingerprint: Fingerprint) -> None:
    """Write rows as they come, some thousands at a time.

    Embeddings are lists of any length: pyarrow 25 and older do not read lists of one length of which some are null.
    """
    columns = [("path", pa.string()), ("sha256", pa.string())]
    columns += [("embedding", pa.list_(pa.float32())), ("error", pa.string())]
    schema = pa.schema(columns, metadata={FINGERPRINT_KEY: msgspec.json.encode(fingerprint)})
    with pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(rows, _ROWS_IN_GROUP)):
            arrays = [
                pa.array([row.path for row in group], pa.string()),
                pa.array([row.sha256 or None for row in group], pa.string()),
                pa.array([row.embedding for row in group], schema.field("embedding").type),
                pa.array([row.error or None for row in group], pa.string()),
            ]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


@contextmanager
def writing_numpy(out: Path, fingerprint: Fingerprint) -> Iterator[tuple[BinaryIO, "NumpyRows"]]:
    """The file for the embeddings, and what collects the rest; the sidecar is written when the block ends well."""
    with open_atomic(sidecar_of(out)) as beside:
        rows = NumpyRows()
        with open_atomic(out) as file:
            yield file, rows
        sidecar = Sidecar(fingerprint, sha256_file(out), rows.paths, rows.sha256, rows.broken)
        beside.write(msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n")


class NumpyRows:
    """Writes embeddings, and collects what goes into the sidecar."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.sha256: list[str] = []
        self.broken: list[Broken] = []

    def write(self, file: BinaryIO, rows: Iterable[Row], width: int) -> None:
        """The header comes first and says how many rows there are; NumPy leaves room in it for the number to grow."""
        self._write_header(file, width)
        start = file.tell()
        for row in rows:
            if row.embedding is None:
                self.broken.append(Broken(row.path, row.error))
                continue
            file.write(row.embedding.astype("<f4").tobytes())
            self.paths.append(row.path)
            self.sha256.append(row.sha256)
        file.seek(0)
        self._write_header(file, width)
        assert file.tell() == start

    def _write_header(self, file: BinaryIO, width: int) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.paths), width)}
        np.lib.format.write_array_header_1_0(file, header)
