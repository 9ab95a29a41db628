"""From a class, told by number, name, WordNet id or directory, to the names that become its captions."""

from pathlib import Path
from typing import Any

import msgspec

from wordsight.data.file_listing import read_file
from wordsight.data.sample import clean_texts, read_json
from wordsight.errors import DataError, nearest

MAX_NAMES_BYTES = 1 << 26
_ID_COLUMNS = ("wnid", "synset", "class_id")


class LabelNames(msgspec.Struct, frozen=True, kw_only=True):
    """How labels are called.

    Attributes:
        origin: the file, for errors.
        classes: the name of label 0, 1, ...; empty where labels are not numbers.
        names: the names of a class, by its name, number or WordNet id; empty where a class has one name.
    """

    origin: str = ""
    classes: tuple[str, ...] = ()
    names: dict[str, tuple[str, ...]] = {}

    def of(self, label: Any, values: dict[str, Any], directories: tuple[str, ...] = ()) -> tuple[str, ...]:
        """The names of one sample's class, at least one.

        Args:
            label: a name or a number.
            values: the row, whose `wnid`, `synset` or `class_id` may name the class too.
            directories: in which the image lies, which may name the class too.

        Raises:
            DataError: no name for this label; the message is a reason without a place.
        """
        if isinstance(label, bool) or not isinstance(label, str | int):
            raise DataError(
                f"the label is {'missing' if label is None else f'a {type(label).__name__}'}, not a name or number"
            )
        if isinstance(label, str) and not label.strip():
            raise DataError("the label is empty")
        name = self._class_of(label)
        if self.names:
            others = [values[column] for column in _ID_COLUMNS if isinstance(values.get(column), str)]
            for known in (name, str(label), *others, *reversed(directories)):
                if known in self.names:
                    return self.names[known]
            raise DataError(f"{self.origin}: no names for {label!r}{nearest(str(label), self.names)}")
        if name is None:
            raise DataError(
                f"label {label} is a number without a name; put classes.json beside labels.jsonl, or use --names FILE"
            )
        return (name,)

    def _class_of(self, label: str | int) -> str | None:
        is_number = isinstance(label, int) or (label.strip().isdecimal() and label not in self.classes)
        if is_number and self.classes:
            number = int(label)
            if not 0 <= number < len(self.classes):
                raise DataError(f"{self.origin}: label {label} of {len(self.classes)} classes, counted from 0")
            return self.classes[number]
        return None if isinstance(label, int) else label.strip()


def read_label_names(path: Path) -> LabelNames:
    """Names from a JSON file: a list, the name of each label number, or an object, label -> name or names.

    Raises:
        DataError: missing, not JSON, or of another form.
    """
    try:
        return parse_label_names(read_file(path, MAX_NAMES_BYTES), path.name)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def parse_label_names(content: bytes, origin: str) -> LabelNames:
    """As `read_label_names`, from the file's content.

    Raises:
        DataError: not JSON, or of another form; the message is a reason without a place.
    """
    value = read_json(content)
    if isinstance(value, list) and value:
        return LabelNames(
            origin=origin, classes=tuple(clean_texts(name, f"class {i}")[0] for i, name in enumerate(value))
        )
    if isinstance(value, dict) and value:
        return LabelNames(origin=origin, names={label: clean_texts(names, label) for label, names in value.items()})
    raise DataError("expected a list of class names, or an object of label -> names")
