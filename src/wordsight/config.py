"""TOML files to frozen structs and back; all unknown and missing keys are reported at once, with the nearest match.

A configuration is a subclass of `Config` that is declared next to the component it configures, with `frozen=True`. Its
fields are the keys of the file, and their documentation in `Attributes:` becomes the reference page.
"""

import dataclasses
import re
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import tomli_w

from wordsight.errors import ConfigError, nearest
from wordsight.files import read_limited

MAX_TOML_BYTES = 1 << 20
"""Upper limit of a recipe or card; the largest in this package has 6 kB."""

MAX_SHOWN = 100
"""Number of characters of a value or key that an error message shows."""

_MAX_LISTED_KEYS = 10
"""Number of wrong keys that an error message lists."""

T = TypeVar("T")


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base class of all configurations: immutable, keyword-only, and strict about unknown keys.

    Attributes:
        synonyms: words that users try instead of a key, each with the dotted key, or with a sentence that says what to
            do; errors suggest them. Only those of the outermost struct are used.
    """

    synonyms: ClassVar[dict[str, str]] = {}


class WrongKey(NamedTuple):
    """A key that is unknown or missing.

    Attributes:
        problem: such as `unknown key 'size' in [spare]`.
        advice: what to do, such as `did you mean 'size_px'?`; may be empty.
    """

    problem: str
    advice: str = ""


def decode(value: Any, struct_type: type[T], where: str) -> T:
    """Convert plain data (dictionaries, lists, numbers) to a struct and validate it.

    Args:
        value: data as returned by `tomllib` or a JSON decoder.
        struct_type: a subclass of `Config`.
        where: the file or option that the data comes from; errors start with it.

    Raises:
        ConfigError: keys are unknown or missing (the message lists all of them, with the nearest known ones), a value
            has the wrong type, or values contradict each other.
    """
    try:
        return msgspec.convert(value, struct_type)
    except ConfigError as error:  # raised by the struct's own validation, which does not know the file
        raise ConfigError(f"{where}: {error}") from error
    except msgspec.ValidationError as error:
        check_keys(value, struct_type, where)
        message = _shortened(str(error)).replace(" - at `$.", " - at `").replace("`", "'")
        raise ConfigError(f"{where}: {message}") from error


def check_keys(value: Any, struct_type: Any, where: str) -> None:
    """Refuse plain data with unknown or missing keys, also in dataclasses, whose unknown keys `decode` ignores.

    Args:
        value: as for `decode`.
        struct_type: as for `decode`.
        where: as for `decode`.

    Raises:
        ConfigError: the message lists all unknown and missing keys.
    """
    wrong = list(_wrong_keys(value, struct_type, (), struct_type))
    if len(wrong) == 1:
        raise ConfigError(f"{where}: {wrong[0].problem}{wrong[0].advice and f'; {wrong[0].advice}'}")
    if wrong:
        listed = [problem + (advice and f" ({advice})") for problem, advice in wrong[:_MAX_LISTED_KEYS]]
        more = f"; and {len(wrong) - _MAX_LISTED_KEYS:,} more" if len(wrong) > _MAX_LISTED_KEYS else ""
        raise ConfigError(f"{where}: {len(wrong):,} keys are wrong: {'; '.join(listed)}{more}")


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
    """Return a copy of nested dictionaries and lists with one key changed.

    Args:
        tree: plain data, as returned by `read_toml`; it is not modified.
        assignment: `dotted.key=value`; a number addresses an entry of a list, counted from 0. The value is parsed as
            TOML; if it is not valid TOML, it is used as a string.

    Raises:
        ConfigError: the assignment has no `=` or no key, part of the key is a value and not a table, or there is no
            such entry.
    """
    key, separator, text = assignment.partition("=")
    names = [name.strip() for name in key.split(".")]
    if not separator or not all(names):
        raise ConfigError(f"--set {assignment}: expected key=value, as in --set optimizer.learning_rate=1e-3")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        parsed = {}
    value = parsed["value"] if parsed.keys() == {"value"} else text
    changed: dict[str, Any] = _assigned(tree, names, value, f"--set {assignment}")
    return changed


def _assigned(node: Any, names: list[str], value: Any, where: str, above: str = "") -> Any:
    """Return a copy of a table or list in which the value at a path is replaced."""
    if not names:
        return value
    name, *rest = names
    if isinstance(node, list | tuple):
        if not (name.isascii() and name.isdecimal() and int(name[:9]) < len(node)):
            known = f"entries 0 to {len(node) - 1}" if node else "no entries"
            raise ConfigError(f"{where}: {above!r} has {known}, not {name!r}")
        entries = list(node)
        entries[int(name)] = _assigned(node[int(name)], rest, value, where, name)
        return entries
    if not isinstance(node, dict):
        raise ConfigError(f"{where}: {above!r} is a value, not a table")
    return node | {name: _assigned(node.get(name, {}), rest, value, where, name)}


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


def _wrong_keys(value: Any, hint: Any, path: tuple[str | int, ...], root: Any) -> Iterator[WrongKey]:
    """Yield each unknown and each missing key of nested plain data, in the order of the file and then of the struct."""
    struct = _struct_of(value, hint)
    tags = {member.__struct_config__.tag: member.__struct_config__.tag_field for member in _tagged(hint)}
    if struct is not None:
        yield from _wrong_keys_of_table(value, struct, path, root)
    elif isinstance(value, dict) and tags:
        yield _wrong_tag(value, {str(tag): str(field) for tag, field in tags.items()}, path)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            for item_hint in _item_hints(hint):
                yield from _wrong_keys(item, item_hint, (*path, number), root)
    elif isinstance(value, dict) and get_origin(hint) is dict:
        for key, item in value.items():
            yield from _wrong_keys(item, get_args(hint)[1], (*path, str(key)), root)


def _wrong_keys_of_table(value: Any, struct: Any, path: tuple[str | int, ...], root: Any) -> Iterator[WrongKey]:
    known, table = _keys_of(struct), _table(path)
    config = getattr(struct, "__struct_config__", None)
    tag_field = config.tag_field if config else None
    strange = [key for key in value if key not in known and key != tag_field]
    unknown = [
        WrongKey(f"unknown key {str(key)[:MAX_SHOWN]!r}{table}", _advice(str(key), path, known, root))
        for key in (strange if config is None or config.forbid_unknown_fields else ())
    ]
    yield from unknown
    hints = get_type_hints(struct)
    for key, (name, is_required) in known.items():
        if key in value:
            yield from _wrong_keys(value[key], hints[name], (*path, key), root)
        elif is_required and not any(wrong.advice == f"did you mean {key!r}?" for wrong in unknown):
            inner = _wrong_keys({}, hints[name], (*path, key), root) if _is_struct(hints[name]) else ()
            yield from list(inner) or [WrongKey(f"missing key {key!r}{table}")]


def _struct_of(value: Any, hint: Any) -> Any:
    """Return the struct or dataclass that a table becomes; None for other values and if its `kind` is not known."""
    members = [member for member in get_args(hint) or (hint,) if _is_struct(member)]
    if not isinstance(value, dict) or get_origin(hint) in (dict, list, tuple):
        return None
    if len(members) == 1:
        return members[0]
    configs = ((member, member.__struct_config__) for member in _tagged(hint))
    return next((member for member, config in configs if value.get(config.tag_field) == config.tag), None)


def _tagged(hint: Any) -> list[Any]:
    """Return the structs of a tagged union."""
    structs = [member for member in get_args(hint) if hasattr(member, "__struct_config__")]
    return [struct for struct in structs if struct.__struct_config__.tag is not None]


def _wrong_tag(value: dict[str, Any], tags: dict[str, str], path: tuple[str | int, ...]) -> WrongKey:
    """Return what is wrong with the key that selects a member of a tagged union.

    Args:
        value: the table.
        tags: the known values -> name of the key.
        path: of the table.
    """
    field = next(iter(tags.values()))
    if field not in value:
        return WrongKey(f"missing key {field!r}{_table(path)}, one of {', '.join(tags)}")
    kind = str(value[field])[:MAX_SHOWN]
    problem = f"{field} {kind!r}{_table(path)}: expected one of {', '.join(tags)}"
    return WrongKey(problem, nearest(kind, tags).removeprefix("; "))


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and (hasattr(hint, "__struct_fields__") or dataclasses.is_dataclass(hint))


def _item_hints(hint: Any) -> list[Any]:
    """Return the types of the items of a list: of `tuple[A, ...]` in `str | tuple[A, ...]` it is A."""
    if get_origin(hint) in (list, tuple):
        return [argument for argument in get_args(hint)[:1] if argument is not Ellipsis]
    return [item for argument in get_args(hint) for item in _item_hints(argument)]


def _keys_of(struct: Any) -> dict[str, tuple[str, bool]]:
    """Return the keys of a struct or dataclass: key -> name of the attribute, and whether the key is required."""
    if dataclasses.is_dataclass(struct):
        missing = dataclasses.MISSING
        return {
            field.name: (field.name, field.default is missing and field.default_factory is missing)
            for field in dataclasses.fields(struct)
        }
    return {field.encode_name: (field.name, field.required) for field in msgspec.structs.fields(struct)}


def _table(path: tuple[str | int, ...]) -> str:
    """Return where a key is, such as ` in [model.text]` or ` in [[sources]] number 2`; empty for the top level."""
    if not path:
        return ""
    names = ".".join(name for name in path if isinstance(name, str))
    number = path[-1]
    return f" in [[{names}]] number {number + 1}" if isinstance(number, int) else f" in [{names}]"


def _advice(key: str, path: tuple[str | int, ...], known: Iterable[str], root: Any) -> str:
    """Return what to do about an unknown key: the key that was probably meant, or nothing."""
    meant = str(getattr(root, "synonyms", {}).get(key.lower(), ""))
    if " " in meant:
        return meant
    elsewhere = [dotted for dotted in _dotted_keys(root) if dotted.rpartition(".")[2] == key]
    if path and key in elsewhere:
        return "it belongs at the top of the file, before the first [table]"
    if not meant and (close := nearest(key, sorted(known), cutoff=0.8)):
        return close.removeprefix("; ")
    if not meant and elsewhere:  # rather a key of the same outer table, and one that is not nested deeply
        meant = min(elsewhere, key=lambda dotted: (dotted.partition(".")[0] != (*path, "")[0], dotted.count(".")))
    if meant:
        table, _, name = meant.rpartition(".")
        is_own = table == ".".join(name for name in path if isinstance(name, str))
        return f"did you mean {(name if is_own else meant)!r}?"
    return nearest(key, sorted(known)).removeprefix("; ")


def _dotted_keys(hint: Any, prefix: str = "") -> Iterator[str]:
    """Yield every key below a struct, such as `batch_size`, `model.text.width` and `sources[].weight`."""
    if not _is_struct(hint):
        for argument in get_args(hint):
            if argument is not Ellipsis:
                yield from _dotted_keys(
                    argument, prefix + ("[]" if prefix and get_origin(hint) in (list, tuple) else "")
                )
        return
    hints = get_type_hints(hint)
    for key, (name, _) in _keys_of(hint).items():
        dotted = f"{prefix}.{key}" if prefix else key
        yield dotted
        yield from _dotted_keys(hints[name], dotted)
