"""Write files of embeddings, of which each appears together with its list of unreadable images or its sidecar."""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from wordsight.embed.embedding_files import (
    FINGERPRINT_KEY,
    FORMAT,
    FORMAT_KEY,
    ROWS_KEY,
    UNREADABLE_KEY,
    EmbeddingRow,
    RowsHash,
    Sidecar,
    UnreadableImage,
    sidecar_path,
    sidecar_rows_sha256,
    unreadable_path,
)
from wordsight.embed.table_columns import ColumnKinds, arrays_of, fields_of, num_characters, widened, with_columns
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.files import open_described, open_with_description

_ROWS_PER_GROUP = 4096
_MAX_GROUP_CHARACTERS = 1 << 26  # of carried columns; bounds the memory of a row group
_PAGE_BYTES = 1 << 30  # more than a row group has, so that its embeddings are one page

Write = Callable[[Iterable[EmbeddingRow]], None]
"""Writes a stream of rows, all of them at once."""


@contextmanager
def open_output(out: Path, fingerprint: Fingerprint, keep_unreadable: bool = False) -> Iterator[Write]:
    """Open a file of embeddings for writing; it appears complete, together with what belongs to it, or not at all.

    Args:
        out: a `.parquet` or `.npy` file.
        fingerprint: of the encoder.
        keep_unreadable: whether unreadable images are rows of a Parquet file, instead of lines of the list next to it.

    Raises:
        OutputError: the path is not writable, or the disk is full; existing files are kept.
    """
    if out.suffix == ".npy":
        with _open_numpy(out, fingerprint) as write:
            yield write
        return
    with open_with_description(unreadable_path(out), out) as (unreadable, file):

        def write_rows(rows: Iterable[EmbeddingRow]) -> None:
            digest = hashlib.sha256()
            listed = iter(rows) if keep_unreadable else _list_unreadable(rows, unreadable, digest.update)
            parquet = ParquetWriter(file, fingerprint, out.parent, keep_unreadable)
            parquet.write(listed)
            parquet.close({UNREADABLE_KEY: digest.hexdigest()} if unreadable.tell() else {})

        yield write_rows


def write_parquet(file: BinaryIO, rows: Iterable[EmbeddingRow], fingerprint: Fingerprint) -> None:
    """Write rows that have embeddings, without their other columns."""
    writer = ParquetWriter(file, fingerprint, Path())
    writer.write(row._replace(columns={}) for row in rows)
    writer.close({})


def _list_unreadable(
    rows: Iterable[EmbeddingRow], file: BinaryIO, update: Callable[[bytes], None]
) -> Iterator[EmbeddingRow]:
    """Yield the rows with embeddings, and write a line for each of the others."""
    for row in rows:
        if row.embedding is not None:
            yield row
            continue
        line = msgspec.json.encode(UnreadableImage(row.path, row.error, dict(row.columns))) + b"\n"
        file.write(line)
        update(line)


