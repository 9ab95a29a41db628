"""Generate the reference pages from the code, so that they cannot drift from it.

MkDocs loads this module as a hook: in each page, a comment such as `<!-- generated: commands -->` is replaced by the
Markdown that `SECTIONS["commands"]()` returns. The tests import the module without MkDocs and compare what it returns
with the code: `tests/test_docs.py`.
"""

import inspect
import re
import types
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
import typer.main

_WITHOUT_VALUE = ("not set", "its defaults")
MARK = re.compile(r"<!-- generated: ([a-z-]+) -->")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks of a page; MkDocs calls this for every page.

    Raises:
        KeyError: a mark names no section.
    """
    return MARK.sub(lambda match: SECTIONS[match[1]](), markdown)


# --- API ---


def public_names() -> list[str]:
    """Every public name with its full path: those of `wordsight` and the classes of `wordsight.errors`."""
    import wordsight
    from wordsight import errors

    names = [f"wordsight.{name}" for name in wordsight.__all__ if not name.startswith("_") and name != "errors"]
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    return names + [f"wordsight.errors.{value.__name__}" for value in classes if value.__module__ == errors.__name__]


def api() -> str:
    """A mkdocstrings directive for every public name."""
    import wordsight

    names = [name for name in public_names() if not name.startswith("wordsight.errors.")]
    errors = [name for name in public_names() if name.startswith("wordsight.errors.")]
    parts = [f"`wordsight.__version__` is the version of the package, here `{wordsight.__version__}`.\n"]
    parts += [_directive(name, level=2) for name in names]
    parts.append(
        "## Errors\n\nEvery error that a user can cause is one of these classes, which are in `wordsight.errors`.\n"
    )
    parts += [_directive(name, level=3) for name in errors]
    return "\n".join(parts)


def _directive(name: str, level: int) -> str:
    """The directive for an object: found where it is defined, shown under the name by which users import it."""
    import wordsight

    value = wordsight
    for attribute in name.split(".")[1:]:
        value = getattr(value, attribute)
    options = f"heading: {name}\n      toc_label: {name.removeprefix('wordsight.')}\n      heading_level: {level}"
    return (
        f"::: {value.__module__}.{value.__qualname__}\n    options:\n      show_root_heading: true\n      {options}\n"
    )


# --- commands ---


def commands() -> str:
    """Every command with its description, arguments and options."""
    from wordsight.cli import build_app

    group: Any = typer.main.get_command(build_app())
    parts = [f"## `wordsight` {{ #wordsight }}\n\n{_help(group)}\n\n{_parameters(group)}"]
    for name, command in group.commands.items():
        usage = " ".join(["wordsight", name, *command.collect_usage_pieces(typer.Context(command, info_name=name))])
        parts.append(f"## `wordsight {name}` {{ #{name} }}\n\n```text\n{usage}\n```\n\n{_help(command)}\n\n")
        parts[-1] += _parameters(command)
    return "\n".join(parts)


def _help(command: Any) -> str:
    """The help text of a command as Markdown: paragraphs, and the example as a block of code."""
    text = f"{inspect.cleandoc(command.help or '')}\n\n{inspect.cleandoc(command.epilog or '')}"
    prose, _, example = text.replace("\b", "").partition("Example:")
    lines = "\n".join(line.strip() for line in example.strip().splitlines())
    return escape(prose.strip()) + (f"\n\n```console\n{lines}\n```" if lines else "")


def _parameters(command: Any) -> str:
    context = typer.Context(command)
    rows = []
    for parameter in command.params:
        names, text = parameter.get_help_record(context) or (parameter.opts[0], "")
        # the record ends in "[default: 1; x>=0]" or "[required]"
        extra = re.search(r"\s*\[(default: [^\]]*|required|[^\]]*[<>]=?[^\]]*)\]$", text)
        meaning = parameter.help or text.removesuffix(extra[0] if extra else "")
        facts = re.sub(r"default: ([^(;][^;]*)", r"`\1`", extra[1]) if extra else ""
        facts = re.sub(r"default: \((.*?)\)", r"\1", facts).replace("x>=", "≥ ")
        rows.append([f"`{' '.join(names.split())}`", escape(meaning), escape(facts)])
    return table(["argument or option", "meaning", "default, range"], rows)


# --- keys of recipes and cards ---


class Key(NamedTuple):
    """A key of a TOML or JSON file: its dotted name, type, default (empty if required) and description."""

    name: str
    type: str
    default: str
    description: str


def recipe_keys() -> str:
    """The keys of a recipe, one table for each part."""
    from wordsight.training.recipe import Recipe

    return _tables(Recipe)


def card_keys() -> str:
    """The keys of `wordsight.json`, the card that is saved with every model."""
    from wordsight.weights.card import Card

    return _tables(Card)


def published_card_keys() -> str:
    """The keys of a card of published weights."""
    from wordsight.weights.hub.catalogue import PublishedCard

    return _tables(PublishedCard)


def structs_in(root: Any) -> dict[str, Any]:
    """The structs reachable from a struct: dotted path -> struct, parents first; a list item ends in `[]`.

    A struct of a tagged union has its tag in the path: `model.image (kind = "vit")`.
    """
    structs: dict[str, Any] = {}

    def visit(struct: Any, path: str) -> None:
        structs[path] = struct
        hints = get_type_hints(struct, include_extras=True)
        for field in msgspec.structs.fields(struct):
            for inner, is_item in _structs_of(hints[field.name]):
                below = f"{path}.{field.encode_name}".lstrip(".") + ("[]" if is_item else "")
                tag = inner.__struct_config__.tag
                label = f' ({inner.__struct_config__.tag_field} = "{tag}")' if tag else ""
                visit(inner, below + label)

    visit(root, "")
    return structs


def keys_of(struct: Any, path: str = "") -> list[Key]:
    """The keys of one struct."""
    hints = get_type_hints(struct, include_extras=True)
    described = describe_attributes(struct)
    keys = []
    for field in msgspec.structs.fields(struct):
        name = f"{path}.{field.encode_name}".lstrip(".")
        keys.append(Key(name, type_name(hints[field.name]), _field_default(field), described.get(field.name, "")))
    return keys


def _tables(root: Any) -> str:
    parts = []
    for path, struct in structs_in(root).items():
        first = inspect.cleandoc(struct.__doc__ or "").split("\n\n")[0]
        if path:
            parts.append(f"## `{path}` {{ #{anchor(path)} }}\n")
        parts.append(f"{escape(' '.join(first.split()))}\n")
        prefix = re.sub(r" \(.*?\)", "", path)
        tag = struct.__struct_config__.tag
        rows = [[f"`{prefix}.{struct.__struct_config__.tag_field}`", "string", "required", f'`"{tag}"`']] if tag else []
        for key in keys_of(struct, prefix):
            is_value = key.default and key.default not in _WITHOUT_VALUE
            default = f"`{key.default}`" if is_value else key.default or "required"
            rows.append([f"`{key.name}`", escape(key.type), default, escape(key.description)])
        parts.append(table(["key", "type", "default", "description"], rows))
    return "\n".join(parts)


def describe_attributes(struct: Any) -> dict[str, str]:
    """The `Attributes:` section of a class's docstring, and of those it inherits from: name -> description."""
    described: dict[str, str] = {}
    for owner in reversed(struct.__mro__):
        match = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", inspect.cleandoc(owner.__doc__ or ""), re.MULTILINE)
        if not match:
            continue
        for entry in re.split(r"\n(?=    \S)", match[1].rstrip()):
            names, _, text = entry.strip().partition(":")
            sentence = " ".join(text.split())
            described |= {name.strip(" `"): sentence[:1].upper() + sentence[1:] for name in names.split(",")}
    return described


