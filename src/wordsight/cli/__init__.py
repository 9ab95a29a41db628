"""The command line: the list of commands; `endings.py` turns exceptions into messages and exit codes.

The command `NAME` is the function `NAME` in the module `wordsight.cli.NAME`, which is imported only if the command line
names the command. At the top, these modules import only typer, the standard library and light modules; everything else
is imported inside the function, so that `--help` starts fast.
"""

import inspect
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wordsight.cli.endings import (
    EXIT_INTERRUPTED,
    EXIT_OK,
    end,
    flush,
    interruptible,
    one_line_warnings,
    prepare_streams,
)
from wordsight.errors import ConfigError, nearest
from wordsight.progress import no_phases

COMMANDS = {
    "demo": "Train a small model in minutes, evaluate it and write a report.",
    "train": "Train a model on shards of images and texts.",
    "runs": "Compare training runs.",
    "classify": "Classify images with labels of your choice, without training.",
    "evaluate": "Measure models on images with captions or labels, and compare them.",
    "embed": "Write embeddings of images to a Parquet or NumPy file.",
    "find": "Find images by a text, by an image, or by several of both.",
    "duplicates": "Find files with the same bytes and images that look the same.",
    "shards": "Pack images with their texts or labels into WebDataset shards.",
    "models": "List published weights, print a card, or download weights.",
    "convert": "Convert a model to another format and verify the result.",
    "recipes": "List training recipes with their measured results and export formats, or print one.",
    "info": "Print versions, devices and settings, for bug reports.",
    "cache": "List what is cached, or delete it.",
}
"""The commands in the order of `--help`, each with the first sentence of its own help."""

PROGRAM = "wordsight"

_COMPLETION_VARIABLE = "_WORDSIGHT_COMPLETE"  # set by the completion scripts; typer derives the name from the program's


class _CommandGroup(TyperGroup):
    """The group of commands; an unknown command is an error that names the nearest one."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        is_option = args[0].startswith("-")
        if args[0] not in self.commands and not is_option and not ctx.resilient_parsing:  # resilient: completing
            suggestion = nearest(args[0], self.commands) or f"; '{PROGRAM} --help' lists them"
            raise ConfigError(f"unknown command {args[0]!r}{suggestion}")
        return super().resolve_command(ctx, args)


def _print_version(is_requested: bool) -> None:
    if is_requested:
        from wordsight import __version__

        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Train, load, evaluate and use CLIP models, which embed images and texts in one space.

    \b
    Example:
      wordsight demo
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build_app(needed: Collection[str] = COMMANDS) -> typer.Typer:
    """Build the application.

    Args:
        needed: commands to build with their options. The others are only listed, which saves their imports.
    """
    app = typer.Typer(
        cls=_CommandGroup,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True, **_help_texts(_start))(_start)
    for command, summary in COMMANDS.items():
        if command in needed:
            function = getattr(import_module(f"wordsight.cli.{command}"), command)
            app.command(command, **_help_texts(function))(function)
        else:
            app.command(command, help=summary)(_do_nothing)
    return app


def _do_nothing() -> None:
    """Serve as the placeholder of a command that is listed but not run."""


def _needed_commands(arguments: Sequence[str]) -> Collection[str]:
    """The commands whose options are needed to run a command line: the one that it names, or all for completion."""
    if _COMPLETION_VARIABLE in os.environ:
        return COMMANDS
    return [argument for argument in arguments if not argument.startswith("-")][:1]


def _help_texts(function: Any) -> dict[str, Any]:
    """The text above the options in `--help`, and the example below them, from a docstring."""
    text, marker, example = (inspect.getdoc(function) or "").partition("\b\nExample:\n")
    return {"help": text, "epilog": marker + example}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: without the name of the program; by default those of the process.

    Returns:
        The exit code: 0 for success, 2 for a user error, 1 for a bug in wordsight, 130 if interrupted, 141 if the
        reader of the output closed it; see `endings.py`.
    """
    # Threads that spin while they wait slow training down tenfold when other processes use the CPUs. torch reads this
    # variable when it is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = list(sys.argv[1:] if arguments is None else arguments)
    prepare_streams()
    with interruptible() as interruption, one_line_warnings(), no_phases():
        try:
            result = build_app(_needed_commands(given))(args=given, prog_name=PROGRAM, standalone_mode=False)
            if result == EXIT_INTERRUPTED:  # typer's code for a KeyboardInterrupt
                raise KeyboardInterrupt
            code = result if isinstance(result, int) else EXIT_OK
        except BaseException as error:  # the outer edge: no traceback reaches the user
            code = end(error, interruption, given)
        return flush(code)
