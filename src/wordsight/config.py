"""TOML to frozen structures and back; unknown keys are refused with the nearest name.

A configuration is a `msgspec.Struct` declared `frozen=True, forbid_unknown_fields=True, kw_only=True` beside
the component that it configures.
"""

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import msgspec
import tomli_w

from wordsight.errors import ConfigError, nearest

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every configuration is: immutable, by keyword, strict about names."""


def decode(value: Any, kind: type[T], where: str) -> T:
    """Check plain data (dictionaries, lists, numbers) against a structure and return it.

    Args:
        value: as `tomllib` or `json` give it.
        kind: a `Config` class.
        where: the file or option, named in errors.

    Raises:
        ConfigError: unknown key (with the nearest known one), missing key, wrong type or a contradiction.
    """
    try:
        return msgspec.convert(value, kind)
    except ConfigError as error:  # a structure that refuses what contradicts itself does not know its file
        raise ConfigError(f"{where}: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_explain(str(error), kind)}") from error


def load_toml(path: Path, kind: type[T]) -> T:
    """Read a TOML file into a structure.

    Raises:
        ConfigError: no such file, not TOML, or as `decode`.
    """
    return decode(read_toml(path), kind, str(path))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as plain data.

    Raises:
        ConfigError: no such file, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def plain(value: Any) -> Any:
    """A structure as plain data, without the keys that are None (TOML has no null)."""

    def drop(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: drop(inner) for key, inner in item.items() if inner is not None}
        if isinstance(item, list | tuple):
            return [drop(inner) for inner in item]
        return item

    return drop(msgspec.to_builtins(value))


def to_toml(value: Any) -> str:
    """A structure as TOML text."""
    return tomli_w.dumps(plain(value))


def set_key(tree: dict[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of plain data with one `dotted.key=value` applied; the value is read as TOML, or else as text.

    Raises:
        ConfigError: no `=` in the assignment, or the key leads through something that is not a table.
    """
    key, separator, text = assignment.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {assignment}: expected key=value, as in --set optimizer.learning_rate=1e-3")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    first, _, rest = key.strip().partition(".")
    changed = dict(tree)
    if rest:
        below = changed.get(first, {})
        if not isinstance(below, dict):
            raise ConfigError(f"--set {assignment}: {first!r} is a value, not a table")
        changed[first] = set_key(below, f"{rest}={text}")
    else:
        changed[first] = value
    return changed


def differing_keys(one: Any, other: Any, prefix: str = "") -> list[str]:
    """The dotted keys in which two structures (as `plain` data) differ, sorted."""
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [prefix]
    keys = sorted(set(one) | set(other))
    below = (differing_keys(one.get(key), other.get(key), f"{prefix}.{key}" if prefix else key) for key in keys)
    return [key for part in below for key in part]


def _explain(message: str, kind: Any) -> str:
    """msgspec's message in our words, with the nearest known key."""
    path = match[1] if (match := re.search(r" - at `\$\.?([^`]*)`", message)) else ""
    unknown = re.search(r"unknown field `(.*?)`", message)
    if not unknown:
        return message.replace(" - at `$.", " - at `").replace("`", "'")
    place = f" in [{path}]" if path else ""
    return f"unknown key {unknown[1]!r}{place}{nearest(unknown[1], sorted(_fields_at(kind, path)))}"


def _fields_at(kind: Any, path: str) -> set[str]:
    """The field names of the structures that lie at a dotted path below `kind`."""
    kinds = {kind}
    for name in filter(None, re.split(r"\.|\[.*?\]", path)):
        below: set[Any] = set()
        for structure in kinds:
            if name in getattr(structure, "__struct_fields__", ()):
                below |= _structures(get_type_hints(structure)[name])
        kinds = below
    return {field for structure in kinds for field in getattr(structure, "__struct_fields__", ())}


def _structures(hint: Any) -> set[Any]:
    """The structures that a type hint mentions: `A | None`, `tuple[A, ...]`, `dict[str, A]`."""
    if hasattr(hint, "__struct_fields__"):
        return {hint}
    return {found for argument in get_args(hint) for found in _structures(argument)}
