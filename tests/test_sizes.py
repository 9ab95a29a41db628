"""Files and functions stay small enough to read at once. The list of exceptions may only shrink."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import wordsight
from tests.conftest import ROOT
from wordsight.cli import COMMANDS

SOURCE = Path(wordsight.__file__).parent

MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8
MAX_NESTING = 3
MAX_FILE_LINES = 400
MAX_COMMAND_LINES = 150

EXCEPTIONS: frozenset[str] = frozenset(
    {"encoder/loading.py: load: more than 8 arguments", "training/loop.py: train: more than 8 arguments"}
)  # their options are the public API
"""Findings that are tolerated, as `find_oversized` words them; remove those that no longer apply, add none."""

_BLOCKS = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.Try, ast.TryStar, ast.Match)  # `with` does not branch
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def find_oversized(name: str, text: str) -> Iterator[str]:
    """Describe what is too large in one file."""
    num_lines = len(text.splitlines())
    max_lines = MAX_COMMAND_LINES if name in {f"cli/{command}.py" for command in COMMANDS} else MAX_FILE_LINES
    if num_lines > max_lines:
        yield f"{name}: more than {max_lines} lines"
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, _FUNCTIONS):
            continue
        if node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES:
            yield f"{name}: {node.name}: more than {MAX_FUNCTION_LINES} lines"
        is_command = name == f"cli/{node.name}.py"  # its arguments are options, which test_public_api.py freezes
        if count_arguments(node) > MAX_ARGUMENTS and not is_command:
            yield f"{name}: {node.name}: more than {MAX_ARGUMENTS} arguments"
        if nesting_depth(node) > MAX_NESTING:
            yield f"{name}: {node.name}: more than {MAX_NESTING} levels"


def count_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    signature = function.args
    arguments = [*signature.posonlyargs, *signature.args, *signature.kwonlyargs]
    arguments += filter(None, [signature.vararg, signature.kwarg])
    return len([argument for argument in arguments if argument.arg not in ("self", "cls")])


def nesting_depth(node: ast.AST) -> int:
    """The depth of nested blocks in a function; an `elif` is as deep as its `if`."""
    max_depth = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            continue
        is_else_branch = isinstance(node, ast.If) and isinstance(child, ast.If) and child in node.orelse[:1]
        is_elif = is_else_branch and has_elif(node)
        max_depth = max(max_depth, nesting_depth(child) + (isinstance(child, _BLOCKS) and not is_elif))
    return max_depth


def has_elif(node: ast.If) -> bool:
    return len(node.orelse) == 1 and node.orelse[0].col_offset == node.col_offset


def test_files_and_functions_of_the_package_are_small():
    findings = {
        finding
        for path in SOURCE.rglob("*.py")
        for finding in find_oversized(path.relative_to(SOURCE).as_posix(), path.read_text("utf-8"))
    }
    assert findings == EXCEPTIONS


def test_files_and_functions_of_the_benchmarks_are_small():
    findings = {
        finding
        for path in (ROOT / "benchmarks").rglob("*.py")
        for finding in find_oversized(path.relative_to(ROOT).as_posix(), path.read_text("utf-8"))
        if finding.endswith(" lines")  # arguments and nesting are not limited in scripts
    }
    assert findings == set()


@pytest.mark.parametrize(
    ("name", "text", "findings"),
    [
        (
            "x.py",
            "def f(a):\n" + "".join(f"{' ' * 4 * n}if a:\n" for n in range(1, 5)) + " " * 20 + "0",
            ["x.py: f: more than 3 levels"],
        ),
        ("x.py", "def f(a, b, c, d, e, f, g, h, i): 0", ["x.py: f: more than 8 arguments"]),
        ("x.py", "def f():\n" + "    0\n" * 60, ["x.py: f: more than 60 lines"]),
        ("x.py", "0\n" * 401, ["x.py: more than 400 lines"]),
        ("cli/train.py", "0\n" * 151, ["cli/train.py: more than 150 lines"]),
        ("x.py", "def f():\n    if a:\n        0\n" + "    elif b:\n        0\n" * 5, []),
    ],
)
def test_oversized_code_is_detected(name, text, findings):
    assert list(find_oversized(name, text)) == findings
