"""Where the numbers of a Parquet column are in the file, if they are stored as they are in memory.

A page without compression, in the encoding PLAIN, whose values are all present, ends with its numbers, in order.
They can be read as they are, many times faster than a decoder of Parquet reads them: for lists, it has to decode two
levels per number (Apache Parquet format, "Nested encoding").

Source: Apache Parquet format, `parquet.thrift` (FileMetaData, ColumnMetaData, PageHeader) and "Data pages".
"""

from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

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
        num_rows: number of embeddings.
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
        None if the numbers have to be decoded: another encoding, compression, several pages per row group, null values,
        or lists of another length.

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
    expected = _FLOAT, _UNCOMPRESSED, num_rows * row_length
    if (chunk.integer(1), chunk.integer(4), num_values) != expected or 11 in chunk:  # 11: it has a dictionary
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
    is_complete = end - offset == _FLOAT_BYTES * num_values and end <= file.seek(0, 2)
    return Segment(offset, num_rows) if is_complete else None
