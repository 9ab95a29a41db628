"""Records of a source, and the collection of rows that describe the same image."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.class_names import LabelNames
from wordsight.data.sample import MAX_TEXT_BYTES, Texts, clean_texts
from wordsight.data.tables import Columns, Row
from wordsight.errors import DataError

_UNUSUAL = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # empty, `.` and `..` parts of paths


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An image that can be packed, with its texts.

    Attributes:
        file: path of the image in its source, such as `cats/1.jpg`; for a table of bytes the row, as `row-000000003`.
        read: returns the bytes of the image file, or raises DataError with the reason.
        texts: captions, or the names of its label.
        problem: the reason why it cannot be packed, if that is known before the image is read; otherwise empty.
    """

    file: str
    read: Callable[[], bytes]
    texts: Texts = Texts()
    problem: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a source.

    Attributes:
        layout: the detected layout, such as `captions.jsonl`, for the summary.
        count: number of records; None if it is not known before they are read.
        records: can be iterated once.
    """

    layout: str
    count: int | None
    records: Iterator[Record]


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The user's options for a source; everything else is detected.

    Attributes:
        image_column, text_columns, label_column: columns of a table; None and empty are guessed by name.
        names: JSON file of class names; see `class_names.py`.
    """

    image_column: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    names: Path | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the user has named."""
        return tuple(filter(None, (self.image_column, *self.text_columns, self.label_column)))


class Entry:
    """The texts of one image, collected from all its rows.

    Attributes:
        row: name of the first of these rows, for errors.
    """

    def __init__(self, row: str) -> None:
        self.row = row
        self.captions: list[str] = []
        self.names: tuple[str, ...] = ()
        self.problem = ""
        self.conflict = ""
        self._num_characters = 0

    def add(self, texts: Texts) -> None:
        """Add the texts of one row."""
        self._num_characters += sum(map(len, texts.captions))
        if self._num_characters > MAX_TEXT_BYTES:  # a table can repeat a row billions of times
            self.conflict = f"{self.row}: more than {MAX_TEXT_BYTES:,} characters in all rows of this image"
            return
        self.captions += texts.captions
        if self.names and texts.names and texts.names != self.names:
            self.conflict = f"{self.row}: labelled {self.names[0]!r} here and {texts.names[0]!r} in another row"
        self.names = self.names or texts.names

    def record(self, file: str, read: Callable[[], bytes], missing: str = "") -> Record:
        """Return the record of this image.

        Args:
            file: path of the image.
            read: returns its bytes.
            missing: the reason why there is no such image; empty if there is one.
        """
        problem = self.conflict or ("" if self.captions or self.names else self.problem)
        if missing:
            problem = problem or f"{self.row}: {missing}"
        return Record(file=file, read=read, texts=Texts(tuple(self.captions), self.names), problem=problem)


def group(
    rows: Iterable[Row],
    columns: Columns,
    labels: LabelNames,
    entries: dict[str, Entry],
    locate: Callable[[str], str] = str,
) -> None:
    """Collect rows by image, in the order of first appearance, because a table can have one row per caption.

    Args:
        rows: from a table.
        columns: those to read.
        labels: names of classes.
        entries: receives the texts by image.
        locate: returns the key in `entries`, given the path in the table.
    """
    for row in rows:
        file = path_of(row.values.get(columns.image))
        entry = entries.setdefault(locate(file) if file else row.name, Entry(row.name))
        try:
            if not file:
                raise DataError(f"{row.name}: {row.problem or 'no image'}")
            entry.add(texts_of_row(row, columns, labels, tuple(file.split("/")[:-1])))
        except DataError as error:
            entry.problem = entry.problem or str(error)


def texts_of_row(row: Row, columns: Columns, labels: LabelNames, directories: tuple[str, ...]) -> Texts:
    """Return the texts of a row.

    Args:
        row: from a table.
        columns: those to read.
        labels: names of classes.
        directories: those that contain the image.

    Raises:
        DataError: the row has no usable text; the message names the row.
    """
    try:
        if columns.label:
            return Texts(names=labels.names_of(row.values.get(columns.label), row.values, directories))
        captions: list[str] = []
        problem: DataError | None = None
        for column in columns.texts:
            try:
                captions += clean_texts(row.values.get(column), column)
            except DataError as error:
                problem = problem or error
        if not captions and problem is not None:
            raise problem
        return Texts(captions=clean_texts(captions, "texts"))
    except DataError as error:
        raise DataError(f"{row.name}: {error}") from error


def bytes_of(value: Any) -> bytes | None:
    """The bytes of an image: the value of a binary column, or of `{"bytes", "path"}` as in Hugging Face datasets."""
    if isinstance(value, dict):
        value = value.get("bytes")
    return value if isinstance(value, bytes) else None


def path_of(value: Any) -> str | None:
    """The normalised path of an image: the value of a text column, or of `{"bytes", "path"}`."""
    if isinstance(value, dict):
        value = value.get("path")
    path = value.strip() if isinstance(value, str) else ""
    if not path:
        return None
    return posixpath.normpath(path) if _UNUSUAL.search(path) and "://" not in path else path
