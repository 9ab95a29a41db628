"""What comes with an image, such as the other columns of its table, as columns of a file of embeddings.

Numbers, truth values and texts are unchanged; dates and decimal numbers become text; lists and bytes are left out. The
type of a column follows from its values: as the images are a stream, it becomes wider when a later value does not
fit, from integers to floating-point numbers to text.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from wordsight.errors import DataError, encodable
from wordsight.image import ImageRef

OWN_COLUMNS = ("path", "sha256", "embedding", "error")
MAX_COLUMNS = 1_000
"""Of all tables together; `data/columns.py` limits those of one table."""

_CAPTIONS, _LABEL = "captions", "label"
_RESERVED = (*OWN_COLUMNS, _CAPTIONS, _LABEL)
_PREFIX = "table_"
_MAX_INTEGER = 1 << 63
_TYPES = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
    "texts": pa.list_(pa.string()),
}

ColumnKinds = Mapping[str, str]
"""The type of each column by its name: a key of `_TYPES`."""


def carried_columns(image: ImageRef) -> dict[str, Any]:
    """Return the captions, the label and the columns of an image, by the names that they have in the output.

    The captions are a list of texts, `captions`; the label is `label`. A column of the table that has one of our own
    names gets another one, `table_path` instead of `path` and so on; one that repeats the label or the captions is left
    out.
    """
    carried: dict[str, Any] = {}
    if image.captions:
        carried[_CAPTIONS] = [encodable(caption) for caption in image.captions]
    if image.names:
        carried[_LABEL] = encodable(image.names[0])
    own = dict(carried)
    for name, value in image.columns.items():
        if name in own and _is_same(value, own[name]):
            continue
        if value is not None and not isinstance(value, bytes | bytearray | list | tuple | Mapping):
            is_plain = isinstance(value, bool | float) or (
                isinstance(value, int) and -_MAX_INTEGER <= value < _MAX_INTEGER
            )
            carried[_output_name(encodable(name))] = value if is_plain else encodable(value)
    return carried


def _is_same(value: Any, own: str | list[str]) -> bool:
    """Return whether the value of a column is the label or the captions; lists in columns are JSON."""
    captions = [own] if isinstance(own, str) else own
    text = str(value).strip()
    return captions == [text] or text == msgspec.json.encode(captions).decode()


def _output_name(name: str) -> str:
    """Return a name that is none of our own. Different names stay different, as `table_path` is changed as well."""
    bare = name
    while bare.startswith(_PREFIX):
        bare = bare.removeprefix(_PREFIX)
    return _PREFIX + name if bare in _RESERVED else name


def num_characters(columns: Mapping[str, Any]) -> int:
    """Return the size of the texts among the values of a row."""
    return sum(len(value) for value in columns.values() if isinstance(value, str)) + sum(
        map(len, columns.get(_CAPTIONS, ()))
    )


def widened(kinds: ColumnKinds, rows: Sequence[Mapping[str, Any]]) -> ColumnKinds:
    """Return types that fit the given rows as well.

    Raises:
        DataError: there are too many columns.
    """
    result = dict(kinds)
    for row in rows:
        for name, value in row.items():
            kind = _kind(value)
            known = result.setdefault(name, kind)
            if known != kind:
                result[name] = "float" if {known, kind} == {"int", "float"} else "text"
        if len(result) > MAX_COLUMNS:
            raise DataError(f"more than {MAX_COLUMNS:,} different columns; drop some from the tables")
    return result


def _kind(value: Any) -> str:
    if isinstance(value, str | list):
        return "text" if isinstance(value, str) else "texts"
    return "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "float"


def fields_of(kinds: ColumnKinds) -> list[pa.Field]:
    """Return the Arrow fields of columns."""
    return [pa.field(name, _TYPES[kind]) for name, kind in kinds.items()]


def arrays_of(kinds: ColumnKinds, rows: Sequence[Mapping[str, Any]]) -> list[pa.Array]:
    """Return the values of rows, one array per column; null where a row has no value."""
    arrays = []
    for name, kind in kinds.items():
        values = [row.get(name) for row in rows]
        if kind == "text":
            values = [value if value is None or isinstance(value, str) else _as_text(value) for value in values]
        elif kind == "float":
            values = [None if value is None else float(value) for value in values]
        arrays.append(pa.array(values, _TYPES[kind]))
    return arrays


def _as_text(value: bool | float) -> str:
    """Convert a number or a truth value as `with_columns` does."""
    return pc.cast(pa.scalar(value), pa.string()).as_py()


def with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the columns of a schema: of a wider type, and null where the table has none."""
    arrays = [
        table[field.name].cast(field.type, safe=False)
        if field.name in table.column_names
        else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)
