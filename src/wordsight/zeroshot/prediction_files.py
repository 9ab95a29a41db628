"""Predictions in a file: CSV, JSON Lines or Parquet, with one row per image, also for an image that cannot be read.

The columns are those of `COLUMNS`, without the optional ones that are empty in every row, and then the other columns of
the table from which the images come. One that has the name of a column of ours is written as `input_NAME`.

Rows are collected in a temporary file as JSON, because the columns are known only at the end. The file appears complete
or not at all, and replaces only a file that was written here.
"""

import csv
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any, BinaryIO

import msgspec

from wordsight.errors import ConfigError, OutputError, encodable
from wordsight.files import check_writable, open_atomic, open_regular

COLUMNS = ("image", "label", "probability", "labels", "ranking")
OPTIONAL_COLUMNS = ("path", "reason", "true_label", "is_correct", "error")
"""In the order in which they are written; `error` is always written."""

SUFFIXES = (".csv", ".jsonl", ".parquet")
SEPARATOR = "; "
"""Between the labels of an image in a CSV file."""

FORMAT_KEY, FORMAT = b"wordsight.format", b"wordsight-predictions-1"

_ROWS_PER_GROUP = 4096
_MAX_HEADER_BYTES = 1 << 16
_INT64 = range(-(1 << 63), 1 << 63)


def check_output_path(path: Path, labels: Sequence[str]) -> None:
    """Refuse an unsupported or unwritable path, before any work is done.

    Args:
        path: the file to write.
        labels: the labels of the classifier.

    Raises:
        ConfigError: the suffix is another one, or a label contains the character that separates labels in CSV.
        OutputError: the path is not writable, or a file that is not one of predictions would be replaced.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ConfigError(f"{path}: unsupported type of file; expected a name that ends in {', '.join(SUFFIXES)}")
    clash = next((label for label in labels if ";" in label), None)
    if suffix == ".csv" and clash is not None:
        raise ConfigError(
            f"{path}: label {clash!r} contains ';', which separates the labels of an image in CSV; choose a name that "
            "ends in .jsonl or .parquet"
        )
    check_writable(path)
    if path.exists() and not _is_prediction_file(path):
        raise OutputError(f"{path}: exists and is not a file of predictions; choose another path")


class PredictionWriter:
    """Collects the rows of a file of predictions, and writes it.

    Args:
        path: the file to write, after `check_output_path`; its suffix says in which format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._suffix = path.suffix.lower()
        self._optional: set[str] = {"error"}
        self._kinds: dict[str, set[type]] = {}  # of the carried columns
        self._rows: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - see `close`

    def add(self, row: Mapping[str, Any], carried: Mapping[str, Any]) -> None:
        """Add the row of an image.

        Args:
            row: value of each column in `COLUMNS`, and of some in `OPTIONAL_COLUMNS`.
            carried: other columns of the table from which the image comes.
        """
        values: dict[str, Any] = {
            _free_name(name, carried): msgspec.to_builtins(value, enc_hook=str) for name, value in carried.items()
        }
        for name, value in values.items():
            kinds = self._kinds.setdefault(name, set())
            if value is not None:
                kinds.add(str if isinstance(value, int) and value not in _INT64 else type(value))
        self._optional |= row.keys() - set(COLUMNS)
        self._rows.write(msgspec.json.encode({**row, **values}) + b"\n")

    def write(self) -> None:
        """Write the file.

        Raises:
            OutputError: the path is not writable.
        """
        columns = [*COLUMNS, *(name for name in OPTIONAL_COLUMNS if name in self._optional), *self._kinds]
        writers: dict[str, Callable[[BinaryIO, list[str]], None]] = {
            ".csv": self._write_csv,
            ".jsonl": self._write_json_lines,
            ".parquet": self._write_parquet,
        }
        with open_atomic(self.path) as file:
            writers[self._suffix](file, columns)

    def close(self) -> None:
        """Delete the temporary file."""
        self._rows.close()

    def _read(self) -> Iterator[dict[str, Any]]:
        self._rows.seek(0)
        for line in self._rows:
            yield msgspec.json.decode(line)

    def _write_csv(self, file: BinaryIO, columns: list[str]) -> None:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_cell(row.get(name)) for name in columns] for row in self._read())
        text.flush()
        text.detach()

    def _write_json_lines(self, file: BinaryIO, columns: list[str]) -> None:
        for row in self._read():
            file.write(msgspec.json.encode({name: row.get(name) for name in columns}) + b"\n")

    def _write_parquet(self, file: BinaryIO, columns: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        ranking = pa.list_(pa.struct([("label", pa.string()), ("probability", pa.float64())]))
        types = {"probability": pa.float64(), "labels": pa.list_(pa.string()), "ranking": ranking}
        types |= {"path": pa.list_(pa.string()), "is_correct": pa.bool_()}
        names = {frozenset({bool}): pa.bool_(), frozenset({int}): pa.int64()}
        names |= dict.fromkeys((frozenset({float}), frozenset({int, float})), pa.float64())
        types |= {name: names.get(frozenset(kinds), pa.string()) for name, kinds in self._kinds.items()}
        fields = [(name, types.get(name, pa.string())) for name in columns]
        schema = pa.schema(fields, metadata={FORMAT_KEY: FORMAT})
        rows = self._read()
        with pq.ParquetWriter(file, schema) as writer:
            while group := list(islice(rows, _ROWS_PER_GROUP)):
                for row in group:
                    row.update({name: _text(row.get(name)) for name in self._kinds if types[name] == pa.string()})
                writer.write_table(pa.Table.from_pylist(group, schema))


def _free_name(name: str, carried: Mapping[str, Any]) -> str:
    """Return a name for a carried column that is neither one of ours nor that of another carried column."""
    free = encodable(name)
    while free in (*COLUMNS, *OPTIONAL_COLUMNS) or (free != name and free in carried):
        free = f"input_{free}"
    return free


def _text(value: Any) -> str | None:
    """Return a value as text: itself, or as JSON."""
    return value if value is None or isinstance(value, str) else msgspec.json.encode(value).decode()


def _cell(value: Any) -> str:
    """Return a value as the cell of a CSV file."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return SEPARATOR.join(value)
    if isinstance(value, list) and all(
        isinstance(item, dict) and item.keys() == {"label", "probability"} for item in value
    ):
        return SEPARATOR.join(f"{item['label']} {item['probability']:.4f}" for item in value)
    return _text(value) or ""


def _is_prediction_file(path: Path) -> bool:
    """Return whether a file was written here, by its beginning."""
    try:
        if path.suffix.lower() == ".parquet":
            import pyarrow.parquet as pq

            return (pq.read_schema(path).metadata or {}).get(FORMAT_KEY) == FORMAT
        with open_regular(path) as file:
            line = file.readline(_MAX_HEADER_BYTES)
        if path.suffix.lower() == ".csv":
            return line.startswith(",".join(COLUMNS).encode())
        row = msgspec.json.decode(line)
        return isinstance(row, dict) and tuple(row)[: len(COLUMNS)] == COLUMNS
    except (OSError, ValueError, msgspec.DecodeError):
        return False
