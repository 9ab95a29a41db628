"""Retired words and phrases stay out of identifiers, docstrings, comments, messages, help texts and docs.

`RULES` holds patterns, the scope in which each is searched, and what to write instead. Identifiers and prose are
separate scopes, because words such as `place` and `found` are ordinary English in a sentence but bad names. `DATA`
lists the data that contains retired words: prompt templates, word lists and column names.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from tests.conftest import ROOT

Scope = Literal["identifier", "prose", "file"]


class Rule(NamedTuple):
    """A retired word.

    Attributes:
        pattern: a regular expression, in which a space matches any white space. For `identifier` it must match a whole
            word of a name (`old_name` and `OldName` have two words), or the whole name if it contains an underscore.
        scope: `identifier` for names that are defined in Python code, `prose` for sentences, `file` for file names.
        instead: what to write.
        example: a text that breaks the rule.
        allowed: a regular expression of paths to which the rule does not apply.
    """

    pattern: str
    scope: Scope
    instead: str
    example: str
    allowed: str = "(?!)"


_ABOUT_PROCESSES = "distributed|/training/|/data/|torchrun|train_"
_ABOUT_MATRICES = "optimizer|muon|test_caption_tokens"

RULES = (
    # names
    Rule("pictures?|photographs?", "identifier", "image or pixels", "picture_names"),
    Rule("squares?", "identifier", "image or pixels", "squares", _ABOUT_MATRICES),
    Rule("folders?", "identifier", "directory", "out_folder"),
    Rule("vectors?", "identifier", "embedding", "text_vector", _ABOUT_MATRICES),
    Rule("found|told", "identifier", "the name of the thing", "found"),
    Rule("places?", "identifier", "path, slot or index", "place"),
    Rule("Found", "identifier", "Checkpoint", "FoundWeights"),
    Rule("Labels", "identifier", "ZeroShotClassifier", "Labels"),
    Rule("Answer", "identifier", "Prediction", "AnswerList"),
    Rule("[Ll]east|[Mm]ost|LEAST|MOST", "identifier", "min or max", "least_px"),
    Rule("averaging|Average", "identifier", "EMA, ema_decay", "averaging"),
    Rule("headline", "identifier", "selection_metric", "headline_of"),
    Rule("exam", "identifier", "evaluation", "exam"),
    Rule("beginnings", "identifier", "prefix tree", "beginnings"),
    Rule("arranged", "identifier", "prepacked", "arranged_weights"),
    Rule("RANKS", "identifier", "ks", "RANKS"),
    Rule("rank|ranks", "identifier", "position or index; a rank is a process", "rank", _ABOUT_PROCESSES),
    Rule("Perceptron", "identifier", "MLP", "Perceptron"),
    Rule("ProbePooling", "identifier", "AttentionPool", "ProbePooling"),
    Rule("on_broken", "identifier", "on_unreadable", "on_broken"),
    Rule("choose|choose_runtime", "identifier", "select, select_runtime", "choose"),
    Rule("utils|helpers?|manager", "identifier", "the name of the thing", "io_utils"),
    # file names
    Rule("pictures|samples|exam|trees|resolve|published|own|found|reading", "file", "the vocabulary's word", "exam.py"),
    Rule("utils|helpers|manager|base|legacy|common|misc|v2", "file", "what the file contains", "utils.py"),
    # words in sentences
    Rule("a images?", "prose", "an image", "a image"),
    Rule("pictures?", "prose", "image", "a picture"),
    Rule("folders?", "prose", "directory", "this folder"),
    Rule("quick(?!-|:| ?start| mode)", "prose", "fast", "it is quick"),
    Rule("mend(s|ed|ing)?", "prose", "fix, correct or repair", "ftfy mends it"),
    Rule("headline", "prose", "selection_metric", "the headline"),
    Rule("on_broken", "prose", "on_unreadable", "skipped with on_broken"),
    Rule("beginnings", "prose", "prefix tree", "texts with equal beginnings"),
    Rule("Perceptron", "prose", "MLP", "a Perceptron"),
    Rule("(this|second|own) room", "prose", "package or module", "this room knows no torch"),
    # phrases
    Rule("(is|are|was|were|be) told(?! apart)", "prose", "is called with, receives, is reported", "is told each image"),
    Rule("asked for by name", "prose", "opt-in", "asked for by name"),
    Rule("a little apart", "prose", "slightly different", "a little apart"),
    Rule("as (deep|far) as it is sure", "prose", "while the probability stays above 0.5", "as deep as it is sure"),
    Rule("among the best [0-9k]+", "prose", "recall@k", "among the best 10"),
    Rule("what (fell|falls) short", "prose", "missed", "what fell short"),
    Rule("(comes|come|came) late", "prose", "is imported lazily", "torch comes late"),
    Rule(
        "([Aa]n?|[Oo]ne) [a-z]+ an? (class|command|image|kind|label|line|page|processor|row|step|text|thread)",
        "prose",
        "one ... per ...",
        "a label a line",
    ),
    Rule(
        "(lies|stands) (in(?! \\[| the (range|interval))|at|on|by|here|there|where|beside|below|behind|under|above)",
        "prose",
        "is",
        "the table stands in the docs",
    ),
    Rule("at hand", "prose", "available", "no file is at hand"),
    Rule("(each|every|one) [a-z]+ by itself", "prose", "independently", "each label by itself"),
    Rule("the way back", "prose", "the inverse, or the backward pass", "the way back"),
    Rule("so many", "prose", "the number", "so many rows"),
    Rule(
        "(given|kept|passed|printed|read|returned|shown|taken|used|written) as (it is|they are)(?=[.,;:)]|$)",
        "prose",
        "unchanged or verbatim",
        "returned as it is",
    ),
    Rule("times as much in about as long", "prose", "the metric and its value", "1.4 times as much in about as long"),
    Rule("where there (is|are) (one|none|any)", "prose", "if there is one", "the bias, where there is one"),
    Rule("places? (cannot|for the label)", "prose", "path, or slot", "A place cannot be written"),
    Rule("(another|other) place", "prose", "another path", "choose another place"),
    Rule("in circles", "prose", "in a loop", "redirected in circles"),
    Rule("ranks? [0-9]+", "prose", "position; a rank is a process", "at rank 3", _ABOUT_PROCESSES),
    Rule("learn(s|ed)? (pictures|images) from words", "prose", "train image-text models", "learns images from words"),
)

DATA = (
    ("src/wordsight/zeroshot/templates.py", "picture"),  # prompt templates
    ("src/wordsight/zeroshot/published_templates.py", "picture"),
    ("src/wordsight/zeroshot/reliability.py", "picture"),
    ("src/wordsight/zeroshot/background.py", "picture"),  # Ogden's word list
    ("benchmarks/quality_peer.py", "picture"),  # prompt templates
    ("benchmarks/recipe_trial.py", "picture"),
    ("src/wordsight/recipes/flickr8k.toml", "picture"),
    ("src/wordsight/data/openmoji.py", "picture"),  # training captions
)
"""Files whose data contains a retired word in string literals, and that word."""

_SOURCES = ("src/wordsight", "tests", "benchmarks")
_DOCUMENTS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "pyproject.toml",
    "docs",
    "src/wordsight/recipes",
    "src/wordsight/report",
)
_DOCUMENT_SUFFIXES = {".md", ".toml", ".html"}
_ORDINARY_NAMES = re.compile("in_place|not_?found|at_least|at_most|most_common", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+")


class Fragment(NamedTuple):
    """A piece of a file: the scope it belongs to, its text, and the number of its first line."""

    scope: Scope
    text: str
    line: int


def hits_in(path: str, fragments: Iterator[Fragment]) -> Iterator[str]:
    """Yield one line for each rule that a fragment breaks."""
    for fragment in sorted(fragments, key=lambda fragment: fragment.line):
        for rule in RULES:
            if rule.scope == fragment.scope and not re.search(rule.allowed, path):
                for match in _matches(rule, fragment.text):
                    line = fragment.line + fragment.text[: match.start()].count("\n")
                    word = " ".join(match[0].split())
                    yield f"{path}:{line}: {word!r} -> write {rule.instead!r}"


def _matches(rule: Rule, text: str) -> Iterator[re.Match[str]]:
    if rule.scope == "prose":
        pattern = rule.pattern.replace(" ", r"\s+")
        flags = re.IGNORECASE if pattern.islower() else 0
        yield from re.finditer(rf"(?<![\w-])(?:{pattern})(?![\w])", text, flags)
    elif rule.scope == "file" or "_" in rule.pattern:
        yield from filter(None, [re.fullmatch(rule.pattern, text)])
    else:
        yield from filter(None, (re.fullmatch(rule.pattern, word) for word in _words(rule, text)))


def _words(rule: Rule, name: str) -> list[str]:
    """Split a name into words; rules with capitals distinguish `Answer` from `answer`."""
    name = _ORDINARY_NAMES.sub("", name)
    words = [*_WORD.findall(name), name] if re.search("[a-z][A-Z]", rule.pattern) else _WORD.findall(name)
    return words if re.search("[A-Z]", rule.pattern) else [word.lower() for word in words]


def python_fragments(source: str, is_test: bool) -> Iterator[Fragment]:
    """Yield the names that a Python file defines, its docstrings and comments, and the messages outside tests."""
    tree = ast.parse(source)
    docstrings = {id(node) for node in _docstrings(tree)}
    for node in ast.walk(tree):
        yield from (Fragment("identifier", name, node.lineno) for name in _defined_names(node))  # type: ignore[attr-defined]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            yield Fragment("prose", node.name.replace("_", " "), node.lineno)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            is_message = " " in node.value and not is_test
            if id(node) in docstrings or is_message:
                yield Fragment("prose", node.value, node.lineno)
    yield from _comments(source)


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    """Yield docstrings, including those below attributes and constants."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                yield statement.value


