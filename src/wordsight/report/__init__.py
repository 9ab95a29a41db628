"""One self-contained HTML page of numbers, tables, plots and images; it knows nothing about CLIP.

Styles, plots and images are embedded in the page. It loads nothing, runs no scripts and escapes every text. It follows
the light or dark setting of the reader's system and adapts to narrow screens.

    blocks.py    the content of a page: tiles, tables, plots, matrices, galleries, commands
    page.py      sections and the page, rendered with page.html and page.css
    plots.py     curves as inline SVG
"""

from wordsight.report.blocks import (
    MAX_CURVES,
    Block,
    Commands,
    Curve,
    Gallery,
    ImageCard,
    Matrix,
    Plot,
    RankedText,
    ScoreLike,
    Table,
    Tile,
    Tiles,
    tile,
)
from wordsight.report.page import Page, Section

__all__ = [
    "MAX_CURVES",
    "Block",
    "Commands",
    "Curve",
    "Gallery",
    "ImageCard",
    "Matrix",
    "Page",
    "Plot",
    "RankedText",
    "ScoreLike",
    "Section",
    "Table",
    "Tile",
    "Tiles",
    "tile",
]
