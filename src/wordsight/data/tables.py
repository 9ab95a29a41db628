"""Tables (CSV, TSV, Parquet, JSON Lines, Flickr's caption files) as streams of rows.

In CSV and TSV every value is text, so that the caption "42" is not read as a number. The separator is detected from the
header, because open_clip and others write tabs, semicolons and pipes into files called `.csv`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from wordsight.data.delimited import (
    MAX_COLUMNS,
    MAX_RECORD_CHARS,
    bounded_lines,
    detect_separator,
    first_line,
    is_quoted_header,
    is_text,
    is_token_line,
    open_text,
    records_of,
    split_header,
    token_records,
)
from wordsight.data.parquet import ParquetTable
from wordsight.data.sample import parse_json
from wordsight.errors import DataError

TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".jsonl"})
IMAGE_NAMES = (
    "file", "filename", "file_name", "image", "picture", "image_path", "path", "filepath", "file_path", "img", "photo",
    "jpg", "png", "image_name", "image_file", "image_file_name", "image_filename", "img_path", "jpeg", "webp",
)  # fmt: skip
TEXT_NAMES = (
    "captions", "caption", "texts", "text", "description", "title", "prompt", "alt", "alt_text", "sentence", "comment",
    "sentences", "txt",
)  # fmt: skip
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "name", "fine_label", "cls")
_CAPTION_FILES = ("captions.txt", ".token", ".token.txt")
_NUM_SAMPLED_ROWS = 100


class Columns(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of a table to read.

    Attributes:
        image: column of image paths or image bytes.
        texts: columns of captions; each value is a text or a list of texts.
        label: column of class names or numbers.
        is_label_guessed: whether the label is optional, because the user has not named its column.
        others: further columns, which are carried along.
    """

    image: str
    texts: tuple[str, ...] = ()
    label: str | None = None
    is_label_guessed: bool = False
    others: tuple[str, ...] = ()


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
    """Return whether a path is an existing file with the name of a table."""
    try:
        return is_table_name(path.name) and path.is_file()
    except OSError:  # a path that is not searchable, or a name that is too long
        return False


def is_table_name(name: str) -> bool:
    """Return whether a file name is that of a table: its suffix, or `captions.txt` or `*.token.txt` as in Flickr8k."""
    name = name.lower()
    return name.endswith((*TABLE_SUFFIXES, *_CAPTION_FILES[1:])) or name == _CAPTION_FILES[0]


