"""Where the numbers of a Parquet column are in the file, if they are stored as they are in memory.

A page without compression, in the encoding PLAIN, ends with its numbers, in order, without those of null lists. They
can be copied, many times faster than a decoder of Parquet reads them: for lists, it has to decode two levels per number
(Apache Parquet format, "Nested encoding").

Source: Apache Parquet format, `parquet.thrift` (FileMetaData, ColumnMetaData, PageHeader) and "Data pages".
"""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from wordsight.data.parquet import MAX_FOOTER_BYTES
from wordsight.data.thrift import ThriftReader, ThriftStruct

_FLOAT_BYTES = 4
_LENGTH_BYTES = 4
_MAX_HEADER_BYTES = 256  # of a page without statistics
_DATA_PAGE, _PLAIN, _UNCOMPRESSED, _FLOAT = 0, 0, 0, 4
_MAGIC = b"PAR1"


class Segment(NamedTuple):
    """Consecutive embeddings in a file.

    Attributes:
        offset: of the first byte.
        num_rows: their number.
    """

    offset: int
    num_rows: int


def row_groups(file: BinaryIO) -> list[ThriftStruct]:
    """Read the row groups (RowGroup) in the footer of a Parquet file; field 3 is the number of rows.

    Raises:
        IndexError, DataError: the footer is damaged.
    """
    size_bytes = file.seek(0, 2)
    file.seek(max(size_bytes - 8, 0))
    end = file.read(8)
    footer_bytes = int.from_bytes(end[:4], "little")
    if end[4:] != _MAGIC or footer_bytes > min(MAX_FOOTER_BYTES, size_bytes - 12):
        raise IndexError("no Parquet footer")
    file.seek(size_bytes - 8 - footer_bytes)
    return ThriftReader(file.read(footer_bytes)).struct().structs(4)


def plain_segments(file: BinaryIO, groups: Sequence[ThriftStruct], leaf: int, row_length: int) -> list[Segment] | None:
    """Return where the values of a column of float32 lists are, one segment per row group.

    Args:
        file: a Parquet file.
        groups: its row groups.
        leaf: number of the column among the leaves of the schema.
        row_length: numbers per row.

    Returns:
        None if the numbers have to be decoded, because of another encoding, compression, or several pages per row
        group. Lists may be null; that the others have `row_length` numbers each is known only from their sum.

    Raises:
        IndexError, DataError: the metadata is damaged.
    """
    segments = []
    for group in groups:
        num_rows = group.integer(3)
        chunks = group.structs(1)
        if num_rows:
            segment = _segment(file, chunks[leaf].struct(3), num_rows, row_length)
            if segment is None:
                return None
            segments.append(segment)
    return segments


def _segment(file: BinaryIO, chunk: ThriftStruct, num_rows: int, row_length: int) -> Segment | None:
    """Return where the values of a column chunk (ColumnMetaData) are."""
    num_values = chunk.integer(5)
    if (chunk.integer(1), chunk.integer(4)) != (_FLOAT, _UNCOMPRESSED) or 11 in chunk:  # 11: it has a dictionary
        return None
    start = chunk.integer(9)
    file.seek(start)
    reader = ThriftReader(file.read(_MAX_HEADER_BYTES))
    header = reader.struct()
    data = header.struct(5)
    page = header.integer(1), header.integer(2), header.integer(3), data.integer(1), data.integer(2)
    page_bytes = chunk.integer(7) - reader.at
    if page != (_DATA_PAGE, page_bytes, page_bytes, num_values, _PLAIN):
        return None
    offset, end = start + reader.at, start + reader.at + page_bytes
    for _ in range(2):  # repetition levels and definition levels
        file.seek(offset)
        offset += _LENGTH_BYTES + int.from_bytes(file.read(_LENGTH_BYTES), "little")
    num_lists, rest_bytes = divmod(end - offset, _FLOAT_BYTES * row_length)
    is_complete = num_values == num_lists * row_length + num_rows - num_lists and not rest_bytes
    return Segment(offset, num_lists) if is_complete and end <= file.seek(0, 2) else None


def decoded_rows(column: pa.Array, embed_dim: int) -> NDArray[np.float32]:
    """Return the embeddings of a column of lists, (n, E) float32, without its null values.

    Raises:
        ValueError: a list has another length, or its values are not float32.
    """
    column = column.drop_null()
    if column.type.value_type != pa.float32() or not pc.all(pc.equal(pc.list_value_length(column), embed_dim)).as_py():
        raise ValueError(f"expected embeddings of {embed_dim} float32 components")
    return column.flatten().to_numpy().reshape(-1, embed_dim)