def _defined_names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        if not node.name.startswith("test_"):
            yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
        yield node.attr


def _comments(source: str) -> Iterator[Fragment]:
    """Yield comments; those on consecutive lines are one fragment."""
    block: list[str] = []
    start = previous = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if block and line != previous + 1:
            yield Fragment("prose", "\n".join(block), start)
            block = []
        if not block:
            start = line
        block.append(token.string.lstrip("# "))
        previous = line
    if block:
        yield Fragment("prose", "\n".join(block), start)


def document_fragments(text: str, suffix: str) -> Iterator[Fragment]:
    """Yield the prose of a document; code in Markdown is blanked, because it is data or tested elsewhere."""
    if suffix == ".md":
        text = re.sub(r"^```.*?^```|`[^`\n]+`", lambda match: re.sub(r"[^\n]", "~", match[0]), text, flags=re.M | re.S)
    yield Fragment("prose", text, 1)


def is_data(hit: str) -> bool:
    return any(hit.startswith(f"{path}:") and f" {word!r} " in hit for path, word in DATA)


def report(hits: list[str]) -> None:
    hits = [hit for hit in hits if not is_data(hit)]
    if hits:
        pytest.fail("\n".join([f"{len(hits)} retired words:", *hits]), pytrace=False)


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def python_files() -> list[Path]:
    paths = [path for directory in _SOURCES for path in sorted((ROOT / directory).rglob("*.py"))]
    return [path for path in paths if path != Path(__file__)]