class Table:
    """A table in a directory or in a tar file, read row by row.

    Args:
        path: the file, for its suffix and for errors.
        open_file: opens its content, which is read from the start; by default the file at `path`.
        names: names of columns that are needed; they help to detect the separator.

    Raises:
        DataError: it cannot be read, or is not a table.

    Attributes:
        path: as given.
        columns: names of the columns in order; for JSON Lines, those that occur in the first 100 rows.
        binary_columns: those of a Parquet file that contain bytes.
        plain_columns: those that occur once and contain texts, numbers or lists of them, as far as that is known.
        num_rows: the number of rows, which only a Parquet file states; otherwise None.
    """

    def __init__(self, path: Path, open_file: Callable[[], BinaryIO] | None = None, names: Sequence[str] = ()) -> None:
        self.path = path
        self._open = open_file or (lambda: path.open("rb"))
        self._suffix = path.suffix.lower()
        self._separator = ""
        self._is_quoted = True
        self.binary_columns: frozenset[str] = frozenset()
        self.num_rows: int | None = None
        self._nested_columns: frozenset[str] = frozenset()
        self._class_names: dict[str, tuple[str, ...]] = {}
        try:
            with self._open() as file:
                self.columns = tuple(self._read_columns(file, names))
        except (OSError, ValueError, DataError) as error:
            raise self._error(error) from error
        if len(self.columns) > MAX_COLUMNS:
            raise DataError(f"{path}: {len(self.columns):,} columns; expected at most {MAX_COLUMNS:,}")
        counts = Counter(self.columns)
        unusable = self.binary_columns | self._nested_columns
        self.plain_columns = tuple(name for name in self.columns if counts[name] == 1 and name not in unusable)

    def rows(self, wanted: Columns) -> Iterator[Row]:
        """Yield the rows in order; from all formats but JSON Lines only the wanted columns are read.

        Raises:
            DataError: the table is damaged, or two columns have a wanted name.
        """
        names = list(dict.fromkeys([wanted.image, *wanted.texts, *([wanted.label] if wanted.label else [])]))
        for name in names:
            if self.columns.count(name) > 1:
                raise DataError(f"{self.path}: {self.columns.count(name)} columns are called {name!r}; rename them")
        others = [name for name in wanted.others if name not in names]
        try:
            with self._open() as file:
                if self._suffix == ".parquet":
                    yield from self._parquet_rows(file, names, others)
                elif self._suffix == ".jsonl":
                    yield from jsonl_rows(bounded_lines(file), self.path.name)
                else:
                    yield from self._text_rows(file, names, others)
        except (OSError, ValueError, DataError) as error:
            raise self._error(error) from error

    def class_names(self, column: str) -> tuple[str, ...]:
        """Return the names of the classes of a column, which Parquet files of Hugging Face datasets contain."""
        return self._class_names.get(column, ())

    def _error(self, error: Exception) -> DataError:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:300]
        return DataError(f"{self.path}: not a readable {self._suffix[1:]} table: {reason}")

    def _read_columns(self, file: BinaryIO, names: Sequence[str]) -> Sequence[str]:
        if self._suffix == ".parquet":
            table = ParquetTable(file)
            self._class_names = _class_names(table.metadata)
            self.binary_columns = table.binary_columns
            self._nested_columns = table.nested_columns
            self.num_rows = table.num_rows
            return table.columns
        if self._suffix == ".jsonl":
            rows = list(islice(jsonl_rows(bounded_lines(file), self.path.name), _NUM_SAMPLED_ROWS))
            columns = list(dict.fromkeys(name for row in rows for name in row.values))
            if rows and rows[0].problem and not columns:
                raise DataError(f"row {rows[0].name.rpartition(' ')[2]}: {rows[0].problem}")
            return columns
        with open_text(file) as text:
            header = first_line(text)
        if self._suffix not in (".csv", ".tsv") and is_token_line(header):
            return ("image", "caption")
        self._is_quoted = self._suffix != ".tsv" or is_quoted_header(header)
        known = {*names, *IMAGE_NAMES, *TEXT_NAMES, *LABEL_NAMES}
        self._separator = detect_separator(
            header,
            self._is_quoted,
            lambda fields: sum(field in known or simplified(field) in known for field in fields),
            "\t" if self._suffix == ".tsv" else ",",
        )
        return split_header(header, self._separator, self._is_quoted)

    def _parquet_rows(self, file: BinaryIO, names: list[str], others: list[str]) -> Iterator[Row]:
        for number, values in enumerate(ParquetTable(file).rows(names, others), start=1):
            row_name = f"{self.path.name} row {number}"
            yield Row(row_name, {}, values) if isinstance(values, str) else Row(row_name, values)

    def _text_rows(self, file: BinaryIO, names: list[str], others: list[str]) -> Iterator[Row]:
        positions = [self.columns.index(name) for name in names]
        read = {name: self.columns.index(name) for name in [*names, *others]}
        with open_text(file) as text:
            if self._separator:
                records = records_of(text, self._separator, self._is_quoted)
                next(records, None)  # the header, which is row 1, as in an editor
            else:
                records = token_records(text)
            first_problem, is_any_good = "", False
            for number, fields in records:
                problem = fields if isinstance(fields, str) else self._problem_of(fields, positions)
                values = {} if problem else {name: fields[at] for name, at in read.items()}
                is_any_good |= not problem
                first_problem = first_problem or f"row {number}: {problem}"
                yield Row(f"{self.path.name} row {number}", values, problem)
            if first_problem and not is_any_good:
                raise DataError(first_problem)

    def _problem_of(self, fields: Sequence[str], positions: Sequence[int]) -> str:
        surplus = len(fields) - len(self.columns)
        if surplus < 0 or (surplus and any(map(str.strip, fields[-surplus:]))):
            return f"{len(fields)} values, but the header has {len(self.columns)} columns"
        return "" if is_text("".join([fields[position] for position in positions])) else "not UTF-8"


def _class_names(metadata: dict[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """The names of classes by column in the schema of a Hugging Face dataset: `info.features.COLUMN.names`."""
    try:
        features = msgspec.json.decode(metadata.get(b"huggingface", b""))["info"]["features"]
        return {
            column: tuple(map(str, feature["names"]))
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError):
        return {}


def jsonl_rows(lines: Iterable[bytes | None], name: str) -> Iterator[Row]:
    """Yield one row per line that is not blank; a line that is not a JSON object is a row with a problem.

    Args:
        lines: lines of a JSON Lines file; None for one that is too long.
        name: name of the file, for the names of the rows.
    """
    for number, line in enumerate(lines, start=1):
        row_name = f"{name} row {number}"
        if line is None:
            yield Row(row_name, {}, f"more than {MAX_RECORD_CHARS:,} bytes")
            continue
        if not line.strip():
            continue
        try:
            values = parse_json(line)
        except DataError as error:
            yield Row(row_name, {}, str(error))
            continue
        yield Row(row_name, values) if isinstance(values, dict) else Row(row_name, {}, "not a JSON object")


def simplified(column: str) -> str:
    """Return the name of a column for comparisons: lower case, and underscores instead of spaces."""
    return column.strip().lower().replace(" ", "_")
