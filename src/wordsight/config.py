"""TOML files to frozen structs and back; unknown keys are errors that name the nearest match.

A configuration is a subclass of `Config` that is declared next to the component it configures, with `frozen=True`. Its
fields are the keys of the file, and their documentation in `Attributes:` becomes the reference page.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
import tomli_w

from wordsight.errors import ConfigError, nearest
from wordsight.files import read_limited

MAX_TOML_BYTES = 1 << 20
"""Upper limit of a recipe or card; the largest in this package has 6 kB."""

MAX_SHOWN = 100
"""Number of characters of a value or key that an error message shows."""

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base class of all configurations: immutable, keyword-only, and strict about unknown keys."""


def decode(value: Any, struct_type: type[T], where: str) -> T:
    """Convert plain data (dictionaries, lists, numbers) to a struct and validate it.

    Args:
        value: data as returned by `tomllib` or a JSON decoder.
        struct_type: a subclass of `Config`.
        where: the file or option that the data comes from; errors start with it.

    Raises:
        ConfigError: a key is unknown (the message names the nearest known one) or missing, a value has the wrong type,
            or values contradict each other.
    """
    try:
        return msgspec.convert(value, struct_type)
    except ConfigError as error:  # raised by the struct's own validation, which does not know the file
        raise ConfigError(f"{where}: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(_shortened(str(error)), struct_type)}") from error


def load_toml(path: Path, struct_type: type[T]) -> T:
    """Read a TOML file into a struct.

    Raises:
        ConfigError: the file is missing or not TOML, or as for `decode`.
    """
    return decode(read_toml(path), struct_type, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain data.

    Raises:
        ConfigError: the file is missing, not a regular file, larger than 1 MiB, or not TOML.
    """
    content = read_limited(path, MAX_TOML_BYTES, ConfigError)
    try:
        return tomllib.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # ValueError: also not UTF-8, or an integer of over 4,300 digits
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def plain(value: Any) -> Any:
    """Convert a struct to plain data, without the keys whose value is None (TOML has no null)."""

    def drop_none(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: drop_none(inner) for key, inner in item.items() if inner is not None}
        if isinstance(item, list | tuple):
            return [drop_none(inner) for inner in item]
        return item

    return drop_none(msgspec.to_builtins(value))


def integers_of(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """Yield each integer in nested plain data, with the nearest key above it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from integers_of(inner, name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from integers_of(inner, key)
    elif isinstance(value, int):
        yield key, value


def to_toml(value: Any) -> str:
    """Convert a struct to TOML text."""
    return tomli_w.dumps(plain(value))


def set_key(tree: dict[str, Any], assignment: str) -> dict[str, Any]:
    """Return a copy of nested dictionaries with one key changed.

    Args:
        tree: plain data, as returned by `read_toml`; it is not modified.
        assignment: `dotted.key=value`. The value is parsed as TOML; if it is not valid TOML, it is used as a string.

    Raises:
        ConfigError: the assignment has no `=` or no key, or part of the key is a value and not a table.
    """
    key, separator, text = assignment.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not separator or not all(names):
        raise ConfigError(f"--set {assignment}: expected key=value, as in --set optimizer.learning_rate=1e-3")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    changed = table = dict(tree)
    for name in names[:-1]:
        inner = table.get(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {assignment}: {name!r} is a value, not a table")
        table[name] = table = dict(inner)  # the copy is assigned to the outer table first
    table[names[-1]] = parsed["value"] if parsed.keys() == {"value"} else text
    return changed


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ between two nested dictionaries, sorted by table.

    Args:
        one: plain data, as returned by `plain`.
        other: the data to compare with.
        prefix: the dotted key of the tables that are compared; empty for the top level.
    """
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [prefix]
    keys = sorted(set(one) | set(other))
    nested = (differing_keys(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else key) for key in keys)
    return [key for part in nested for key in part]


def _shortened(message: str) -> str:
    """A message of msgspec with each quoted value or key of at most `MAX_SHOWN` characters."""
    return re.sub(rf"(['`])([^'`]{{{MAX_SHOWN}}})[^'`]+", r"\1\2...", message)


def _explain(message: str, struct_type: Any) -> str:
    """Rephrase an error message of msgspec; for an unknown key, suggest the nearest known one."""
    path = match[1] if (match := re.search(r" - at `\$\.?([^`]*)`", message)) else ""
    unknown = re.search(r"unknown field `(.*?)`", message)
    if not unknown:
        return message.replace(" - at `$.", " - at `").replace("`", "'")
    table = f" in [{path}]" if path else ""
    return f"unknown key {unknown[1]!r}{table}{nearest(unknown[1], sorted(_fields_at(struct_type, path)))}"


def _fields_at(struct_type: Any, path: str) -> set[str]:
    """Return the field names of the structs at a dotted path below `struct_type`."""
    struct_types = {struct_type}
    for name in filter(None, re.split(r"\.|\[.*?\]", path)):
        nested: set[Any] = set()
        for candidate in struct_types:
            if name in getattr(candidate, "__struct_fields__", ()):
                nested |= _struct_types(get_type_hints(candidate)[name])
        struct_types = nested
    return {field for candidate in struct_types for field in getattr(candidate, "__struct_fields__", ())}


def _struct_types(hint: Any) -> set[Any]:
    """Return the structs in a type hint such as `A | None`, `tuple[A, ...]` or `dict[str, A]`."""
    if hasattr(hint, "__struct_fields__"):
        return {hint}
    return {struct_type for argument in get_args(hint) for struct_type in _struct_types(argument)}
