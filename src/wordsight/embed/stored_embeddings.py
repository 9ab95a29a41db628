"""Read a file of embeddings block by block, at the speed at which its bytes can be read, or a few of its rows.

In the files that `wordsight embed` writes, embeddings are contiguous float32 numbers: all of them in a NumPy file,
those of a row group in a Parquet file (`parquet_values.py`). They are read without decoding. Parquet files of former
versions, and those that another program wrote again, are decoded by pyarrow, which takes several times as long.

What is checked: `open_embeddings` reads the description of the file, and compares the number and the length of the
embeddings that it states with the sizes of the file and of its pages. The embeddings themselves are not compared with
their hash, because that would need a second pass over the file; `read_embeddings` does so, before `wordsight embed`
uses any of them again. A caller of `blocks` has to check that what it computes is finite.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from wordsight.config import decode
from wordsight.embed.embedding_files import FINGERPRINT_KEY, FORMAT, FORMAT_KEY, read_sidecar, sidecar_path
from wordsight.embed.parquet_values import Segment, decoded_rows, plain_segments, row_groups
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.errors import ConfigError, DataError
from wordsight.files import open_regular

_FLOAT_BYTES = 4
_ROWS_PER_BATCH = 4096
_MAX_REASON_CHARACTERS = 200
_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ConfigError, pa.ArrowException)

_CopyRows = Callable[[NDArray[np.float32], int], None]
"""Copies consecutive embeddings of a source to an array, from a row of the source on."""


class StoredRow(NamedTuple):
    """What a file of embeddings says about an image besides its embedding.

    Attributes:
        path: name of the image; see `ImageRef.name`.
        sha256: of the image file.
        columns: value by name of the other columns of the table from which the image came.
    """

    path: str
    sha256: str
    columns: Mapping[str, Any]


class StoredEmbeddings(ABC):
    """A file of embeddings; see `open_embeddings`. Rows without an embedding are left out and not counted.

    Attributes:
        path: the file.
        fingerprint: of the encoder that computed the embeddings.
        num_embeddings: N.
    """

    def __init__(self, path: Path, fingerprint: Fingerprint, num_embeddings: int) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.num_embeddings = num_embeddings

    def require_fingerprint(self, fingerprint: Fingerprint) -> None:
        """Refuse embeddings that cannot be compared with those of an encoder.

        Raises:
            DataError: another encoder computed them; the message names both fingerprints.
        """
        if self.fingerprint != fingerprint:
            raise DataError(
                f"{self.path}: holds embeddings of {self.fingerprint}, but this model is {fingerprint}; "
                "use the model that wrote the file, or embed the images again"
            )

    def blocks(self, max_rows: int) -> Iterator[NDArray[np.float32]]:
        """Yield all embeddings in the order of the rows, (n, E) float32 with n = `max_rows` except in the last block.

        A block is valid until the next one is requested, because both use the same memory. Besides it, only files that
        have to be decoded need memory, for a few thousand embeddings.

        Raises:
            DataError: the file is damaged; see above for what is not checked.
        """
        block_NE = np.empty((max_rows, self.fingerprint.model.embed_dim), np.float32)
        num_read = 0
        try:
            for copy_rows, start, target in self._pieces(max_rows):
                copy_rows(block_NE[target], start)
                num_read += target.stop - target.start
                if target.stop == max_rows:
                    yield block_NE
        except _ERRORS as error:
            raise _damaged(self.path, error) from error
        if num_read != self.num_embeddings:
            raise DataError(f"{self.path}: damaged ({num_read:,} embeddings, expected {self.num_embeddings:,})")
        if num_read % max_rows:
            yield block_NE[: num_read % max_rows]

    def _pieces(self, max_rows: int) -> Iterator[tuple[_CopyRows, int, slice]]:
        """Yield a source, the first of its rows to copy, and the rows of the block to which they are copied."""
        end = 0
        for num_rows, copy_rows in self._sources():
            start = 0
            while start < num_rows:
                begin = end % max_rows
                end = min(begin + num_rows - start, max_rows)
                yield copy_rows, start, slice(begin, end)
                start += end - begin

    def embeddings(self, numbers: Sequence[int]) -> NDArray[np.float32]:
        """Return a few embeddings by their numbers, from 0 to N - 1, (n, E) float32 in the order of the numbers.

        Only their bytes are read, except from files that have to be decoded.

        Raises:
            DataError: the file is damaged.
        """
        wanted = np.asarray(numbers, np.int64)
        order = np.argsort(wanted, kind="stable")
        ascending = wanted[order]
        rows_NE = np.empty((len(wanted), self.fingerprint.model.embed_dim), np.float32)
        first = end = 0
        try:
            for num_rows, copy_rows in self._sources():
                begin, end = end, int(np.searchsorted(ascending, first + num_rows))
                for number, slot in zip(ascending[begin:end].tolist(), order[begin:end].tolist(), strict=True):
                    copy_rows(rows_NE[slot : slot + 1], number - first)
                first += num_rows
                if end == len(wanted):
                    break
        except _ERRORS as error:
            raise _damaged(self.path, error) from error
        return rows_NE

    @abstractmethod
    def rows(self, numbers: Sequence[int]) -> list[StoredRow]:
        """Return the rows of a few embeddings, by their numbers from 0 to N - 1, in the order of the numbers.

        Raises:
            DataError: the file is damaged.
        """

    @abstractmethod
    def _sources(self) -> Iterator[tuple[int, _CopyRows]]:
        """Yield the number of embeddings of each part of the file, and a function that copies them."""


def open_embeddings(path: Path) -> StoredEmbeddings:
    """Open a file that `wordsight embed` wrote.

    Raises:
        DataError: the file is missing or damaged, or contains no embeddings.
    """
    classes = {".parquet": _ParquetEmbeddings, ".npy": _NumpyEmbeddings}
    if path.suffix not in classes:
        raise DataError(f"{path}: not a file of embeddings; expected a name that ends in .parquet or .npy")
    try:
        return classes[path.suffix](path)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; write it with 'wordsight embed IMAGES --out {path.name}'") from error
    except _ERRORS as error:
        raise DataError(
            f"{path}: not a file of embeddings ({_reason(error)}); write one with 'wordsight embed IMAGES --out FILE'"
        ) from error


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:_MAX_REASON_CHARACTERS]


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path}: damaged ({_reason(error)}); write it again with 'wordsight embed'")


def _read_segments(path: Path, segments: Iterable[Segment], embed_dim: int) -> Iterator[tuple[int, _CopyRows]]:
    row_bytes = _FLOAT_BYTES * embed_dim
    with open_regular(path) as file:
        for offset, num_rows in segments:

            def copy_rows(out_NE: NDArray[np.float32], start: int, offset: int = offset) -> None:
                file.seek(offset + start * row_bytes)
                if file.readinto(out_NE) != out_NE.nbytes:  # type: ignore[attr-defined]
                    raise ValueError("truncated")

            yield num_rows, copy_rows


class _Texts:
    """A list of texts in half the memory: the sidecar of a million images has two million of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        encoded = [text.encode() for text in texts]
        self._ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._content = b"".join(encoded)

    def __getitem__(self, number: int) -> str:
        return self._content[self._ends[number] : self._ends[number + 1]].decode()


