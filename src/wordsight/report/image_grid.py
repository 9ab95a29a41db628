"""The grid of images that a reader can sort, filter and search on the page.

Its controls are a small inline script, `image_grid.js`, which the page admits by its hash and which loads nothing. A
browser that runs no scripts shows all images without the controls.
"""

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from wordsight.errors import printable

FieldValue = str | int | float | tuple[str, ...] | None
"""A text, a number, several texts such as tags, or None if an image has no value in a field."""

MAX_MENU_CHOICES = 500
"""A field with more distinct texts, or with one that is longer than `MAX_CHOICE_CHARACTERS`, has no menu; it can still
be searched."""

MAX_CHOICE_CHARACTERS = 80


@dataclasses.dataclass(frozen=True, slots=True)
class GridImage:
    """One image of a grid.

    Attributes:
        title: identifies the image, such as its path.
        image: the encoded thumbnail; None for an image that cannot be shown.
        values: one per field of the grid.
        is_right: whether the image has the expected value; None if that is not known.
        note: small text, such as the reason why an image cannot be read.
    """

    title: str
    image: bytes | None = None
    values: Sequence[FieldValue] = ()
    is_right: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ImageGrid:
    """Thumbnails with fields by which they can be sorted and filtered, and with a search of all their texts.

    A field of numbers has an input for its lowest value; a field of texts of which some repeat has a menu.

    Attributes:
        fields: names of the fields.
        images: in the order in which they are shown at first.
        total: number of images of which `images` are the first; a larger number than theirs is stated above the grid.
        advice: how to show more images, stated after that.
        caption: text below the grid.

    Raises:
        ValueError: the number of values of an image differs from the number of fields.
    """

    fields: Sequence[str]
    images: Sequence[GridImage]
    total: int = 0
    advice: str = ""
    caption: str = ""

    def __post_init__(self) -> None:
        for image in self.images:
            if len(image.values) != len(self.fields):
                raise ValueError(f"ImageGrid: {len(image.values)} values of {image.title!r}, {len(self.fields)} fields")

    @property
    def has_marks(self) -> bool:
        """Whether it is known of some images if they are right, so that the grid can be filtered by it."""
        return any(image.is_right is not None for image in self.images)

    @property
    def numeric_fields(self) -> list[int]:
        """The indices of the fields that have numbers."""
        return [
            index
            for index in range(len(self.fields))
            if any(isinstance(image.values[index], int | float) for image in self.images)
        ]

    @property
    def menus(self) -> list["Menu"]:
        """The menus of the fields; a field of which all texts differ has none."""
        menus = []
        for index in range(len(self.fields)):
            texts = [texts_of(image.values[index]) for image in self.images]
            counts = Counter(printable(text) for own in texts for text in own)
            num_without = sum(not own for own in texts)
            if _is_choice(counts, num_without):
                menus.append(Menu(index, counts.most_common(), num_without))
        return menus

    @staticmethod
    def shown(number: int | float) -> str:
        """A number as text: whole numbers, which may be identifiers, in full; others to six significant digits."""
        if isinstance(number, int):
            return str(number)
        if not math.isfinite(number):
            return "\u2013"
        return f"{number:.6g}" if abs(number) < 1e6 else f"{number:.2f}"

    @staticmethod
    def data(image: GridImage) -> str:
        """The values of an image as JSON for the script: a number, null, or a list of texts as the page shows them."""
        return json.dumps([_datum(value) for value in image.values])


class Menu(NamedTuple):
    """The menu of a field.

    Attributes:
        field: its index.
        choices: the texts with the number of images of each, most frequent first.
        num_without: number of images without a text in this field.
    """

    field: int
    choices: list[tuple[str, int]]
    num_without: int


def texts_of(value: FieldValue) -> tuple[str, ...]:
    """Return the texts of a value: none for a number, itself for a text, all for several."""
    return (value,) if isinstance(value, str) else value if isinstance(value, tuple) else ()


def _is_choice(counts: Counter[str], num_without: int) -> bool:
    is_short = all(len(text) <= MAX_CHOICE_CHARACTERS for text in counts)
    has_choices = len(counts) + bool(num_without) > 1 and 0 < len(counts) <= MAX_MENU_CHOICES
    return has_choices and is_short and max(counts.values()) > 1


def _datum(value: FieldValue) -> float | list[str] | None:
    if isinstance(value, int | float):
        return value if math.isfinite(value) else None
    return None if value is None else [printable(text) for text in texts_of(value)]
