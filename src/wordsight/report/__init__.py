"""Figures, tables, curves and images become one HTML page that a person enjoys and anybody can keep.

The page is one file: styles, plots and images are inside, nothing is fetched, no script runs, and every text is
escaped. It follows the reader's light or dark setting and fits a telephone. This room knows nothing of models;
it takes numbers, texts and encoded images. `blocks.py` has what a page can hold, `page.py` puts it together,
`plots.py` draws curves, `page.html` and `page.css` are the looks.
"""

from wordsight.report.blocks import (
    Block,
    Card,
    Commands,
    Curve,
    Gallery,
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
    "Block",
    "Card",
    "Commands",
    "Curve",
    "Gallery",
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
