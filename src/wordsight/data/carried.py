"""The other columns of a table, which are carried along to the output of a command: plain values of bounded size."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import msgspec

from wordsight.errors import encodable

MAX_CARRIED_COLUMNS = 100
"""Tables of products that shop systems export have about 60 columns."""

MAX_CARRIED_CHARACTERS = 1 << 16
"""Of all other columns of one row; a longer text is cut and ends with `...`."""

_MAX_INTEGER = 1 << 63  # what a column of a Parquet file can hold


def carried_values(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the values of columns that are carried along: texts, numbers, truth values and None.

    Lists and objects become JSON. Texts beyond `MAX_CARRIED_CHARACTERS` in all are cut, and end with `...`.
    """
    carried: dict[str, Any] = {}
    left = MAX_CARRIED_CHARACTERS
    for name in islice(names, MAX_CARRIED_COLUMNS):
        value = _plain(values.get(name))
        if isinstance(value, str):
            if len(value) > left:
                value, left = f"{value[:left]}...", 0
            else:
                left -= len(value)
        carried[name if name.isascii() else encodable(name)] = value
    return carried


def _plain(value: Any) -> str | int | float | None:
    if isinstance(value, str):
        return value if value.isascii() else encodable(value)
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
