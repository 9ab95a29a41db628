"""The command line: one file a command, thin; here are the list of commands and what becomes of errors.

A command is the function of its name in the module of its name. The modules import typer and the standard library at their
top and everything else within, so that `--help` is quick.
"""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from wordsight.errors import ConfigError, WordsightError, nearest

COMMANDS = ("demo", "train", "classify", "embed", "shards", "models", "convert", "recipes")
"""In the order of `--help`; `classify` is `wordsight.cli.classify.classify`."""

_DONE, _OURS, _THEIRS, _INTERRUPTED, _PIPE_CLOSED = 0, 1, 2, 130, 141
_UsageError: Any = typer.BadParameter.__base__  # what typer raises for bad usage, under a name that it exports


class _Commands(TyperGroup):
    """The group of commands, which answers a misspelt one with the nearest."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args[0] not in self.commands and not args[0].startswith("-"):
            raise ConfigError(f"no command {args[0]!r}{nearest(args[0], self.commands)}; see wordsight --help")
        return super().resolve_command(ctx, args)


def _show_version(wanted: bool) -> None:
    if wanted:
        from wordsight import __version__

        typer.echo(f"wordsight {__version__}")
        raise typer.Exit


def _start(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Learn images from words: train a CLIP, label images with it, turn images into embeddings."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def build_app() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        cls=_Commands,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_start)
    for command in COMMANDS:
        app.command(command)(getattr(import_module(f"wordsight.cli.{command}"), command))
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 for the user's mistake, 1 for ours, 130 when interrupted.

    Args:
        arguments: without the program's name; those of the process where None.
    """
    # threads that spin while they wait make training ten times slower where others use the cores; torch reads this when
    # it loads
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    try:
        code = build_app()(args=arguments, prog_name="wordsight", standalone_mode=False)
        sys.stdout.flush()
        if code == _INTERRUPTED:  # what typer makes of it
            raise KeyboardInterrupt
    except WordsightError as error:
        return _fail(str(error))
    except _UsageError as error:
        return _fail(error.format_message())
    except (KeyboardInterrupt, typer.Abort):
        print("interrupted", file=sys.stderr)
        return _INTERRUPTED
    except SystemExit:  # how typer ends when the reader, such as head, has seen enough
        return _PIPE_CLOSED
    except BrokenPipeError:  # the same, seen at the last line
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except Exception:
        traceback.print_exc()
        print("error: this is a defect of wordsight; please report it with the lines above", file=sys.stderr)
        return _OURS
    return code if isinstance(code, int) else _DONE


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return _THEIRS