def type_name(hint: Any) -> str:
    """A type as a reader of a TOML file names it."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_name(arguments[0]) + _bounds(arguments[1:])
    if origin is Literal:
        return " or ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        members = [type_name(member) for member in arguments if member is not type(None)]
        return " or ".join(dict.fromkeys(members))
    if origin in (tuple, list):
        item = re.sub(r"^(\w+)", r"\1s", type_name(arguments[0]))  # "integers (≥ 1)"
        return f"list of {item}" if Ellipsis in arguments or origin is list else f"list of {len(arguments)} {item}"
    if origin is dict:
        return "table"
    if hasattr(hint, "__struct_fields__"):
        return "table"
    return {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}.get(
        getattr(hint, "__name__", ""), str(getattr(hint, "__name__", hint))
    )


def _bounds(metadata: tuple[Any, ...]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    bounds = [
        f"{sign} {getattr(meta, name)}"
        for meta in metadata
        for name, sign in signs.items()
        if getattr(meta, name, None) is not None
    ]
    return f" ({', '.join(bounds)})" if bounds else ""


def _structs_of(hint: Any, is_item: bool = False) -> Iterator[tuple[Any, bool]]:
    if hasattr(hint, "__struct_fields__"):
        yield hint, is_item
    for argument in get_args(hint):
        yield from _structs_of(argument, is_item or get_origin(hint) in (tuple, list))


def _field_default(field: Any) -> str:
    value = field.default
    if field.default_factory is not msgspec.NODEFAULT:
        value = field.default_factory()
    if value is msgspec.NODEFAULT:
        return ""
    if value is None:
        return _WITHOUT_VALUE[0]
    if hasattr(value, "__struct_fields__"):
        return _WITHOUT_VALUE[1]
    return str(msgspec.json.encode(value).decode())


# --- Markdown ---


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, empty if there are no rows."""
    if not rows:
        return ""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines) + "\n"


def escape(text: str) -> str:
    """Text in which Markdown sees no tags; code in backquotes is left alone."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;").replace("*", r"\*") for part in parts)


def anchor(path: str) -> str:
    """A dotted path as the anchor of a heading."""
    return re.sub(r"[^a-z0-9]+", "-", path.lower()).strip("-")


SECTIONS: dict[str, Callable[[], str]] = {
    "api": api,
    "commands": commands,
    "recipe-keys": recipe_keys,
    "card-keys": card_keys,
    "published-card-keys": published_card_keys,
}