def document_files() -> list[Path]:
    roots = [ROOT / name for name in _DOCUMENTS]
    paths = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    return [path for path in paths if path.suffix in _DOCUMENT_SUFFIXES and path.is_file()]


def python_hits(scope: Scope) -> list[str]:
    hits = []
    for path in python_files():
        fragments = python_fragments(path.read_text("utf-8"), is_test=relative(path).startswith("tests/"))
        hits += hits_in(relative(path), (fragment for fragment in fragments if fragment.scope == scope))
    return hits


def test_no_name_in_the_code_contains_a_retired_word() -> None:
    report(python_hits("identifier"))


def test_no_docstring_comment_or_message_contains_a_retired_word() -> None:
    report(python_hits("prose"))


def test_no_document_contains_a_retired_word() -> None:
    hits: list[str] = []
    for path in document_files():
        hits += hits_in(relative(path), document_fragments(path.read_text("utf-8"), path.suffix))
    report(hits)


def test_no_file_name_is_a_retired_word() -> None:
    hits: list[str] = []
    for path in python_files():
        stem = path.stem.removeprefix("test_")
        hits += hits_in(relative(path), iter([Fragment("file", stem, 1)]))
    report(hits)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.example)
def test_negative_control_every_rule_detects_its_example(rule: Rule) -> None:
    fragment = Fragment(rule.scope, rule.example.removesuffix(".py"), 7)
    assert any(hit.startswith("a.py:7: ") and repr(rule.instead) in hit for hit in hits_in("a.py", iter([fragment])))


def test_negative_control_hits_have_line_numbers_and_phrases_span_lines() -> None:
    source = '''"""Fine.

Each label is
told its image.
"""
vectors = 1  # returned as it is,
# where there is
# one

def test_a_picture_is_read(place):
    return "a message of a test is data: it is told"
'''
    hits = list(hits_in("a.py", python_fragments(source, is_test=True)))
    assert [hit.split(" -> ")[0] for hit in hits] == [
        "a.py:3: 'is told'",
        "a.py:6: 'vectors'",
        "a.py:6: 'returned as it is'",
        "a.py:7: 'where there is one'",
        "a.py:10: 'picture'",
        "a.py:10: 'place'",
    ]
    assert any(hit.startswith("a.py:11: 'is told'") for hit in hits_in("a.py", python_fragments(source, is_test=False)))


def test_ordinary_english_is_accepted() -> None:
    sentences = [
        "no such file was found in the first place",
        "the two are told apart by their hashes; quickly and in place",
        "the form of the answer; one row per image",
        "`replaced` names and square roots",
    ]
    assert not [hit for text in sentences for hit in hits_in("a.py", iter([Fragment("prose", text, 1)]))]
    assert not list(hits_in("a.py", iter([Fragment("identifier", "replace_all_in_place", 1)])))
    markdown = "```\na picture\n```\nthe template `a picture of a {}.`\n"
    assert not list(hits_in("a.md", document_fragments(markdown, ".md")))
