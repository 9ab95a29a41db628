"""CSV, Parquet and JSONL tables as rows, and which of their columns are image, text and label."""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.sample import read_json
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
_ROWS_LOOKED_AT = 100
_ROWS_A_BATCH = 64


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns of a table mean what.

    Attributes:
        image: path of the image, or its bytes.
        texts: each a text or a list of texts.
        label: a class, by name or number; None where there are texts.
    """

    image: str
    texts: tuple[str, ...] = ()
    label: str | None = None


class Row(msgspec.Struct, frozen=True):
    """One row: where it stands, as `captions.csv row 3`, and its values; or why it cannot be read."""

    place: str
    values: dict[str, Any]
    problem: str = ""


class Table:
    """A table on disk, read row by row.

    Attributes:
        columns: their names, in order; of JSONL those of the first 100 rows.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._suffix = path.suffix.lower()
        try:
            self.columns = tuple(self._read_columns())
        except (OSError, ValueError) as error:
            raise self._error(error) from error

    def rows(self, wanted: Columns) -> Iterator[Row]:
        """The rows, in order; of CSV and Parquet only the wanted columns.

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
                rows = zip(range(_ROWS_LOOKED_AT), jsonl_rows(file, self.path.name), strict=False)
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
            for batch in file.iter_batches(batch_size=_ROWS_A_BATCH, columns=list(dict.fromkeys(names))):
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
                column_types={name: pyarrow.string() for name in kept},  # a caption "42" stays a text
                strings_can_be_null=False,
            ),
        )
        number = 1  # the header is row 1, as an editor counts
        with reader:
            for batch in reader:
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{self.path.name} row {number}", values)


def jsonl_rows(lines: Iterator[bytes] | Any, name: str) -> Iterator[Row]:
    """One row for each line that is not blank; a line that is not a JSON object is a row with a problem."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        place = f"{name} row {number}"
        try:
            values = read_json(line)
        except DataError as error:
            yield Row(place, {}, str(error))
            continue
        yield Row(place, values) if isinstance(values, dict) else Row(place, {}, "not a JSON object")


def choose_columns(
    table: Table, image: str | None = None, texts: Sequence[str] = (), label: str | None = None
) -> Columns:
    """The columns to use: those named, and guesses for the others.

    Raises:
        DataError: a named column is not there, or nothing looks like a image or a text; lists the columns.
    """
    there = f"the columns are: {', '.join(table.columns) or 'none'}"
    for name in (*([image] if image else []), *texts, *([label] if label else [])):
        if name not in table.columns:
            raise DataError(f"{table.path}: no column {name!r}{nearest(name, table.columns)}; {there}")
    image = image or guess_column(table.columns, IMAGE_NAMES)
    if image is None:
        raise DataError(f"{table.path}: no column looks like a image; name it with --image-column; {there}")
    others = [name for name in table.columns if name != image]
    if not texts and label is None:
        text = guess_column(others, TEXT_NAMES)
        texts = [text] if text else []
        label = None if text else guess_column(others, LABEL_NAMES)
    if not texts and label is None:
        raise DataError(
            f"{table.path}: no column looks like a text or a label; use --text-column or --label-column; {there}"
        )
    return Columns(image=image, texts=tuple(texts), label=label)


def guess_column(columns: Sequence[str], known: Sequence[str]) -> str | None:
    """The column whose name stands first among the known names."""
    by_name = {column.strip().lower().replace(" ", "_"): column for column in reversed(columns)}
    return next((by_name[name] for name in known if name in by_name), None)
