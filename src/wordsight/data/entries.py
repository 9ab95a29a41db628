"""Records of a source, and the collection of rows that describe the same image."""

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from wordsight.data.class_names import LabelNames
from wordsight.data.columns import carried_values
from wordsight.data.sample import MAX_TEXT_BYTES, Texts, clean_texts
from wordsight.data.tables import Columns, Row
from wordsight.errors import DataError

_UNUSUAL = re.compile(r"(?:^|/)\.{0,2}(?:/|$)")  # empty, `.` and `..` parts of paths


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An image that can be packed, with its texts.

    Attributes:
        file: path of the image in its source, such as `cats/1.jpg`; for a table of bytes the row, as `row-000000003`.
        name: identifies the image in outputs and errors, as `ImageRef.name` does.
        read: returns the bytes of the image file, or raises DataError with the reason.
        texts: captions, the names of its label, or both.
        problem: the reason why it cannot be packed, if that is known before the image is read; otherwise empty.
    """

    file: str
    name: str
    read: Callable[[], bytes]
    texts: Texts = Texts()
    problem: str = ""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a source.

    Attributes:
        layout: the detected layout, such as `captions.jsonl`, for the summary.
        count: number of records; None if it is not known before they are read.
        records: can be iterated once.
        check: raises DataError if none of the images that a table names exists; called before anything is written.
    """

    layout: str
    count: int | None
    records: Iterator[Record]
    check: Callable[[], None] = lambda: None


class Entry:
    """The texts of one image, collected from all its rows.

    Attributes:
        row: name of the first of these rows, for errors.
    """

    def __init__(self, row: str) -> None:
        self.row = row
        self.captions: list[str] = []
        self.names: tuple[str, ...] = ()
        self.columns: Mapping[str, Any] = {}
        self.problem = ""
        self.conflict = ""
        self._num_characters = 0
        self._is_ambiguous = False

    def add(self, texts: Texts, is_label_guessed: bool = False) -> None:
        """Add the texts of one row, and its other values if it is the first.

        Args:
            texts: of the row.
            is_label_guessed: whether captions make a label optional, so that one that differs between rows is dropped.
        """
        self._num_characters += sum(map(len, texts.captions))
        if self._num_characters > MAX_TEXT_BYTES:  # a table can repeat a row billions of times
            self.conflict = f"{self.row}: more than {MAX_TEXT_BYTES:,} characters in all rows of this image"
            return
        self.captions += texts.captions
        self.columns = self.columns or texts.columns
        if self.names and texts.names and texts.names != self.names:
            if is_label_guessed and self.captions:
                self._is_ambiguous = True
            else:
                self.conflict = f"{self.row}: labelled {self.names[0]!r} here and {texts.names[0]!r} in another row"
        self.names = () if self._is_ambiguous else self.names or texts.names

    def record(self, file: str, name: str, read: Callable[[], bytes], missing: str = "") -> Record:
        """Return the record of this image.

        Args:
            file: path of the image.
            name: identifies it in outputs.
            read: returns its bytes.
            missing: the reason why there is no such image; empty if there is one.
        """
        problem = self.conflict or ("" if self.captions or self.names else self.problem)
        if missing:
            problem = problem or f"{self.row}: {missing}"
        texts = Texts(tuple(self.captions), self.names, self.columns)
        return Record(file=file, name=name, read=read, texts=texts, problem=problem)


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
            texts = texts_of_row(row, columns, labels, tuple(file.split("/")[:-1]))
            entry.add(texts, columns.is_label_guessed)
        except DataError as error:
            entry.problem = entry.problem or str(error)


def texts_of_row(row: Row, columns: Columns, labels: LabelNames, directories: tuple[str, ...]) -> Texts:
    """Return the texts of a row: its captions, the names of its label, or both.

    Args:
        row: from a table.
        columns: those to read.
        labels: names of classes.
        directories: those that contain the image.

    Raises:
        DataError: the row has no usable text, or its label has no name; the message names the row. An empty cell is not
            an error if there is another text, and a label in a column that nobody named is not one if there are
            captions.
    """
    try:
        captions, problem = _captions_of_row(row, columns)
        names = _names_of_row(row, columns, labels, directories, bool(captions))
        if problem is not None and not captions and not names:
            raise problem
    except DataError as error:
        raise DataError(f"{row.name}: {error}") from error
    return Texts(captions, names, carried_values(row.values, columns.others))


def _captions_of_row(row: Row, columns: Columns) -> tuple[tuple[str, ...], DataError | None]:
    """Return the captions in all columns and, for a column without one, the reason."""
    captions: list[str] = []
    problem: DataError | None = None
    for column in columns.texts:
        try:
            captions += clean_texts(row.values.get(column), column)
        except DataError as error:
            problem = problem or error
    return clean_texts(captions, "texts") if captions else (), problem


def _names_of_row(
    row: Row, columns: Columns, labels: LabelNames, directories: tuple[str, ...], has_captions: bool
) -> tuple[str, ...]:
    label = row.values.get(columns.label) if columns.label else None
    is_empty = label is None or (isinstance(label, str) and not label.strip())
    if not columns.label or (is_empty and columns.texts):
        return ()
    try:
        return labels.names_of(label, row.values, directories)
    except DataError:
        if has_captions and columns.is_label_guessed:
            return ()
        raise


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
