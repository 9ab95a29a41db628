"""The choice of the columns of a table: those that the user names, and guesses by their usual names for the others.

A table can have captions and a label: both are read. All other columns are carried along to the output of a command,
within bounds.
"""

from collections.abc import Collection, Mapping, Sequence
from difflib import SequenceMatcher
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.tables import IMAGE_NAMES, LABEL_NAMES, TEXT_NAMES, Columns, Table, simplified
from wordsight.errors import DataError, encodable, nearest
from wordsight.image import is_image_file

MAX_CARRIED_COLUMNS = 100
"""Tables of products that shop systems export have about 60 columns."""

MAX_CARRIED_CHARACTERS = 1 << 16
"""Of all other columns of one row; a longer text is cut and ends with `...`."""

_SUFFIXES = ".csv, .tsv, .parquet, .jsonl"
_ADDRESS_NAMES = ("url", "image_url", "img_url", "urls")
_NUM_SHOWN_COLUMNS = 20
_NUM_SHOWN_CHARACTERS = 24
_NUM_DESCRIBED_ROWS = 20
_MIN_SIMILARITY = 0.6  # of a column's name and a usual name
_MAX_NAME_CHARACTERS = 40  # of a name that is compared
_EMPTY: tuple[Any, ...] = (None, "", [], {})
_MAX_INTEGER = 1 << 63  # what a column of a Parquet file can hold


class InputOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a command reads its inputs; everything else is detected.

    Attributes:
        image_column, text_columns, label_column: columns of a table; None and empty are guessed by name.
        image_root: directory to which the paths in a table are relative; by default that of the table and, for images
            that are not there, the working directory.
        names: file of class names; see `class_names.py`.
    """

    image_column: str | None = None
    text_columns: tuple[str, ...] = ()
    label_column: str | None = None
    image_root: Path | None = None
    names: Path | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the user has named."""
        return tuple(filter(None, (self.image_column, *self.text_columns, self.label_column)))


def refuse_table_options(path: str | Path, options: InputOptions) -> None:
    """Refuse the options that only tables have, for an input that is not one.

    Raises:
        DataError: the options name columns or the directory of the images.
    """
    if options.columns:
        raise DataError(f"{path}: not a table ({_SUFFIXES}); only tables have columns to choose")
    if options.image_root:
        raise DataError(f"{path}: not a table ({_SUFFIXES}); --image-root is for the paths in a table")


def choose_columns(table: Table, options: InputOptions | None = None, needs_texts: bool = True) -> Columns:
    """Choose the columns to read: those that the options name, and guesses by name for the others.

    Args:
        table: the table.
        options: names of columns.
        needs_texts: whether there must be a column of texts or labels.

    Raises:
        DataError: a given column does not exist, or no column looks like an image, a text or a label; the message lists
            the columns and what they hold.
    """
    options = options or InputOptions()
    for name in options.columns:
        if name not in table.columns:
            raise DataError(f"{table.path}: no column {name!r}; {_describe(table)}{nearest(name, table.columns)}")
    image = options.image_column or _guess_image_column(table)
    label, texts = options.label_column, options.text_columns
    free = [name for name in table.columns if name not in (image, label, *texts)]
    if not texts:
        usual: tuple[str, ...] = (
            TEXT_NAMES if label is None else (*TEXT_NAMES, "name")
        )  # a product has a name and a category
        text = _guess_column(free, usual)
        texts = (text,) if text else ()
    is_label_guessed = label is None
    if label is None:
        usual = tuple(name for name in LABEL_NAMES if name != "name") if texts else LABEL_NAMES
        label = _guess_column([name for name in free if name not in texts], usual)
    if label is not None and not texts and simplified(label) != "name":
        text = _guess_column([name for name in free if name != label], ("name",))
        texts = (text,) if text else ()
    if needs_texts and not texts and label is None:
        advice = "no column looks like a text or a label; use --text-column or --label-column"
        similar = _nearest_usual(free, (*TEXT_NAMES, *LABEL_NAMES))
        raise DataError(f"{table.path}: {advice}; {_describe(table)}{similar}")
    others = other_columns(table, [image, label, *texts])
    return Columns(image=image, texts=texts, label=label, is_label_guessed=is_label_guessed, others=others)


def other_columns(table: Table, used: Collection[str | None]) -> tuple[str, ...]:
    """Return the columns that are carried along: all that hold plain values, except for those that are used."""
    return tuple(name for name in table.plain_columns if name not in used)[:MAX_CARRIED_COLUMNS]