class _NumpyEmbeddings(StoredEmbeddings):
    """A NumPy file and its sidecar."""

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file:
            version = np.lib.format.read_magic(file)
            read_header = (
                np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(file)
            offset, size_bytes = file.tell(), file.seek(0, 2)
        sidecar = read_sidecar(sidecar_path(path))
        super().__init__(path, sidecar.fingerprint, len(sidecar.paths))
        self._paths, self._sha256, self._columns = _Texts(sidecar.paths), _Texts(sidecar.sha256), sidecar.columns
        embed_dim = self.fingerprint.model.embed_dim
        if (shape, is_fortran, dtype) != ((self.num_embeddings, embed_dim), False, np.dtype("<f4")):
            raise ValueError(f"a {dtype} array of shape {shape}, expected float32 of {self.num_embeddings, embed_dim}")
        if size_bytes != offset + self.num_embeddings * embed_dim * _FLOAT_BYTES:
            raise ValueError(f"{size_bytes:,} bytes do not fit to its shape {shape}")
        self._segment = Segment(offset, self.num_embeddings)

    def rows(self, numbers: Sequence[int]) -> list[StoredRow]:
        return [
            StoredRow(
                self._paths[number],
                self._sha256[number],
                {name: values[number] for name, values in self._columns.items()},
            )
            for number in numbers
        ]

    def _sources(self) -> Iterator[tuple[int, _CopyRows]]:
        return _read_segments(self.path, [self._segment], self.fingerprint.model.embed_dim)


class _ParquetEmbeddings(StoredEmbeddings):
    """A Parquet file of any version."""

    def __init__(self, path: Path) -> None:
        with open_regular(path) as file, pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if FINGERPRINT_KEY not in (schema.metadata or {}):
                raise ValueError("no fingerprint in its metadata")
            fingerprint = decode(msgspec.json.decode(schema.metadata[FINGERPRINT_KEY]), Fingerprint, str(path))
            leaf = [table.schema.column(n).path.split(".")[0] for n in range(len(table.schema))].index("embedding")
            self._columns = [name for name in schema.names if name not in ("embedding", "error")]
            groups, embed_dim = row_groups(file), fingerprint.model.embed_dim
            kind = schema.field("embedding").type
            is_fixed = pa.types.is_fixed_size_list(kind) and kind.list_size == embed_dim
            if is_fixed or schema.metadata.get(FORMAT_KEY) == FORMAT:
                self._segments = plain_segments(file, groups, leaf, embed_dim)
            else:
                self._segments = None
            self._group_ends = np.cumsum([group.integer(3) for group in groups], dtype=np.int64)
            num_rows = int(self._group_ends[-1]) if groups else 0
            if "error" in schema.names:
                file.seek(0)
                self._row_numbers = np.flatnonzero(pq.read_table(file, columns=["error"])["error"].is_null().to_numpy())
            else:
                self._row_numbers = np.arange(num_rows)
        super().__init__(path, fingerprint, len(self._row_numbers))

    def rows(self, numbers: Sequence[int]) -> list[StoredRow]:
        try:
            return self._read_rows(self._row_numbers[np.asarray(numbers, np.int64)])
        except _ERRORS as error:
            raise _damaged(self.path, error) from error

    def _read_rows(self, row_numbers: NDArray[np.int64]) -> list[StoredRow]:
        group_numbers = np.searchsorted(self._group_ends, row_numbers, side="right")
        rows: dict[int, dict[str, Any]] = {}
        with open_regular(self.path) as file, pq.ParquetFile(file) as table:
            for group in np.unique(group_numbers).tolist():
                start = int(self._group_ends[group - 1]) if group else 0
                wanted = np.unique(row_numbers[group_numbers == group])
                values = table.read_row_group(group, columns=self._columns).take(wanted - start).to_pylist()
                rows.update(zip(wanted.tolist(), values, strict=True))
        return [_stored_row(**rows[number]) for number in row_numbers.tolist()]

    def _sources(self) -> Iterator[tuple[int, _CopyRows]]:
        embed_dim = self.fingerprint.model.embed_dim
        if self._segments is not None:
            yield from _read_segments(self.path, self._segments, embed_dim)
            return
        with open_regular(self.path) as file, pq.ParquetFile(file) as table:
            for batch in table.iter_batches(_ROWS_PER_BATCH, columns=["embedding"]):
                rows_NE = decoded_rows(batch["embedding"], embed_dim)

                def copy_rows(out_NE: NDArray[np.float32], start: int, rows_NE: NDArray[np.float32] = rows_NE) -> None:
                    out_NE[:] = rows_NE[start : start + len(out_NE)]

                yield len(rows_NE), copy_rows


def _stored_row(path: str, sha256: str | None, **columns: Any) -> StoredRow:
    return StoredRow(path, sha256 or "", columns)
