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

import contextlib
import csv
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from wordsight.data.class_files import CLASS_FILE_SUFFIXES, REFUSED_SUFFIXES, parse_classes, read_class_file
from wordsight.data.class_lines import plain_lines
from wordsight.data.named_class import MAX_CLASSES, check_wordnet_ids, name_problem, quote
from wordsight.errors import ConfigError, DataError, nearest
from wordsight.image import IMAGE_SUFFIXES

Names: TypeAlias = str | Sequence[str]
"""The names of one label: a single name, or several synonyms of which the first is the one displayed."""

DECISION_THRESHOLD = 0.5
"""A group of a hierarchy, or a label in multi-label mode, is predicted if its probability is above this."""

MAX_HIERARCHY_DEPTH = 64
"""Levels of a hierarchy; the longest path in WordNet's nouns has 19."""


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


def read_labels(value: str, repeated_labels: bool = False) -> list[tuple[str, ...]] | LabelHierarchy:
    """Read labels as they are given on the command line.

    Args:
        value: comma-separated names (`cat,dog`; a name with a comma is quoted, `"salt, pepper",cat`), or the path of a
            file in one of the formats of `wordsight.data.class_files`. In a text file, indented lines make a hierarchy,
            and lines that begin with `#` are comments.
        repeated_labels: whether labels with equal names are separate classes, as in ImageNet, and not an error.

    Returns:
        The names of each label, the displayed one first; or a hierarchy.

    Raises:
        DataError: the file cannot be read, or its content is not labels.
        ConfigError: there are no labels, one is empty or repeated, or a hierarchy is indented inconsistently.
    """
    path = _path_of(value)
    try:
        if path is None:
            labels = _split_at_commas(value)
            check_wordnet_ids(labels)
            return check_labels(labels, repeated_labels)
        content, suffix = read_class_file(path), path.suffix.lower()
        lines = plain_lines(content, suffix)
        hierarchy = parse_hierarchy(lines) if lines is not None else None
        return hierarchy or check_labels([named.names for named in parse_classes(content, suffix)], repeated_labels)
    except ConfigError as error:
        raise ConfigError(f"{path or '--labels'}: {error}") from error
    except DataError as error:
        if path is None:
            raise ConfigError(f"--labels: {error}") from error
        raise DataError(f"{path}: cannot be read as labels: {error}{_hint(path)}") from error


def _path_of(value: str) -> Path | None:
    """Return the value as a path if it is one or looks like one; None if it is a list of names.

    A path that does not exist must not become a label, which would have a probability of 1.
    """
    path = Path(value)
    parts = [part.strip().lower() for part in value.split(",")]
    try:
        if path.exists() and (len(parts) == 1 or path.is_file()):
            return path if value.strip() else None
    except (OSError, ValueError):  # a list of labels can be longer than the longest valid path
        pass
    suffixes = (*CLASS_FILE_SUFFIXES, *REFUSED_SUFFIXES, *IMAGE_SUFFIXES)
    is_one_path = len(parts) == 1 and ("/" in value or "\\" in value)
    if is_one_path or parts[-1].endswith(suffixes):
        return path
    for part in parts:
        if part.endswith(suffixes) or part.startswith(("/", "./", "../", "~/")):
            return Path(part)
    return None


def _hint(path: Path) -> str:
    """Return how to continue if there is no such file: the nearest name, or what to do if it was meant as a label."""
    with contextlib.suppress(OSError, ValueError):
        if path.exists():
            return ""
        if similar := nearest(path.name, [other.name for other in path.parent.iterdir()]):
            return similar
    return "; a label that contains '/' or ends like a file name needs a file of labels"


def _split_at_commas(value: str) -> list[str]:
    """Split labels at commas, except in quotation marks.

    Raises:
        ConfigError: a quotation mark is not closed, or the value is JSON or several lines.
    """
    if value.strip()[:1] + value.strip()[-1:] in ("[]", "{}"):
        raise ConfigError(f"{quote(value)} looks like JSON; separate labels by commas, or write them to a .json file")
    if "\n" in value or "\r" in value:
        raise ConfigError(
            f"{quote(value)} has several lines; separate labels by commas, or give the path of their file"
        )
    try:
        return next(csv.reader([value], skipinitialspace=True, strict=True), []) if value.strip() else []
    except csv.Error as error:
        raise ConfigError(f"{quote(value)}: {error}; check the quotation marks") from error


