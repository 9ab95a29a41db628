"""ZeroShotClassifier with their names, or a tree of them: as a command line or a file gives them, checked.

A tree is written as indented lines. The lines without deeper ones below them are the labels; the others are kinds of
these, asked about by their labels alone:

    animal
        dog
        cat
    vehicle
        car
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError, DataError

Names: TypeAlias = str | Sequence[str]
"""What a label is called: one name, or several that mean the same, the first of which is shown."""

SURE = 0.5
"""What is said of a image where its probability is above."""

_MAX_LABELS_BYTES = 1 << 26
_LABEL_SUFFIXES = (".txt", ".json")


@dataclass(frozen=True)
class LabelHierarchy:
    """A tree of labels.

    Attributes:
        labels: the leaves, in the order of their lines.
        paths: for each leaf the names from the top down to itself.
    """

    labels: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]

    def answer(self, probability_K: NDArray[np.float64]) -> tuple[tuple[str, ...], float]:
        """The path of the deepest node whose probability, the sum of its leaves', passes `SURE`, and the probability.

        Where no node passes, it is the most probable one at the top.
        """
        of_node: dict[tuple[str, ...], float] = {}
        for path, probability in zip(self.paths, probability_K, strict=True):
            for depth in range(1, len(path) + 1):
                of_node[path[:depth]] = of_node.get(path[:depth], 0.0) + float(probability)
        sure = [path for path, probability in of_node.items() if probability > SURE]  # at most one at each depth
        tops = [path for path in of_node if len(path) == 1]
        chosen = max(sure, key=len) if sure else max(tops, key=of_node.__getitem__)
        return chosen, min(of_node[chosen], 1.0)


def read_labels(value: str) -> list[tuple[str, ...]] | LabelHierarchy:
    """ZeroShotClassifier as a command line gives them.

    Args:
        value: `cat,dog`, or the path of a file: a label a line, indented below their kinds where it is a tree, or a
            JSON list of names or of lists of names that mean the same, or a JSON object whose values are such.

    Returns:
        The names of each label, the one that is shown first; or a tree.

    Raises:
        DataError: the file cannot be read, or is not of this form.
        ConfigError: no labels, an empty or a doubled one, or a tree whose lines do not fit.
    """
    path = Path(value)
    is_file = path.suffix in _LABEL_SUFFIXES or _is_file(path)
    try:
        if not is_file:
            return check_labels(value.split(",") if value.strip() else [])
        text = _text_of_file(path)
        if path.suffix == ".json":
            return check_labels(_json_labels(path, text))
        lines = text.splitlines()
        return parse_hierarchy(lines) or check_labels([line for line in lines if line.strip()])
    except ConfigError as error:
        raise ConfigError(f"{path if is_file else '--labels'}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of labels may be longer than a path can be
        return False


def _text_of_file(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise DataError(f"{path}: larger than {_MAX_LABELS_BYTES} bytes, not a file of labels")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as labels: {reason}; expected UTF-8 text, a label a line") from error


def _json_labels(path: Path, text: str) -> list[Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected a list of labels") from error
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, str | list) for item in items):
        raise DataError(f"{path}: expected a JSON list of labels, or an object whose values are labels")
    return items


def parse_hierarchy(lines: Sequence[str]) -> LabelHierarchy | None:
    """A tree from indented lines, or None where all are indented alike.

    Raises:
        ConfigError: tabs and blanks mixed, a line that is no step, or more than one step, deeper, or a name twice.
    """
    rows = [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]
    indents = [line[: len(line) - len(line.lstrip())] for _, line in rows]
    if len(set(indents)) < 2:
        return None
    if len(set("".join(indents))) > 1:
        raise ConfigError("a tree of labels indented with tabs and blanks; use the one or the other")
    depths = [len(indent) - len(indents[0]) for indent in indents]
    step = next(abs(depth) for depth in depths if depth)
    paths: list[tuple[str, ...]] = []
    seen: dict[str, int] = {}
    for (number, line), depth in zip(rows, depths, strict=True):
        level, name = depth // step, " ".join(line.split())
        if depth % step or not 0 <= level <= (len(paths[-1]) if paths else 0):
            raise ConfigError(
                f"line {number}: {name!r} is indented by {depth} more than the first line; expected a multiple of "
                f"{step}, and at most {step} more than the line above"
            )
        if (before := seen.setdefault(as_read(name), number)) != number:
            raise ConfigError(f"line {number}: {name!r} was named on line {before}; tell them apart by a word more")
        paths.append((*(paths[-1][:level] if paths else ()), name))
    leaves = [path for path, after in pairwise([*paths, ()]) if after[: len(path)] != path]
    return LabelHierarchy(tuple(path[-1] for path in leaves), tuple(leaves))


def check_labels(names: Iterable[Names]) -> list[tuple[str, ...]]:
    """ZeroShotClassifier as tuples of their different names, white space tidied."""
    if isinstance(names, str):
        raise ConfigError(f"labels {names!r}: expected a list of names, as in ['cat', 'dog']")
    labels = [_checked_names(number, label) for number, label in enumerate(names)]
    if not labels:
        raise ConfigError("no labels; give at least one")
    counts = Counter(as_read(label[0]) for label in labels)
    doubled = sorted({label[0] for label in labels if counts[as_read(label[0])] > 1})
    if doubled:
        shown = ", ".join(map(repr, doubled[:5]))
        raise ConfigError(f"labels given more than once: {shown}; leave one out, or tell them apart by a word more")
    return labels


def _checked_names(number: int, label: Names) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for name in label if isinstance(label, list | tuple) else [label]:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"label {number}: expected a name, found {name!r}; name it or leave it out")
        kept.setdefault(as_read(name), " ".join(name.split()))
    if not kept:
        raise ConfigError(f"label {number}: no name; name it or leave it out")
    return tuple(kept.values())


def as_read(name: str) -> str:
    """A name as the tokenizer, which lower-cases, tells it from others."""
    return " ".join(unicodedata.normalize("NFC", name).lower().split())
