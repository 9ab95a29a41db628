"""CSV, TSV, Parquet and JSON Lines tables as streams of rows, and the choice of image, text and label columns.

In CSV and TSV every value is text, so that the caption "42" is not read as a number.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.sample import parse_json
from wordsight.errors import DataError, nearest

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".jsonl"})
IMAGE_NAMES = (
    "file", "filename", "file_name", "image", "picture", "image_path", "path", "filepath", "file_path", "img", "photo",
    "jpg", "png",
)  # fmt: skip
TEXT_NAMES = (
    "captions", "caption", "texts", "text", "description", "title", "prompt", "alt", "alt_text", "sentence",
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "name", "fine_label")
_NUM_SAMPLED_ROWS = 100
_ROWS_PER_BATCH = 64


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a table to read.

    Attributes:
        image: column of image paths or image bytes.
        texts: columns of captions; each value is a text or a list of texts.
        label: column of class names or numbers; None if there are texts.
    """

    image: str
    texts: tuple[str, ...] = ()
    label: str | None = None


class Row(msgspec.Struct, frozen=True):
    """One row of a table.

    Attributes:
        name: file and row number, such as `captions.csv row 3`, for errors.
        values: value by column; empty if the row cannot be read.
        problem: the reason why the row cannot be read; empty otherwise.
    """

    name: str
    values: dict[str, Any]
    problem: str = ""


def is_table(path: Path) -> bool:
    """Return whether a path is an existing file with the suffix of a table."""
    return path.suffix.lower() in TABLE_SUFFIXES and path.is_file()


class Table:
    """A table on disk, read row by row.

    Attributes:
        path: the file.
        columns: names of the columns in order; for JSON Lines, those that occur in the first 100 rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._suffix = path.suffix.lower()
        try:
            self.columns = tuple(self._read_columns())
        except (OSError, ValueError) as error:
            raise self._error(error) from error

    def rows(self, wanted: Columns) -> Iterator[Row]:
        """Yield the rows in order; from CSV, TSV and Parquet only the wanted columns are read.

        Raises:
            DataError: the table is damaged.
        """
        names = [wanted.image, *wanted.texts, *([wanted.label] if wanted.label else [])]
        try:
            if self._suffix == ".parquet":
                yield from self._parquet_rows(names)
            elif self._suffix == ".jsonl":
                with self.path.open("rb") as file:
                    yield from jsonl_rows(file, self.path.name)
            else:
                yield from self._csv_rows(names)
        except (OSError, ValueError) as error:
            raise self._error(error) from error

    def _error(self, error: Exception) -> DataError:
        return DataError(f"{self.path}: not a readable {self._suffix[1:]} table: {' '.join(str(error).split())[:300]}")

    def _read_columns(self) -> Sequence[str]:
        if self._suffix == ".parquet":
            import pyarrow.parquet

            with pyarrow.parquet.ParquetFile(self.path) as file:
                return list(file.schema_arrow.names)
        if self._suffix == ".jsonl":
            with self.path.open("rb") as file:
                rows = zip(range(_NUM_SAMPLED_ROWS), jsonl_rows(file, self.path.name), strict=False)
                return list(dict.fromkeys(name for _, row in rows for name in row.values))
        with self.path.open(encoding="utf-8-sig", newline="") as text:
            try:
                return next(csv.reader(text, delimiter=self._delimiter), [])
            except csv.Error as error:
                raise ValueError(error) from error

    @property
    def _delimiter(self) -> str:
        return "\t" if self._suffix == ".tsv" else ","

    def _parquet_rows(self, names: list[str]) -> Iterator[Row]:
        import pyarrow.parquet

        with pyarrow.parquet.ParquetFile(self.path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=list(dict.fromkeys(names))):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{self.path.name} row {number}", values)

    def _csv_rows(self, names: list[str]) -> Iterator[Row]:
        import pyarrow
        import pyarrow.csv

        kept = list(dict.fromkeys(names))
        reader = pyarrow.csv.open_csv(
            self.path,
            read_options=pyarrow.csv.ReadOptions(block_size=1 << 24),
            parse_options=pyarrow.csv.ParseOptions(delimiter=self._delimiter, newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                include_columns=kept,
                column_types={name: pyarrow.string() for name in kept},  # the caption "42" stays a text
                strings_can_be_null=False,
            ),
        )
        number = 1  # the header is row 1, as in an editor
        with reader:
            for batch in reader:
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{self.path.name} row {number}", values)


def jsonl_rows(lines: Iterable[bytes], name: str) -> Iterator[Row]:
    """Yield one row per line that is not blank; a line that is not a JSON object is a row with a problem.

    Args:
        lines: lines of a JSON Lines file.
        name: name of the file, for the names of the rows.
    """
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        row_name = f"{name} row {number}"
        try:
            values = parse_json(line)
        except DataError as error:
            yield Row(row_name, {}, str(error))
            continue
        yield Row(row_name, values) if isinstance(values, dict) else Row(row_name, {}, "not a JSON object")


def choose_columns(
    table: Table, image: str | None = None, texts: Sequence[str] = (), label: str | None = None
) -> Columns:
    """Choose the columns to read: those given, and guesses by name for the others.

    Raises:
        DataError: a given column does not exist, or no column looks like an image, a text or a label; the message lists
            the columns.
    """
    columns = f"the columns are: {', '.join(table.columns) or 'none'}"
    for name in (*([image] if image else []), *texts, *([label] if label else [])):
        if name not in table.columns:
            raise DataError(f"{table.path}: no column {name!r}; {columns}{nearest(name, table.columns)}")
    image = image or guess_column(table.columns, IMAGE_NAMES)
    if image is None:
        raise DataError(f"{table.path}: no column looks like an image; name it with --image-column; {columns}")
    others = [name for name in table.columns if name != image]
    if not texts and label is None:
        text = guess_column(others, TEXT_NAMES)
        texts = [text] if text else []
        label = None if text else guess_column(others, LABEL_NAMES)
    if not texts and label is None:
        raise DataError(
            f"{table.path}: no column looks like a text or a label; use --text-column or --label-column; {columns}"
        )
    return Columns(image=image, texts=tuple(texts), label=label)


def guess_column(columns: Sequence[str], usual_names: Sequence[str]) -> str | None:
    """Return the column with the first of several usual names, which are ordered by preference; None if there is none.

    Case, surrounding white space and spaces instead of underscores make no difference.
    """
    by_name = {column.strip().lower().replace(" ", "_"): column for column in reversed(columns)}
    return next((by_name[name] for name in usual_names if name in by_name), None)
