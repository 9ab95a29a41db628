"""`wordsight demo`: the tour; its stages, evaluation and report are in `wordsight.demo`."""

import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import JsonOption, QuietOption

if TYPE_CHECKING:
    from wordsight.training import Recipe


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for all output: new, empty, or that of an earlier demo.")
    ] = Path("demo"),
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Number of training steps.", show_default="that of the recipe"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small model in minutes, evaluate it and write a report. About three minutes on two CPU cores.

    Packs two thousand captioned drawings into shards, trains a small CLIP model on most of them, and evaluates it on
    drawings of concepts that were not in the training data. Needs the extras samples and report. A second call
    continues an interrupted demo, or prints the results of a finished one.

    \b
    Example:
      wordsight demo
    """
    import msgspec

    from wordsight.cli.terminal import print_json, print_lines, silence_notes
    from wordsight.demo.report import next_commands, summary_text
    from wordsight.demo.state import read_state, write_state
    from wordsight.files import make_directory
    from wordsight.locks import lock

    recipe = _recipe(steps)
    state = read_state(out, recipe)
    commands = next_commands(_program(), out)
    summary = state.summary
    with lock(make_directory(out) / ".lock"):
        if summary is None or not ((out / "report.html").exists() and (out / "run").exists()):
            from wordsight.demo.tour import run_tour

            write_state(out, state)
            with silence_notes(quiet):
                summary = run_tour(out, recipe, commands)
            write_state(out, msgspec.structs.replace(state, summary=summary))
    if as_json:
        paths = {"out": str(out), "report": str(out / "report.html"), "run": str(out / "run")}
        command_lines = [command for command, _ in commands]
        print_json(paths | msgspec.to_builtins(summary) | {"commands": command_lines})
    else:
        print_lines(*summary_text(summary, out, commands).split("\n"))


def _recipe(steps: int | None) -> "Recipe":
    """Return the recipe `demo`, with warm-up and validation scaled to another number of steps."""
    from wordsight.training import load_recipe

    recipe = load_recipe("demo")
    if steps is None or steps == recipe.schedule.steps:
        return recipe
    warmup_steps = min(recipe.schedule.warmup_steps, steps // 10)
    every_steps = max(1, steps * recipe.validation.every_steps // recipe.schedule.steps)
    changes = (f"steps={steps}", f"warmup_steps={warmup_steps}")
    return load_recipe("demo", (*(f"schedule.{change}" for change in changes), f"validation.every_steps={every_steps}"))


def _program() -> str:
    """Return how the user started wordsight, so that the suggested commands can be run unchanged."""
    started = Path(sys.argv[0])
    if started.name != "wordsight":
        return f"{shlex.quote(sys.executable)} -m wordsight"
    on_path = shutil.which("wordsight")
    is_on_path = on_path is not None and Path(on_path).resolve() == started.resolve()
    return "wordsight" if is_on_path else shlex.quote(str(started))
