"""`wordsight recipes`: the package's recipes with their measured results."""

from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import JsonOption, recipe_names

if TYPE_CHECKING:
    from wordsight.training.recipe import About


def recipes(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Print this recipe.", autocompletion=recipe_names, show_default=False),
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """List training recipes with their measured results and export formats, or print one.

    With --json, a recipe is printed with all its keys, including those that have their default values.

    \b
    Example:
      wordsight recipes
    """
    from wordsight.cli.terminal import print_json, print_lines
    from wordsight.config import plain
    from wordsight.errors import ConfigError, nearest
    from wordsight.training.recipe import load_recipe, recipe_paths

    paths = recipe_paths()
    if name and name not in paths:
        raise ConfigError(f"{name}: no such recipe; known: {', '.join(paths) or 'none'}{nearest(name, paths)}")
    if name and not as_json:
        print(paths[name].read_text("utf-8"), end="")
    elif name:
        print_json(plain(load_recipe(paths[name])))
    elif as_json:
        print_json({stem: plain(load_recipe(path).about) for stem, path in paths.items()})
    else:
        entries = [[*_entry(stem, load_recipe(path).about), ""] for stem, path in paths.items()]
        print_lines(*[line for lines in entries for line in lines][:-1])


def _entry(name: str, about: "About") -> list[str]:
    """Return the lines that describe one recipe."""
    lines = [f"{name}: {about.title}".rstrip(": ")]
    lines += [f"  {line}" for line in about.description.strip().splitlines()]
    if about.command:
        lines.append(f"  $ {about.command}")
    duration = f"{about.minutes:g} minutes" if about.minutes else ""
    if measured := ", ".join(filter(None, [duration, about.hardware])):
        lines.append(f"  measured: {measured}")
    lines += [f"  {score}" for score in about.scores]
    if about.exports:
        lines.append(f"  exports to: {', '.join(about.exports)}")
    return lines