def carried_values(values: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the values of columns that are carried along: texts, numbers, truth values and None.

    Lists and objects become JSON. Texts beyond `MAX_CARRIED_CHARACTERS` in all are cut, and end with `...`.
    """
    carried = {}
    left = MAX_CARRIED_CHARACTERS
    for name in names:
        value = _plain(values.get(name))
        if isinstance(value, str):
            value = value if len(value) <= left else f"{value[:left]}..."
            left = max(0, left - len(value))
        carried[encodable(name)] = value
    return carried


def _plain(value: Any) -> str | int | float | None:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return value if -_MAX_INTEGER <= value < _MAX_INTEGER else str(value)
    if isinstance(value, list | dict):
        try:
            return msgspec.json.encode(value).decode()
        except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
            return None
    return encodable(value)  # also dates and decimal numbers


def _guess_image_column(table: Table) -> str:
    image = _guess_column(table.columns, IMAGE_NAMES)
    if image is not None:
        return image
    if any(map(is_image_file, table.columns)):
        advice = "; its first line looks like a row: add a line with the names of the columns, such as image,caption"
    elif _guess_column(table.columns, _ADDRESS_NAMES):
        advice = "; its images are web addresses: fetch them first, for example with img2dataset"
    else:
        advice = "; name it with --image-column"
    named = next((name for name, value in _examples(table).items() if _is_image(value)), None)
    similar = f"; did you mean {named!r}?" if named else _nearest_usual(table.columns, IMAGE_NAMES)
    raise DataError(f"{table.path}: no column looks like an image{advice}; {_describe(table)}{similar}")


def _is_image(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, str) and is_image_file(value) and "://" not in value)


def _guess_column(columns: Sequence[str], usual_names: Sequence[str]) -> str | None:
    """Return the column with the first of several usual names, which are ordered by preference; None if there is none.

    Case, surrounding white space and spaces instead of underscores make no difference.
    """
    by_name = {simplified(column): column for column in reversed(columns)}
    return next((by_name[name] for name in usual_names if name in by_name), None)


def _nearest_usual(columns: Sequence[str], usual_names: Sequence[str]) -> str:
    """Return `; did you mean 'x'?` for the column whose name is most like a usual one, or an empty string."""
    names = [name for name in columns[:MAX_CARRIED_COLUMNS] if len(name) <= _MAX_NAME_CHARACTERS]
    scored = [
        (SequenceMatcher(None, simplified(name), usual).ratio(), -at, name)
        for at, name in enumerate(names)
        for usual in usual_names
    ]
    best = max(scored, default=(0.0, 0, ""))
    return f"; did you mean {best[2]!r}?" if best[0] >= _MIN_SIMILARITY else ""


def _describe(table: Table) -> str:
    """List the columns and what they hold, shortened if there are many, for errors."""
    examples = _examples(table)
    shown = [
        f"{name[:100]} ({_kind_of(examples[name])})" if name in examples else name[:100]
        for name in table.columns[:_NUM_SHOWN_COLUMNS]
    ]
    more = f" and {len(table.columns) - _NUM_SHOWN_COLUMNS:,} more" if len(table.columns) > _NUM_SHOWN_COLUMNS else ""
    return f"the columns are: {', '.join(shown) or 'none'}{more}"


def _examples(table: Table) -> dict[str, Any]:
    """The first value of each column that is not empty, from a few rows; empty if the table cannot be read."""
    plain = {*table.plain_columns, *table.binary_columns}
    names = [name for name in table.columns[:_NUM_SHOWN_COLUMNS] if name in plain]
    if not names:
        return {}
    rows = table.rows(Columns(image=names[0], others=tuple(names[1:])))
    try:
        sampled = [row.values for row in islice(rows, _NUM_DESCRIBED_ROWS)]
    except DataError:
        return {}
    return {name: next((row[name] for row in sampled if row.get(name) not in _EMPTY), None) for name in names}


def _kind_of(value: Any) -> str:
    if value is None or value == "":
        return "empty"
    if isinstance(value, bytes):
        return "bytes"
    if isinstance(value, dict):
        return "object"
    if isinstance(value, list):
        return "list"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        text = value if len(value) <= _NUM_SHOWN_CHARACTERS else f"{value[:_NUM_SHOWN_CHARACTERS]}..."
        return f"number, e.g. {text}" if _is_number(value) else f'text, e.g. "{text}"'
    return f"number, e.g. {value}" if isinstance(value, int | float) else type(value).__name__


def _is_number(value: str) -> bool:
    try:
        return len(value) <= _NUM_SHOWN_CHARACTERS and float(value) is not None
    except ValueError:
        return False
