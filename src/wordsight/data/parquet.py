"""Parquet tables, read with a bound on memory.

A file of a few megabytes can claim a page of two gigabytes, repeat a value of 100 MB in every row, or hold billions of
rows. pyarrow allocates what a file claims. Therefore the headers of all pages of the wanted columns are read first,
which takes microseconds per megabyte; pages that can only be bombs are refused; and the number of rows that are
materialised together follows from the largest page, because no value is larger than its page.

Source: Apache Parquet format, `parquet.thrift` (FileMetaData, ColumnMetaData, PageHeader) and "Encodings".
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from wordsight.data.sample import MAX_TEXT_BYTES
from wordsight.data.thrift import ThriftReader, ThriftStruct
from wordsight.errors import DataError

if TYPE_CHECKING:
    import pyarrow

MAX_FOOTER_BYTES = 1 << 23
"""Parsed, it takes about twenty times as much; ImageNet as 1,000 row groups of 10 columns has 1.5 MB."""

MAX_PAGE_BYTES = 1 << 30
"""Files of images written by pyarrow can have a whole row group (hundreds of images) in one page."""

MAX_DENSE_PAGE_BYTES = 1 << 26
MAX_COMPRESSION = 10
"""Pages above `MAX_DENSE_PAGE_BYTES` are images, which do not compress; pages of text have 1 MiB by default."""

MAX_BATCH_BYTES = 1 << 27
MAX_VALUES_PER_BYTE = 8
"""A file with more values than this per byte repeats one row; the first million are free."""

_NUM_FREE_VALUES = 1 << 20
_MAX_ROWS = 1024
_MAX_UTF8_BYTES = 4 * MAX_TEXT_BYTES  # a character has up to four bytes
_MAX_HEADER_BYTES = 1 << 20  # statistics in a page header are the only part without a fixed size
_DELTA_BYTE_ARRAY = 7
_DICTIONARY_ENCODINGS = (2, 8)
_CODECS = {1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd", 7: "lz4_raw"}
_MAGIC = b"PAR1"


class ParquetTable:
    """A Parquet file.

    Args:
        file: the file; it must stay open.

    Raises:
        DataError: it is not a Parquet file, or its footer is too large; the message does not name the file.

    Attributes:
        columns: names of the columns.
        binary_columns: those that contain bytes.
        nested_columns: those that contain objects, or lists of lists or objects.
        num_rows: the number of rows that the footer states.
    """

    def __init__(self, file: BinaryIO) -> None:
        import pyarrow
        import pyarrow.parquet

        self._file = file
        self._size = file.seek(0, 2)
        self._groups = _read_footer(file, self._size).structs(4)
        file.seek(0)
        try:
            self._table = pyarrow.parquet.ParquetFile(file)
            self._schema = self._table.schema_arrow
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(_one_line(error)) from error
        self.columns = tuple(self._schema.names)
        self.num_rows = int(self._table.metadata.num_rows)
        self.nested_columns = frozenset(field.name for field in self._schema if _is_nested(field.type))
        types = pyarrow.types
        self.binary_columns = frozenset(
            field.name
            for field in self._schema
            if types.is_binary(field.type) or types.is_large_binary(field.type) or types.is_binary_view(field.type)
        )

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The key-value metadata of the schema."""
        return self._schema.metadata or {}

    def rows(self, names: Sequence[str], others: Sequence[str] = ()) -> Iterator[dict[str, Any] | str]:
        """Yield the values of some columns row by row; for a row that is too large, the reason.

        Args:
            names: columns that are needed.
            others: columns that are left out if they would need too much memory.

        Raises:
            DataError: a needed column has a type that is neither text, a list of texts, numbers nor images; or the file
                is damaged or would need too much memory. The message does not name the file.
        """
        import pyarrow
        import pyarrow.parquet

        for name in names:
            _check_type(name, self._schema.field(name).type)
        names = [*names, *(name for name in others if self._is_readable(name))]
        leaves = self._leaves(names)
        try:
            bounds = [self._check_pages(leaf) for leaf in leaves]
            self._file.seek(0)
            repeated = [
                self._table.schema.column(leaf).path
                for leaf, bound in zip(leaves, bounds, strict=True)
                if bound.is_amplified
            ]
            table = pyarrow.parquet.ParquetFile(self._file, read_dictionary=repeated)
            largest = max((bound.page_bytes for bound in bounds), default=1)
            size = max(1, min(_MAX_ROWS, MAX_BATCH_BYTES // max(largest, 1)))
            for batch in table.iter_batches(batch_size=size, columns=list(names)):
                yield from _rows_of(batch)
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise DataError(_one_line(error)) from error

    def _leaves(self, names: Sequence[str]) -> list[int]:
        """The numbers of the stored columns that hold some columns; an object has several."""
        schema = self._table.schema
        return [number for number in range(len(schema)) if schema.column(number).path.split(".")[0] in names]

    def _is_readable(self, name: str) -> bool:
        try:
            for leaf in self._leaves([name]):
                self._check_pages(leaf)
        except (OSError, ValueError, DataError):
            return False
        return True

    def _check_pages(self, leaf: int) -> "_Bound":
        """Check the headers of all pages of a column."""
        column = self._table.schema.column(leaf)
        is_text = column.physical_type == "BYTE_ARRAY"
        largest = num_values = 0
        is_amplified = False
        for group in self._groups:
            chunks = group.structs(1)
            if leaf >= len(chunks):
                raise DataError("a row group with fewer columns than the schema; fetch it again")
            chunk = chunks[leaf].struct(3)
            longest = num_repeated = 0
            for page in _pages(self._file, chunk, column.path, self._size):
                largest = max(largest, page.size)
                num_values += page.num_values
                if column.max_repetition_level > 0 and page.encoding == _DELTA_BYTE_ARRAY:
                    raise DataError(f"column {column.path}: lists in DELTA_BYTE_ARRAY encoding; write it again")
                if is_text and page.is_dictionary:
                    longest = _longest_value(self._file, page, chunk.integer(4))
                num_repeated += page.num_values if page.encoding in _DICTIONARY_ENCODINGS else 0
            is_amplified |= longest * num_repeated > MAX_BATCH_BYTES
        if num_values > _NUM_FREE_VALUES + MAX_VALUES_PER_BYTE * self._size:
            raise DataError(
                f"column {column.path}: {num_values:,} values in a file of {self._size:,} bytes; not a usable table"
            )
        return _Bound(largest, is_amplified)


class _Bound(NamedTuple):
    """Bounds on the values of a column.

    Attributes:
        page_bytes: size of the largest page, which no value exceeds.
        is_amplified: whether rows repeat the values of a dictionary so often that they need much more memory than it.
    """

    page_bytes: int
    is_amplified: bool


def _read_footer(file: BinaryIO, size: int) -> ThriftStruct:
    """Read the footer (FileMetaData)."""
    file.seek(max(size - 8, 0))
    end = file.read(8)
    if size < 12 or end[4:] != _MAGIC:
        raise DataError("no Parquet footer at its end; truncated or not a Parquet file: fetch it again")
    footer_bytes = int.from_bytes(end[:4], "little")
    if footer_bytes > min(MAX_FOOTER_BYTES, size - 12):
        raise DataError(f"a footer of {footer_bytes:,} bytes, more than {min(MAX_FOOTER_BYTES, size - 12):,}")
    file.seek(size - 8 - footer_bytes)
    try:
        return ThriftReader(file.read(footer_bytes)).struct()
    except IndexError as error:
        raise DataError("its footer is damaged; fetch it again") from error


class _Page:
    """What a page header claims: start of the content, sizes in the file and in memory, number of values, encoding."""

    def __init__(self, header: ThriftStruct, start: int) -> None:
        data = header.struct(5 if 5 in header else 8)
        self.start = start
        self.is_dictionary = 7 in header
        self.compressed = header.integer(3)
        self.size = header.integer(2)
        self.num_values = data.integer(1, 0)
        self.encoding = data.integer(2 if 5 in header else 4, 0)


def _pages(file: BinaryIO, chunk: ThriftStruct, column: str, file_bytes: int) -> Iterator[_Page]:
    """Yield the headers of the pages of a column chunk (ColumnMetaData)."""
    data_start, dictionary_start = chunk.integer(9), chunk.integer(11, 0)
    at = min(data_start, dictionary_start) if dictionary_start > 0 else data_start
    end = at + chunk.integer(7)
    if not 0 < at <= end <= file_bytes:
        raise DataError(f"column {column}: pages outside the file; fetch it again")
    while at < end:
        header, length = _read_header(file, at)
        page = _Page(header, at + length)
        where = f"column {column}: the page at byte {at:,}"
        if not 0 <= page.compressed <= file_bytes - at or page.size < 0 or page.num_values < 0:
            raise DataError(f"{where} has an invalid header; fetch it again")
        is_bomb = page.size > MAX_DENSE_PAGE_BYTES and page.size > MAX_COMPRESSION * page.compressed
        if is_bomb or page.size > MAX_PAGE_BYTES:
            raise DataError(f"{where} claims {page.size:,} bytes, from {page.compressed:,}; write it in smaller pages")
        yield page
        at += length + page.compressed


def _longest_value(file: BinaryIO, page: _Page, codec: int) -> int:
    """Return the length of the longest value of a dictionary page, which is a list of lengths and bytes."""
    import pyarrow

    file.seek(page.start)
    content = file.read(page.compressed)
    if codec and codec not in _CODECS:
        return page.size  # LZO, and LZ4 with the frames of Hadoop
    if codec:
        content = pyarrow.decompress(content, page.size, _CODECS[codec], asbytes=True)
    at = longest = 0
    while at + 4 <= len(content):
        length = int.from_bytes(content[at : at + 4], "little")
        longest = max(longest, length)
        at += 4 + length
    return longest


def _read_header(file: BinaryIO, at: int) -> tuple[ThriftStruct, int]:
    """Parse the page header at an offset, and return its fields and its length."""
    for size in (1 << 9, 1 << 14, _MAX_HEADER_BYTES):
        file.seek(at)
        reader = ThriftReader(file.read(size))
        try:
            return reader.struct(), reader.at
        except IndexError:  # longer than this, or damaged
            continue
    raise DataError(f"the page header at byte {at:,} is damaged; fetch it again")


def _is_nested(kind: "pyarrow.DataType") -> bool:
    """Return whether a type is neither plain nor a list of plain values."""
    import pyarrow.types as types

    is_wrapped = types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind)
    return types.is_nested(kind.value_type if is_wrapped else kind)


def _check_type(name: str, kind: "pyarrow.DataType") -> None:
    import pyarrow.types as types

    if types.is_struct(kind):
        fields = {field.name for field in kind}
        if not fields <= {"bytes", "path"}:
            raise DataError(f"column {name!r} has the fields {', '.join(sorted(fields))}; expected bytes and path")
    elif _is_nested(kind):
        raise DataError(f"column {name!r} is a {kind}; expected texts, lists of texts, labels or images")


def _rows_of(batch: "pyarrow.RecordBatch") -> Iterator[dict[str, Any] | str]:
    """Convert a batch to rows; for a row with more text than an image may have, yield the reason instead."""
    problems: dict[int, str] = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        for row in _large_rows(column):
            problems[row] = f"{name}: more than {MAX_TEXT_BYTES:,} characters"
    if not problems:
        yield from batch.to_pylist()
        return
    for row in range(batch.num_rows):
        yield problems.get(row) or batch.slice(row, 1).to_pylist()[0]


def _large_rows(column: "pyarrow.Array") -> list[int]:
    """Return the rows of a column of texts, or of lists of texts, that have more bytes than any usable text."""
    import pyarrow.types as types

    is_list = types.is_list(column.type) or types.is_large_list(column.type)
    values = column.values if is_list else column
    dictionary = values.dictionary if types.is_dictionary(values.type) else values
    kind = dictionary.type
    if not types.is_string(kind) and not types.is_large_string(kind):
        return []
    if dictionary.nbytes * (len(values) if dictionary is not values else 1) <= _MAX_UTF8_BYTES:  # even in one row
        return []
    if is_list:
        rows = [row for row in range(len(column)) if column[row].is_valid]
        return [row for row in rows if sum(_lengths(column[row].values)) > _MAX_UTF8_BYTES]
    return [row for row, length in enumerate(_lengths(column)) if length > _MAX_UTF8_BYTES]


def _lengths(values: "pyarrow.Array") -> list[int]:
    """Return the length of each text in bytes, without reading the values of a dictionary more than once."""
    import pyarrow.compute
    import pyarrow.types as types

    if not types.is_dictionary(values.type):
        return pyarrow.compute.fill_null(pyarrow.compute.binary_length(values), 0).to_pylist()
    lengths = pyarrow.compute.take(pyarrow.compute.binary_length(values.dictionary), values.indices)
    return pyarrow.compute.fill_null(lengths, 0).to_pylist()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
