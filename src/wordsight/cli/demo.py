"""`wordsight demo`: the tour.

demo_state.py    what the directory says about itself, so that a second call goes on
demo_tour.py     the stages
demo_exam.py     what the model is asked
demo_report.py   the page and the summary
"""

import json
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
    out: Annotated[Path, typer.Option(help="Directory for everything; new, empty, or of an earlier tour.")] = Path(
        "demo"
    ),
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of training; default: the recipe's.")] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """The tour: build, train, show, report. About three minutes on two CPU cores.

    Two thousand drawings with words become shards; a small CLIP learns from them; then it is asked about drawings of
    things that it has never seen. Needs the extras samples and report. A second call goes on, or shows what is there.

    \b
    Example:
      wordsight demo
    """
    import msgspec

    from wordsight.cli.terminal import silence_notes
    from wordsight.demo.report import commands_of, in_words
    from wordsight.demo.state import read_state, write_state
    from wordsight.files import lock, make_directory

    recipe = _recipe(steps)
    state = read_state(out, recipe)
    commands = commands_of(_program(), out)
    summary = state.summary
    with lock(make_directory(out) / ".lock"):
        if summary is None or not ((out / "report.html").exists() and (out / "run").exists()):
            from wordsight.demo.tour import take_tour

            write_state(out, state)
            with silence_notes(quiet):
                summary = take_tour(out, recipe, commands)
            write_state(out, msgspec.structs.replace(state, summary=summary))
    if as_json:
        places = {"out": str(out), "report": str(out / "report.html"), "run": str(out / "run")}
        commands_alone = [command for command, _ in commands]
        typer.echo(json.dumps(places | msgspec.to_builtins(summary) | {"commands": commands_alone}))
    else:
        typer.echo(in_words(summary, out, commands))


def _recipe(steps: int | None) -> "Recipe":
    """The recipe `demo`, or the same with another number of steps."""
    from wordsight.training import load_recipe

    recipe = load_recipe("demo")
    if steps is None or steps == recipe.schedule.steps:
        return recipe
    warmup_steps = min(recipe.schedule.warmup_steps, steps // 10)
    every_steps = max(1, steps * recipe.validation.every_steps // recipe.schedule.steps)
    changes = (f"steps={steps}", f"warmup_steps={warmup_steps}")
    return load_recipe("demo", (*(f"schedule.{change}" for change in changes), f"validation.every_steps={every_steps}"))


def _program() -> str:
    """How the user started wordsight, so that the commands of the summary run as they stand."""
    started = Path(sys.argv[0])
    if started.name != "wordsight":
        return f"{shlex.quote(sys.executable)} -m wordsight"
    found = shutil.which("wordsight")
    is_on_path = found is not None and Path(found).resolve() == started.resolve()
    return "wordsight" if is_on_path else shlex.quote(str(started))