def parse_hierarchy(lines: Sequence[str]) -> LabelHierarchy | None:
    """Parse indented lines into a hierarchy; return None if all lines have the same indentation.

    Raises:
        ConfigError: tabs and spaces are mixed, a line's indentation is not a multiple of the first step or is more
            than one step deeper than the line above, a name occurs twice, or there are too many lines or levels.
    """
    rows = [(number, line.rstrip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if len(rows) > MAX_CLASSES:
        raise ConfigError(f"{len(rows):,} lines; expected at most {MAX_CLASSES:,}")
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
                f"line {number}: {quote(name)} is indented by {offset} more than the first line; expected a multiple "
                f"of {step}, and at most {step} more than the line above"
            )
        if level >= MAX_HIERARCHY_DEPTH:
            raise ConfigError(f"line {number}: more than {MAX_HIERARCHY_DEPTH} levels; make the hierarchy flatter")
        problem = name_problem(name)
        if problem:
            raise ConfigError(f"line {number}: {problem}; give it a name or remove it")
        if (earlier := first_line.setdefault(normalise_name(name), number)) != number:
            raise ConfigError(
                f"line {number}: {quote(name)} is already the name on line {earlier}; add a word to tell them apart"
            )
        paths.append((*(paths[-1][:level] if paths else ()), name))
    leaves = [path for path, following in pairwise([*paths, ()]) if following[: len(path)] != path]
    return LabelHierarchy(tuple(path[-1] for path in leaves), tuple(leaves))


def check_labels(labels: Iterable[Names], repeated_labels: bool = False) -> list[tuple[str, ...]]:
    """Return each label as a tuple of its distinct names, with white space collapsed.

    Args:
        labels: the names of each label.
        repeated_labels: whether labels with equal names are separate classes, and not an error.

    Raises:
        ConfigError: there are no labels, a label has no name, or two labels are displayed under the same name.
    """
    if isinstance(labels, str):
        raise ConfigError(f"labels {quote(labels)}: expected a list of names, as in ['cat', 'dog']")
    checked = [_check_names(number, names) for number, names in enumerate(labels)]
    if not checked:
        raise ConfigError("no labels; give at least one")
    repeated = repeated_names(checked)
    if repeated and not repeated_labels:
        listed = ", ".join(map(quote, sorted({checked[index][0] for index in repeated})[:5]))
        raise ConfigError(
            f"labels given more than once: {listed}; remove one, add a word to tell them apart, or pass "
            "--repeated-labels (repeated_labels=True) if they are separate classes"
        )
    return checked


def repeated_names(labels: Sequence[tuple[str, ...]]) -> list[int]:
    """Return the indices of the labels that are displayed under the same name as another one."""
    keys = [normalise_name(names[0]) for names in labels]
    counts = Counter(keys)
    return [index for index, key in enumerate(keys) if counts[key] > 1]


def display_names(labels: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the name under which each label is displayed; repeated names get their index: `crane [134]`."""
    names = [synonyms[0] for synonyms in labels]
    for index in repeated_names(labels):
        names[index] = f"{names[index]} [{index}]"
    return tuple(names)


def index_by_name(labels: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """Return the index of the label for each key of `normalise_name`: displayed names first, then synonyms.

    A key that identifies two labels equally well has the index -1. An underscore counts as a space if no label is
    written with the underscore, because the names of directories often have underscores.
    """
    index_of: dict[str, int] = {}
    levels = [
        [(name, index) for index, name in enumerate(display_names(labels))],
        [(names[0], index) for index, names in enumerate(labels)],
        [(name, index) for index, names in enumerate(labels) for name in names],
    ]
    for level in levels:
        _add_keys(index_of, [(normalise_name(name), index) for name, index in level])
    for level in levels:
        _add_keys(index_of, [(normalise_name(name.replace("_", " ")), index) for name, index in level])
    return index_of


def _add_keys(index_of: dict[str, int], keys: Iterable[tuple[str, int]]) -> None:
    """Add the keys that are not in the dictionary yet; one that has several indices gets -1."""
    added: dict[str, int] = {}
    for key, index in keys:
        if key not in index_of and added.setdefault(key, index) != index:
            added[key] = -1
    index_of |= added


def _check_names(number: int, names: Names) -> tuple[str, ...]:
    distinct: dict[str, str] = {}
    for name in names if isinstance(names, list | tuple) else [names]:
        problem = name_problem(name)
        if problem:
            raise ConfigError(f"label {number}: {problem}; give it a name or remove it")
        distinct.setdefault(normalise_name(str(name)), " ".join(str(name).split()))
    if not distinct:
        raise ConfigError(f"label {number}: no name; give it a name or remove it")
    return tuple(distinct.values())


def normalise_name(name: str) -> str:
    """Return the key under which two spellings of a name are equal: NFC, lower case, white space collapsed.

    The tokenizer lower-cases too, so names with equal keys have equal embeddings.
    """
    return " ".join(unicodedata.normalize("NFC", name).lower().split())
