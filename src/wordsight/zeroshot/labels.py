"""Labels and label hierarchies: reading them from the command line or a file, and checking them.

A label is one class of a classifier; it has one or more names (synonyms). A hierarchy is written as indented lines.
Lines without deeper lines below them are the labels (the leaves); all other lines are groups, whose probability is the
sum over their leaves:

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
"""The names of one label: a single name, or several synonyms of which the first is the one displayed."""

DECISION_THRESHOLD = 0.5
"""A group of a hierarchy, or a label in multi-label mode, is predicted if its probability is above this."""

_MAX_LABELS_BYTES = 1 << 26
_LABEL_SUFFIXES = (".txt", ".json")


@dataclass(frozen=True)
class LabelHierarchy:
    """A tree of labels.

    Attributes:
        labels: the K leaves, in the order of their lines.
        paths: for each leaf, the names from the top level down to the leaf itself.
    """

    labels: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]

    def deepest_node(self, probability_K: NDArray[np.float64]) -> tuple[tuple[str, ...], float]:
        """Return the deepest node that is more probable than `DECISION_THRESHOLD`.

        The probability of a node is the sum over its leaves. If no node exceeds the threshold, the most probable
        top-level node is returned.

        Args:
            probability_K: (K,) probabilities of the leaves; they sum to 1.

        Returns:
            The path of the node, from the top level down, and its probability.
        """
        probability_of_node: dict[tuple[str, ...], float] = {}
        for path, probability in zip(self.paths, probability_K, strict=True):
            for depth in range(1, len(path) + 1):
                node = path[:depth]
                probability_of_node[node] = probability_of_node.get(node, 0.0) + float(probability)
        # at most one node per depth, because the probabilities of a depth sum to at most 1
        above = [path for path, probability in probability_of_node.items() if probability > DECISION_THRESHOLD]
        top_level = [path for path in probability_of_node if len(path) == 1]
        deepest = max(above, key=len) if above else max(top_level, key=probability_of_node.__getitem__)
        return deepest, min(probability_of_node[deepest], 1.0)


def read_labels(value: str) -> list[tuple[str, ...]] | LabelHierarchy:
    """Read labels as they are given on the command line.

    Args:
        value: comma-separated names (`cat,dog`) or the path of a file. A text file has one label per line; indented
            lines make a hierarchy. A JSON file holds a list whose items are names or lists of synonyms, or an object
            whose values are such items.

    Returns:
        The names of each label, the displayed one first; or a hierarchy.

    Raises:
        DataError: the file cannot be read or has another structure.
        ConfigError: there are no labels, one is empty or repeated, or a hierarchy is indented inconsistently.
    """
    path = Path(value)
    is_file = path.suffix in _LABEL_SUFFIXES or _is_file(path)
    try:
        if not is_file:
            return check_labels(value.split(",") if value.strip() else [])
        text = _read_text(path)
        if path.suffix == ".json":
            return check_labels(_parse_json(path, text))
        lines = text.splitlines()
        return parse_hierarchy(lines) or check_labels([line for line in lines if line.strip()])
    except ConfigError as error:
        raise ConfigError(f"{path if is_file else '--labels'}: {error}") from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of labels can be longer than the longest valid path
        return False


def _read_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise DataError(f"{path}: larger than {_MAX_LABELS_BYTES:,} bytes; check that it is a file of labels")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{path}: cannot be read as labels: {reason}; expected UTF-8 text with one label per line"
        ) from error


def _parse_json(path: Path, text: str) -> list[Any]:
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected a list of labels") from error
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, str | list) for item in items):
        raise DataError(f"{path}: expected a JSON list of labels, or an object whose values are labels")
    return items


def parse_hierarchy(lines: Sequence[str]) -> LabelHierarchy | None:
    """Parse indented lines into a hierarchy; return None if all lines have the same indentation.

    Raises:
        ConfigError: tabs and spaces are mixed, a line's indentation is not a multiple of the first step or is more
            than one step deeper than the line above, or a name occurs twice.
    """
    rows = [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]
    indents = [line[: len(line) - len(line.lstrip())] for _, line in rows]
    if len(set(indents)) < 2:
        return None
    if len(set("".join(indents))) > 1:
        raise ConfigError("the label hierarchy is indented with both tabs and spaces; use one or the other")
    offsets = [len(indent) - len(indents[0]) for indent in indents]
    step = next(abs(offset) for offset in offsets if offset)
    paths: list[tuple[str, ...]] = []
    first_line: dict[str, int] = {}
    for (number, line), offset in zip(rows, offsets, strict=True):
        level, name = offset // step, " ".join(line.split())
        if offset % step or not 0 <= level <= (len(paths[-1]) if paths else 0):
            raise ConfigError(
                f"line {number}: {name!r} is indented by {offset} more than the first line; expected a multiple of "
                f"{step}, and at most {step} more than the line above"
            )
        if (earlier := first_line.setdefault(normalise_name(name), number)) != number:
            raise ConfigError(
                f"line {number}: {name!r} is already the name on line {earlier}; add a word to tell them apart"
            )
        paths.append((*(paths[-1][:level] if paths else ()), name))
    leaves = [path for path, following in pairwise([*paths, ()]) if following[: len(path)] != path]
    return LabelHierarchy(tuple(path[-1] for path in leaves), tuple(leaves))


def check_labels(labels: Iterable[Names]) -> list[tuple[str, ...]]:
    """Return each label as a tuple of its distinct names, with white space collapsed.

    Raises:
        ConfigError: there are no labels, a label has no name, or two labels are displayed under the same name.
    """
    if isinstance(labels, str):
        raise ConfigError(f"labels {labels!r}: expected a list of names, as in ['cat', 'dog']")
    checked = [_check_names(number, names) for number, names in enumerate(labels)]
    if not checked:
        raise ConfigError("no labels; give at least one")
    counts = Counter(normalise_name(names[0]) for names in checked)
    repeated = sorted({names[0] for names in checked if counts[normalise_name(names[0])] > 1})
    if repeated:
        listed = ", ".join(map(repr, repeated[:5]))
        raise ConfigError(f"labels given more than once: {listed}; remove one, or add a word to tell them apart")
    return checked


def _check_names(number: int, names: Names) -> tuple[str, ...]:
    distinct: dict[str, str] = {}
    for name in names if isinstance(names, list | tuple) else [names]:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"label {number}: expected a name, found {name!r}; give it a name or remove it")
        distinct.setdefault(normalise_name(name), " ".join(name.split()))
    if not distinct:
        raise ConfigError(f"label {number}: no name; give it a name or remove it")
    return tuple(distinct.values())


def normalise_name(name: str) -> str:
    """Return the key under which two spellings of a name are equal: NFC, lower case, white space collapsed.

    The tokenizer lower-cases too, so names with equal keys have equal embeddings.
    """
    return " ".join(unicodedata.normalize("NFC", name).lower().split())