class ParquetWriter:
    """Writes a stream of rows; a few thousand are held in memory.

    The numbers of a row group are one page, uncompressed, so that they can be read without decoding. With rows without
    an embedding, the type of the embeddings is a list of variable length, because pyarrow up to version 25 cannot read
    lists of fixed size of which some are null.

    Args:
        file: a new file.
        fingerprint: of the encoder.
        directory: where a temporary copy of the file may be made, if a column changes its type.
        keep_unreadable: whether there are rows without an embedding.
    """

    def __init__(
        self, file: BinaryIO, fingerprint: Fingerprint, directory: Path, keep_unreadable: bool = False
    ) -> None:
        self._file = file
        self._directory = directory
        self._embed_dim = fingerprint.model.embed_dim
        self._keeps_unreadable = keep_unreadable
        self._metadata = {FINGERPRINT_KEY: msgspec.json.encode(fingerprint), FORMAT_KEY: FORMAT}
        self._rows_hash = RowsHash()
        self._writer: pq.ParquetWriter | None = None
        self._kinds: ColumnKinds = {}

    def write(self, rows: Iterable[EmbeddingRow]) -> None:
        """Write all rows."""
        for group in _groups(rows):
            columns = [row.columns for row in group]
            kinds = widened(self._kinds, columns)
            if self._writer is None:
                self._writer = self._open(kinds)
            elif kinds != self._kinds:
                self._write_again(self._writer, kinds)
            arrays = [*self._own_arrays(group), *arrays_of(kinds, columns)]
            self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))

    def close(self, metadata: dict[bytes, Any]) -> None:
        """Write the footer, with additional metadata."""
        writer = self._writer or self._open({})
        writer.add_key_value_metadata(metadata | {ROWS_KEY: self._rows_hash.digest()})
        writer.close()

    def _open(self, kinds: ColumnKinds) -> pq.ParquetWriter:
        numbers = pa.field("element", pa.float32(), nullable=False)
        fields = [
            pa.field("path", pa.string(), nullable=False),
            pa.field("sha256", pa.string(), nullable=self._keeps_unreadable),
            pa.field(
                "embedding",
                pa.list_(numbers) if self._keeps_unreadable else pa.list_(numbers, self._embed_dim),
                nullable=self._keeps_unreadable,
            ),
            *([pa.field("error", pa.string())] if self._keeps_unreadable else []),
            *fields_of(kinds),
        ]
        self._kinds = kinds
        self._schema = pa.schema(fields, self._metadata)
        names = [name for name in self._schema.names if name != "embedding"]
        return pq.ParquetWriter(
            self._file,
            self._schema,
            compression=dict.fromkeys([*names, "captions.list.element"], "zstd"),
            use_dictionary=[name for name in names if name not in ("path", "sha256")],
            write_statistics=names,
            data_page_size=_PAGE_BYTES,
        )

    def _own_arrays(self, group: list[EmbeddingRow]) -> list[pa.Array]:
        paths = [row.path for row in group]
        sha256 = [row.sha256 or None for row in group] if self._keeps_unreadable else [row.sha256 for row in group]
        embeddings = [row.embedding for row in group if row.embedding is not None]
        numbers = np.concatenate(embeddings) if embeddings else np.empty(0, np.float32)
        self._rows_hash.update(paths, sha256, numbers)
        kind = self._schema.field("embedding").type
        if not self._keeps_unreadable:
            return [pa.array(paths), pa.array(sha256), pa.FixedSizeListArray.from_arrays(pa.array(numbers), type=kind)]
        errors = [row.error or None for row in group]
        lists = pa.array([row.embedding for row in group], kind)
        return [pa.array(paths), pa.array(sha256, pa.string()), lists, pa.array(errors, pa.string())]

    def _write_again(self, writer: pq.ParquetWriter, kinds: ColumnKinds) -> None:
        """Write the groups so far again, with other columns."""
        writer.close()
        with tempfile.TemporaryFile(dir=self._directory) as former:
            self._file.flush()
            with os.fdopen(os.dup(self._file.fileno()), "rb") as content:
                content.seek(0)
                shutil.copyfileobj(content, former)
            self._file.seek(0)
            self._file.truncate()
            self._writer = self._open(kinds)
            with pq.ParquetFile(former) as table:
                for number in range(table.num_row_groups):
                    self._writer.write_table(with_columns(table.read_row_group(number), self._schema))


def _groups(rows: Iterable[EmbeddingRow]) -> Iterator[list[EmbeddingRow]]:
    """Group rows, by their number and by the size of their columns."""
    group: list[EmbeddingRow] = []
    characters = 0
    for row in rows:
        group.append(row)
        characters += num_characters(row.columns)
        if len(group) == _ROWS_PER_GROUP or characters > _MAX_GROUP_CHARACTERS:
            yield group
            group, characters = [], 0
    if group:
        yield group


@contextmanager
def _open_numpy(out: Path, fingerprint: Fingerprint) -> Iterator[Write]:
    writer: NumpyWriter

    def describe(sha256: str) -> bytes:
        rows = writer.paths, writer.sha256
        rows_sha256 = sidecar_rows_sha256(*rows)
        sidecar = Sidecar(fingerprint, sha256, *rows, writer.unreadable, rows_sha256, columns=writer.columns)
        return msgspec.json.format(msgspec.json.encode(sidecar), indent=2) + b"\n"

    with open_described(out, sidecar_path(out), describe) as file:
        writer = NumpyWriter(file, fingerprint.model.embed_dim)
        yield writer.write


class NumpyWriter:
    """Writes embeddings to a NumPy file, and collects what belongs into its sidecar."""

    def __init__(self, file: BinaryIO, embed_dim: int) -> None:
        self.paths: list[str] = []
        self.sha256: list[str] = []
        self.columns: dict[str, list[Any]] = {}
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
                self.unreadable.append(UnreadableImage(row.path, row.error, dict(row.columns)))
                continue
            self._file.write(row.embedding.astype("<f4").tobytes())
            for name in row.columns:
                if name not in self.columns:
                    self.columns[name] = [None] * len(self.paths)
            for name, values in self.columns.items():
                values.append(row.columns.get(name))
            self.paths.append(row.path)
            self.sha256.append(row.sha256)
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == start

    def _write_header(self) -> None:
        header = {"descr": "<f4", "fortran_order": False, "shape": (len(self.paths), self._embed_dim)}
        np.lib.format.write_array_header_1_0(self._file, header)
