"""The table in docs/explanation/security.md states the limits that the code enforces."""

import importlib
import re
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import msgspec
import pytest

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "explanation" / "security.md"
HEADER = "| input | what is limited | limit | constant |"
UNITS = {"": 1, "s": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
UNITS |= {"kB/s": 10**3, "megapixels": 10**6, "%": 0.01}
LIMIT = re.compile(r"([0-9][0-9,]*(?:\.[0-9]+)?) ?(\S*)")
PUBLIC_LIMIT = re.compile(r"^((?:MAX|MIN)_[A-Z0-9_]+)(?::.*)? = ", re.MULTILINE)


class Row(NamedTuple):
    """A row of the table; `constant` is a dotted name below `wordsight`."""

    kind: str
    subject: str
    limit: str
    constant: str


def rows_of(page: str) -> list[Row]:
    table = page.partition(HEADER)[2].strip().partition("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[1:]]
    return [Row(kind, subject, limit, constant.strip("`| ")) for kind, subject, limit, constant in cells]


def number_of(limit: str) -> float:
    """The number in a cell such as `256 KiB`."""
    match = LIMIT.fullmatch(limit)
    assert match, f"{limit!r} is not a number, or a number and a unit"
    return float(match[1].replace(",", "")) * UNITS[match[2]]


def value_of(constant: str) -> float:
    """The value of `module.NAME`, or of `module.Class.attribute`, which is the default of the attribute."""
    module, names = module_of(constant)
    value: object = module
    for name in names:
        if isinstance(value, type) and issubclass(value, msgspec.Struct):
            value = next(field.default for field in msgspec.structs.fields(value) if field.name == name)
        else:
            value = getattr(value, name)
    assert isinstance(value, int | float), f"{constant} is {value!r}"
    return value


def module_of(constant: str) -> tuple[ModuleType, list[str]]:
    """The module of a constant, and the names that follow it."""
    parts = ["wordsight", *constant.split(".")]
    for length in range(len(parts) - 1, 1, -1):
        name = ".".join(parts[:length])
        try:
            return importlib.import_module(name), parts[length:]
        except ModuleNotFoundError as error:
            if not name.startswith(error.name or ""):
                raise
    raise AttributeError(f"{constant}: no such module")


ROWS = rows_of(PAGE.read_text("utf-8"))


@pytest.mark.parametrize("row", ROWS, ids=[row.constant for row in ROWS])
def test_a_stated_limit_is_the_enforced_one(row):
    assert number_of(row.limit) == value_of(row.constant)


def test_every_limit_of_a_module_in_the_table_is_stated():
    stated = {row.constant for row in ROWS}
    missing = []
    for path in sorted({row.constant.rpartition(".")[0] for row in ROWS}):
        module, names = module_of(f"{path}.x")
        if len(names) == 1:  # otherwise the path is that of a class
            defined = PUBLIC_LIMIT.findall(Path(str(module.__file__)).read_text("utf-8"))
            missing += [f"{path}.{name}" for name in defined if f"{path}.{name}" not in stated]
    assert missing == []


def test_a_wrong_limit_and_an_unknown_constant_are_noticed():
    """The negative control."""
    assert len(ROWS) >= 17
    assert number_of("256 KiB") == 262_144
    assert number_of("8,192") == 8192
    assert number_of("0.5 s") == 0.5
    assert number_of("2 megapixels") != value_of("web.connection.MAX_REDIRECTS")
    with pytest.raises(AttributeError):
        value_of("web.connection.MAX_NOTHING")
    with pytest.raises(AttributeError):
        value_of("nothing.MAX_NOTHING")
    with pytest.raises(StopIteration):
        value_of("web.connection.Patience.nothing")
    with pytest.raises(AssertionError):
        number_of("about 5")
    [row] = rows_of(f"{HEADER}\n| --- | --- | --- | --- |\n| a | b, c | 5 s | `x.Y` |\n\nText")
    assert row == Row("a", "b, c", "5 s", "x.Y")
