"""`wordsight recipes`: the training runs that the package can repeat, with what they gave."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from wordsight.cli.options import JsonOption, recipe_names

DIRECTORY = Path(__file__).parents[1] / "recipes"


def recipes(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Print this recipe.", autocompletion=recipe_names, show_default=False),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List the recipes with their measured results, or print one.

    \b
    Example:
      wordsight recipes
    """
    from wordsight.config import read_toml
    from wordsight.errors import ConfigError, nearest

    paths = {path.stem: path for path in sorted(DIRECTORY.glob("*.toml"))}
    if name and name not in paths:
        raise ConfigError(f"no recipe {name!r}{nearest(name, paths)}; known: {', '.join(paths) or 'none'}")
    if name and not as_json:
        print(paths[name].read_text("utf-8"), end="")
    elif name:
        print(json.dumps(read_toml(paths[name])))
    elif as_json:
        print(json.dumps({stem: read_toml(path).get("about", {}) for stem, path in paths.items()}))
    else:
        print("\n\n".join(_entry(stem, read_toml(path).get("about", {})) for stem, path in paths.items()))


def _entry(name: str, about: dict[str, Any]) -> str:
    """A few lines on one recipe."""
    lines = [f"{name}: {about.get('title', '')}".rstrip(": ")]
    lines += [f"  {line}" for line in str(about.get("description", "")).strip().splitlines()]
    if command := about.get("command"):
        lines.append(f"  $ {command}")
    took = [f"{about['minutes']:g} minutes"] if about.get("minutes") else []
    if measured := ", ".join([*took, *filter(None, [about.get("hardware")])]):
        lines.append(f"  measured: {measured}")
    lines += [f"  {score}: {value}" for score, value in about.get("scores", {}).items()]
    return "\n".join(lines)
