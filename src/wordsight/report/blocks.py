"""What a page can hold: frozen structures of numbers, texts and encoded images, checked when they are made."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol


class ScoreLike(Protocol):
    """A share with its interval; `wordsight.metrics.Score` is one."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def value(self) -> float:
        """In [0, 1]."""

    @property
    def low(self) -> float:
        """Lower end of the interval."""

    @property
    def high(self) -> float:
        """Upper end of the interval."""

    @property
    def n(self) -> int:
        """Number of items."""

    @property
    def chance(self) -> float:
        """What guessing gives."""

    @property
    def method(self) -> str:
        """Of the interval, with its confidence."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """One big number.

    Attributes:
        title: what it is.
        value: the number as it is shown, with its unit.
        detail: a line below it.
        score: where the number is a share, what draws the scale with interval and chance.
    """

    title: str
    value: str
    detail: str = ""
    score: ScoreLike | None = None


def tile(score: ScoreLike, title: str = "") -> Tile:
    """A share as a tile: per cent, interval, number of items and chance; dataset and metric where no title is given."""
    detail = f"{100 * score.low:.1f} to {100 * score.high:.1f} % ({score.method}), {score.n:,} items"
    return Tile(title or f"{score.dataset} {score.metric}", f"{100 * score.value:.1f} %", detail, score)


@dataclasses.dataclass(frozen=True, slots=True)
class Tiles:
    """Big numbers side by side; those with a score share one scale from 0."""

    tiles: Sequence[Tile]

    @property
    def scale_end(self) -> float:
        """The right end of the common scale: the least of some round shares that holds all intervals and chances."""
        largest = max((max(each.score.high, each.score.chance) for each in self.tiles if each.score), default=1.0)
        return next(end for end in (0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0) if end >= min(largest, 1.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows under column titles; numbers are set to the right.

    Raises:
        ValueError: a row with another number of cells than there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"Table: row {number} has {len(row)} cells, there are {len(self.columns)} columns")


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """A named line through (x, y), x ascending; gaps where y is not a finite number.

    Raises:
        ValueError: x and y differ in length.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Curve {self.name!r}: {len(self.x)} x, {len(self.y)} y")


@dataclasses.dataclass(frozen=True, slots=True)
class Plot:
    """At most five curves over one axis.

    Attributes:
        curves: drawn in this order.
        x_label, y_label: what the axes are, with units.
        caption: a line below.
        level: a dashed horizontal line, such as chance; its name is `level_name`.
        is_share: y are shares in [0, 1], shown in per cent.

    Raises:
        ValueError: no curve, or more than five.
    """

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    caption: str = ""
    level: float | None = None
    level_name: str = "chance"
    is_share: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.curves) <= 5:
            raise ValueError(f"Plot: {len(self.curves)} curves; expected 1 to 5")


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
    """Images along the top, texts along the side, a colour where they meet.

    Attributes:
        values: (M, N), M rows for the texts; what is not a finite number is left blank.
        images: N encoded images.
        texts: M texts.
        partners: for each text the number of its image, marked with a frame.
        caption: a line below.

    Raises:
        ValueError: shapes do not fit.
    """

    values: Sequence[Sequence[float]]
    images: Sequence[bytes]
    texts: Sequence[str]
    partners: Sequence[int] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.values}
        if len(self.values) != len(self.texts) or widths - {len(self.images)}:
            raise ValueError(
                f"Matrix: {len(self.values)} rows of {sorted(widths)} values, "
                f"{len(self.texts)} texts, {len(self.images)} images"
            )
        if self.partners and len(self.partners) != len(self.texts):
            raise ValueError(f"Matrix: {len(self.partners)} partners for {len(self.texts)} texts")

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest finite value; (0, 1) where there is none."""
        finite = [value for row in self.values for value in row if math.isfinite(value)]
        return (min(finite), max(finite)) if finite else (0.0, 1.0)

    def strength(self, value: float) -> float | None:
        """Where a value lies in the range, in [0, 1]; None where it is not a finite number."""
        if not math.isfinite(value):
            return None
        low, high = self.range
        return (value - low) / (high - low) if high > low else 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class RankedText:
    """One of the ranked answers to a image, or images to a text.

    Attributes:
        text: what is answered; may be empty where there is a image.
        share: length of its bar, in [0, 1], as its probability.
        is_right: whether it is a right one.
        image: an encoded image, where the answer is one.
    """

    text: str
    share: float
    is_right: bool = False
    image: bytes | None = None

    @property
    def width(self) -> float:
        """Length of the bar in [0, 1], 0 where the share is not a finite number."""
        return min(1.0, max(0.0, self.share)) if math.isfinite(self.share) else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class Card:
    """A image, or a text alone, with its ranked answers.

    Attributes:
        title: what the image is of, or the text that was asked.
        image: encoded; None where the question is a text.
        answers: best first.
        is_right: whether it was answered right; None where that is not the question.
        note: a line such as `rank 3 of 262`.
    """

    title: str
    image: bytes | None = None
    answers: Sequence[RankedText] = ()
    is_right: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Gallery:
    """Cards side by side, as many as fit; `is_large` lets each image fill its card."""

    cards: Sequence[Card]
    caption: str = ""
    is_large: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Commands:
    """Lines to type, as they are."""

    lines: Sequence[str]
    caption: str = ""


Block = Tiles | Table | Plot | Matrix | Gallery | Commands
