"""Run the code blocks of a Markdown page: `bash` and `python` blocks in order, and files given as titled blocks.

A block with a title, such as ```` ```toml title="mine.toml" ````, is written to a file of that name. Blocks of other
languages (`console`, `text`) are not run: they need a network, a GPU or an hour.
"""

import contextlib
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from wordsight.cli import main

_BLOCK = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block of code."""

    language: str
    title: str
    code: str


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(*match) for match in _BLOCK.findall(page.read_text("utf-8"))]


def commands_of(block: Block) -> list[str]:
    """The commands of a `bash` block: comments removed, continued lines joined."""
    lines = block.code.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def run_blocks(page: Path) -> Mapping[str, Any]:
    """Run the blocks of a page in the current directory and return the names that its Python blocks define."""
    names: dict[str, Any] = {}
    for block in blocks_of(page):
        if block.title:
            Path(block.title).write_text(block.code, "utf-8")
        elif block.language == "bash":
            for command in commands_of(block):
                run_command(command)
        elif block.language == "python":
            exec(compile(block.code, str(page), "exec"), names)
    return names


def run_command(command: str) -> None:
    """Run `wordsight ... [> FILE]` in this process."""
    program, *arguments = shlex.split(command, comments=True)
    assert program == "wordsight", f"{command}: only wordsight runs here; fence other commands as console"
    target = None
    if ">" in arguments:
        target = Path(arguments[arguments.index(">") + 1])
        arguments = arguments[: arguments.index(">")]
    with contextlib.ExitStack() as stack:
        if target is not None:
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(target.open("w", encoding="utf-8"))))
        code = main(arguments)
    assert code == 0, f"{command}: exit code {code}"
