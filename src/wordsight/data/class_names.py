"""The names of classes, which become the texts of labelled images.

Datasets state the class of an image in different ways: by number, by name, by WordNet id, or by a directory.
"""

import re
from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.file_listing import read_file
from wordsight.data.sample import clean_texts, parse_json
from wordsight.errors import DataError, nearest

MAX_NAMES_BYTES = 1 << 26
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
    """Read a JSON file: a list of the names of labels 0, 1, ..., or an object that maps labels to their name or names.

    Raises:
        DataError: the file is missing, not JSON, or JSON of another structure.
    """
    try:
        return parse_label_names(read_file(path, MAX_NAMES_BYTES), path.name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def parse_label_names(content: bytes, origin: str) -> LabelNames:
    """Parse the content of a file that `read_label_names` reads.

    Args:
        content: JSON.
        origin: file name, for errors about labels.

    Raises:
        DataError: the content is not JSON, or JSON of another structure; the message does not name the file.
    """
    value = parse_json(content)
    if isinstance(value, list) and value:
        return LabelNames(
            origin=origin, classes=tuple(clean_texts(name, f"class {i}")[0] for i, name in enumerate(value))
        )
    if isinstance(value, dict) and value:
        return LabelNames(origin=origin, names={label: clean_texts(names, label) for label, names in value.items()})
    raise DataError("expected a list of class names, or an object that maps labels to names")
