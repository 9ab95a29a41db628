"""One self-contained HTML page of numbers, tables, plots and images; it knows nothing about CLIP.

Styles, plots and images are embedded in the page. It loads nothing and escapes every text; the only script is the one
that sorts, filters and searches an `ImageGrid`. A page follows the light or dark setting of the reader's system and
adapts to narrow screens.

    blocks.py        the content of a page: tiles, tables, plots, matrices, galleries, commands
    image_grid.py    images that can be sorted, filtered and searched, with image_grid.js
    page.py          sections and the page, rendered with page.html and page.css
    plots.py         curves as inline SVG
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
from wordsight.report.image_grid import FieldValue, GridImage, ImageGrid
from wordsight.report.page import Page, Section

__all__ = [
    "MAX_CURVES",
    "Block",
    "Commands",
    "Curve",
    "FieldValue",
    "Gallery",
    "GridImage",
    "ImageCard",
    "ImageGrid",
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
