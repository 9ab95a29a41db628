"""The names of classes, which become the texts of labelled images.

Datasets state the class of an image in different ways: by number, by name, by WordNet id, or by a directory.
"""

import re
from collections import Counter
from pathlib import Path, PurePath
from typing import Any

import msgspec

from wordsight.data.class_files import parse_classes, read_class_file
from wordsight.data.sample import clean_texts
from wordsight.errors import DataError, nearest

_MAX_DIGITS = 9
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d*)?")
_ID_COLUMNS = ("wnid", "synset", "class_id")


class LabelNames(msgspec.Struct, frozen=True, kw_only=True):
    """The names of the classes of a dataset.

    Attributes:
        origin: file name, for errors.
        classes: names of labels 0, 1, ...; empty if labels are not numbers.
        names: the names of each class, by its name, number or WordNet id; empty if each class has a single name.
    """

    origin: str = ""
    classes: tuple[str, ...] = ()
    names: dict[str, tuple[str, ...]] = {}

    def names_of(self, label: Any, values: dict[str, Any], directories: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Return the names of one sample's class, at least one.

        Args:
            label: name or number of the class.
            values: row of the sample; its `wnid`, `synset` or `class_id` can identify the class too.
            directories: the directories that contain the image; they can identify the class too.

        Raises:
            DataError: there is no name for this label; the message does not name the file of the sample.
        """
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise DataError(
                f"the label is {'missing' if label is None else f'a {type(label).__name__}'}, not a name or number"
            )
        if isinstance(label, str) and not label.strip():
            raise DataError("the label is empty")
        name = self._class_of(label)
        if self.names:
            ids = [values[column] for column in _ID_COLUMNS if isinstance(values.get(column), str)]
            for candidate in (name, str(label), *ids, *reversed(directories)):
                if candidate in self.names:
                    return self.names[candidate]
            raise DataError(f"{self.origin}: no names for {label!r}{nearest(str(label), self.names)}")
        if name is None:
            raise DataError(
                f"label {str(label)[:40]} is a number without a name; put classes.json next to labels.jsonl, "
                "or use --names FILE"
            )
        return (name,)

    def _class_of(self, label: str | int) -> str | None:
        text = str(label).strip()
        if text in self.classes or not _NUMBER.fullmatch(text):
            return text
        if not self.classes:
            return None
        number = int(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else -1
        if not 0 <= number < len(self.classes):
            raise DataError(f"{self.origin}: label {text[:40]} is out of range; expected 0 to {len(self.classes) - 1}")
        return self.classes[number]


def read_label_names(path: Path) -> LabelNames:
    """Read a file of class names: the names of labels 0, 1, ..., or the names of each label by its name, number or id.

    Raises:
        DataError: the file is missing, or in none of the formats of `class_files.py`.
    """
    try:
        return parse_label_names(read_class_file(path), path.name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def parse_label_names(content: bytes, origin: str) -> LabelNames:
    """Parse the content of a file that `read_label_names` reads.

    Args:
        content: the bytes of the file.
        origin: file name, for errors about labels; its suffix determines the format.

    Raises:
        DataError: the content is in none of the formats; the message does not name the file.
    """
    classes = parse_classes(content, PurePath(origin).suffix.lower())
    if not classes:
        raise DataError("expected a list of class names, or an object that maps labels to names; it is empty")
    cleaned = [clean_texts(named.names, f"class {number}") for number, named in enumerate(classes)]
    if not any(named.ids for named in classes):
        return LabelNames(origin=origin, classes=tuple(names[0] for names in cleaned))
    names_of: dict[str, tuple[str, ...]] = {}
    for named, names in zip(classes, cleaned, strict=True):
        for id in named.ids:
            if names_of.setdefault(id, names) != names:
                raise DataError(
                    f"{id!r} identifies both {names_of[id][0]!r} and {names[0]!r}; expected one name per id"
                )
    counts = Counter(names[0] for names in cleaned)
    for names in cleaned:
        if counts[names[0]] == 1:
            names_of.setdefault(names[0], names)
    return LabelNames(origin=origin, names=names_of)
