"""What has grown beyond one screen asks for its second room; the exceptions may only shrink."""

import ast
from collections.abc import Iterator
from pathlib import Path

import wordsight
from wordsight.cli import COMMANDS

SOURCE = Path(wordsight.__file__).parent

MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8
MAX_LEVELS = 3
MAX_FILE_LINES = 400
MAX_VERB_LINES = 150

EXCEPTIONS: frozenset[str] = frozenset({"encoder/loading.py: load: more than 8 arguments"})  # frozen public API
"""Entries as `findings` gives them; take out what no longer applies, add nothing."""

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)  # `with` decides nothing
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def findings(name: str, text: str) -> Iterator[str]:
    """What is too large in one file."""
    num_lines = len(text.splitlines())
    bound = MAX_VERB_LINES if name in {f"cli/{command}.py" for command in COMMANDS} else MAX_FILE_LINES
    if num_lines > bound:
        yield f"{name}: more than {bound} lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, _FUNCTIONS):
            continue
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
            yield f"{name}: {node.name}: more than {MAX_FUNCTION_LINES} lines"
        is_verb = name == f"cli/{node.name}.py"  # its arguments are its options, frozen in test_face.py
        if num_arguments(node) > MAX_ARGUMENTS and not is_verb:
            yield f"{name}: {node.name}: more than {MAX_ARGUMENTS} arguments"
        if levels(node) > MAX_LEVELS:
            yield f"{name}: {node.name}: more than {MAX_LEVELS} levels"


def num_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, *filter(None, [given.vararg, given.kwarg])]
    return len([argument for argument in every if argument.arg not in ("self", "cls")])


def levels(node: ast.AST) -> int:
    """How deep the blocks of a function lie in one another; an `elif` is no deeper than its `if`."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            continue
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse[:1] and is_alone(node)
        deepest = max(deepest, levels(child) + (isinstance(child, _BLOCKS) and not is_elif))
    return deepest


def is_alone(node: ast.If) -> bool:
    return len(node.orelse) == 1 and node.orelse[0].col_offset == node.col_offset


def test_functions_and_files_fit_on_their_screens():
    found = {
        finding
        for path in SOURCE.rglob("*.py")
        for finding in findings(path.relative_to(SOURCE).as_posix(), path.read_text())
    }
    assert found == EXCEPTIONS


def test_what_is_too_large_is_found():
    nested = "def f(a):\n" + "".join(f"{' ' * 4 * n}if a:\n" for n in range(1, 5)) + " " * 20 + "0"
    assert list(findings("x.py", nested)) == ["x.py: f: more than 3 levels"]
    assert list(findings("x.py", "def f(a, b, c, d, e, f, g, h, i): 0")) == ["x.py: f: more than 8 arguments"]
    assert list(findings("x.py", "def f():\n" + "    0\n" * 60)) == ["x.py: f: more than 60 lines"]
    assert list(findings("x.py", "0\n" * 401)) == ["x.py: more than 400 lines"]
    assert list(findings("cli/train.py", "0\n" * 151)) == ["cli/train.py: more than 150 lines"]
    chain = "def f():\n    if a:\n        0\n" + "    elif b:\n        0\n" * 5
    assert list(findings("x.py", chain)) == []
