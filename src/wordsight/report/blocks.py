"""The blocks of a page: frozen structures of numbers, texts and encoded images, validated on construction."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Protocol

from wordsight.report.image_grid import ImageGrid

MAX_CURVES = 24
"""Number of curves of a plot: eight colours, each with three kinds of lines."""


class ScoreLike(Protocol):
    """A share with its confidence interval; `wordsight.metrics.Score` implements this."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def value(self) -> float:
        """The share, in [0, 1]."""

    @property
    def low(self) -> float:
        """The lower end of the interval."""

    @property
    def high(self) -> float:
        """The upper end of the interval."""

    @property
    def n(self) -> int:
        """The number of items."""

    @property
    def chance(self) -> float:
        """The expected share when guessing."""

    @property
    def method(self) -> str:
        """The method of the interval and its confidence level."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """One large number.

    Attributes:
        title: the name of the number.
        value: the formatted number with its unit.
        detail: small text below the number.
        score: if given, a scale below the number shows the value, its interval and chance.
    """

    title: str
    value: str
    detail: str = ""
    score: ScoreLike | None = None


def tile(score: ScoreLike, title: str = "") -> Tile:
    """Make a tile that shows a score as a percentage with its interval, number of items and chance."""
    detail = f"{100 * score.low:.1f} to {100 * score.high:.1f} % ({score.method}), {score.n:,} items"
    return Tile(title or f"{score.dataset} {score.metric}", f"{100 * score.value:.1f} %", detail, score)


@dataclasses.dataclass(frozen=True, slots=True)
class Tiles:
    """Large numbers side by side; those with a score share one scale that starts at 0.

    Attributes:
        tiles: from left to right.
    """

    tiles: Sequence[Tile]

    @property
    def scale_end(self) -> float:
        """The right end of the shared scale: a round value at or above all interval ends and chance levels."""
        largest = max((max(each.score.high, each.score.chance) for each in self.tiles if each.score), default=1.0)
        return next(end for end in (0.05, 0.1, 0.2, 0.25, 0.5, 0.75, 1.0) if end >= min(largest, 1.0))


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows under column titles; numbers are right-aligned.

    Attributes:
        columns: the column titles.
        rows: the cells of each row.
        caption: text below the table.

    Raises:
        ValueError: the number of cells in a row differs from the number of columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str | int | float]]
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"Table: row {number} has {len(row)} cells, expected {len(self.columns)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Curve:
    """A named line through points (x, y), with gaps where y is not finite.

    Attributes:
        name: shown in the legend.
        x: ascending.
        y: of the same length.
        low: lower ends of the band around the line; empty if it has none.
        high: upper ends of the band.

    Raises:
        ValueError: x and y, or the ends of the band, differ in length.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ValueError(f"Curve {self.name!r}: {len(self.x)} x values, {len(self.y)} y values")
        if not len(self.low) == len(self.high) in (0, len(self.x)):
            raise ValueError(
                f"Curve {self.name!r}: {len(self.low)} and {len(self.high)} ends of a band of {len(self.x)}"
            )


@dataclasses.dataclass(frozen=True, slots=True)
class Plot:
    """A plot of one to 24 curves.

    Attributes:
        curves: in the order in which they are drawn.
        x_label: the quantity on the x axis, with its unit.
        y_label: the quantity on the y axis, with its unit.
        caption: text below the plot.
        level: the y value of a dashed horizontal line, such as chance.
        level_name: the name of that line in the legend.
        is_share: whether y values are shares in [0, 1], which are displayed as percentages.

    Raises:
        ValueError: there are no curves, or more than `MAX_CURVES`.
    """

    curves: Sequence[Curve]
    x_label: str
    y_label: str
    caption: str = ""
    level: float | None = None
    level_name: str = "chance"
    is_share: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.curves) <= MAX_CURVES:
            raise ValueError(f"Plot: {len(self.curves)} curves; expected 1 to {MAX_CURVES}")


@dataclasses.dataclass(frozen=True, slots=True)
class Matrix:
    """A heat map with images as columns and texts as rows.

    Attributes:
        values: (M, N); values that are not finite are left blank.
        images: N encoded images.
        texts: M texts.
        partners: for each text, the index of its image; the cell of the pair is outlined.
        caption: text below the matrix.

    Raises:
        ValueError: the shapes do not match.
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
        """The lowest and the highest finite value; (0, 1) if there is none."""
        finite = [value for row in self.values for value in row if math.isfinite(value)]
        return (min(finite), max(finite)) if finite else (0.0, 1.0)

    def strength(self, value: float) -> float | None:
        """Return the position of a value in the range, in [0, 1]; None if it is not finite."""
        if not math.isfinite(value):
            return None
        low, high = self.range
        return (value - low) / (high - low) if high > low else 0.5


@dataclasses.dataclass(frozen=True, slots=True)
class RankedText:
    """One of the ranked results for an image (a text) or for a text (an image).

    Attributes:
        text: the text, or the description of the image; can be empty if there is an image.
        share: the length of its bar in [0, 1], for example its probability.
        is_right: whether the result is correct.
        image: the encoded image, if the result is an image.
    """

    text: str
    share: float
    is_right: bool = False
    image: bytes | None = None

    @property
    def width(self) -> float:
        """The length of the bar, clipped to [0, 1]; 0 if the share is not finite."""
        return min(1.0, max(0.0, self.share)) if math.isfinite(self.share) else 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class ImageCard:
    """An image, or a text without an image, with its ranked results.

    Attributes:
        title: the description of the image, or the text.
        image: the encoded image; None for a text.
        results: the ranked results, best first.
        is_right: whether the first result is correct; None if that is not known.
        note: small text, such as `correct name at position 3 of 262`.
    """

    title: str
    image: bytes | None = None
    results: Sequence[RankedText] = ()
    is_right: bool | None = None
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Gallery:
    """A grid of cards.

    Attributes:
        cards: in reading order.
        caption: text below the grid.
        is_large: whether each image fills the width of its card.
    """

    cards: Sequence[ImageCard]
    caption: str = ""
    is_large: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Commands:
    """Lines to type in a terminal.

    Attributes:
        lines: shown verbatim.
        caption: text below them.
    """

    lines: Sequence[str]
    caption: str = ""


Block = Tiles | Table | Plot | Matrix | Gallery | ImageGrid | Commands
