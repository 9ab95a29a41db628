"""Labels with their names: as a command line or a file gives them, checked."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from wordsight.errors import ConfigError, DataError

Names: TypeAlias = str | Sequence[str]
"""What a label is called: one name, or several that mean the same, the first of which is shown."""

_MAX_LABELS_BYTES = 1 << 26
_LABEL_SUFFIXES = (".txt", ".json")


def read_labels(value: str) -> list[tuple[str, ...]]:
    """Labels as a command line gives them.

    Args:
        value: `cat,dog`, or the path of a file: a label a line, or a JSON list of names or of lists of names that mean
            the same, or a JSON object whose values are such.

    Returns:
        The names of each label, the one that is shown first.

    Raises:
        DataError: the file cannot be read, or is not of this form.
        ConfigError: no labels, an empty or a doubled one.
    """
    path = Path(value)
    if path.suffix in _LABEL_SUFFIXES or _is_file(path):
        labels = _labels_of_file(path)
        where = f"{path}: "
    else:
        labels = value.split(",") if value.strip() else []
        where = "--labels: "
    try:
        return check_labels(labels)
    except ConfigError as error:
        raise ConfigError(where + str(error)) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of labels may be longer than a path can be
        return False


def _labels_of_file(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise DataError(f"{path}: larger than {_MAX_LABELS_BYTES} bytes, not a file of labels")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as labels: {reason}; expected UTF-8 text, a label a line") from error
    if path.suffix != ".json":
        return [line for line in text.splitlines() if line.strip()]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected a list of labels") from error
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, str | list) for item in items):
        raise DataError(f"{path}: expected a JSON list of labels, or an object whose values are labels")
    return items


def check_labels(names: Iterable[Names]) -> list[tuple[str, ...]]:
    """Labels as tuples of their different names, white space tidied."""
    if isinstance(names, str):
        raise ConfigError(f"labels {names!r}: expected a list of names, as in ['cat', 'dog']")
    labels = [_checked_names(number, label) for number, label in enumerate(names)]
    if not labels:
        raise ConfigError("no labels; give at least one")
    counts = Counter(_as_read(label[0]) for label in labels)
    doubled = sorted({label[0] for label in labels if counts[_as_read(label[0])] > 1})
    if doubled:
        shown = ", ".join(map(repr, doubled[:5]))
        raise ConfigError(f"labels given more than once: {shown}; leave one out, or tell them apart by a word more")
    return labels


def _checked_names(number: int, label: Names) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for name in label if isinstance(label, list | tuple) else [label]:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"label {number}: expected a name, found {name!r}; name it or leave it out")
        kept.setdefault(_as_read(name), " ".join(name.split()))
    if not kept:
        raise ConfigError(f"label {number}: no name; name it or leave it out")
    return tuple(kept.values())


def _as_read(name: str) -> str:
    """A name as the tokenizer, which lower-cases, tells it from others."""
    return " ".join(unicodedata.normalize("NFC", name).lower().split())
