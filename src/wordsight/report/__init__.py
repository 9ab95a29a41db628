"""Figures, tables, curves and pictures become one HTML page that a person enjoys and anybody can keep.

The page is one file: styles, plots and pictures are inside, nothing is fetched, no script runs, and every text is
escaped. It follows the reader's light or dark setting and fits a telephone. This room knows nothing of models;
it takes numbers, texts and encoded pictures. `blocks.py` has what a page can hold, `page.py` puts it together,
`plots.py` draws curves, `page.html` and `page.css` are the looks.
"""

from wordsight.report.blocks import (
    Answer,
    Block,
    Card,
    Commands,
    Curve,
    Gallery,
    Matrix,
    Plot,
    Score,
    Table,
    Tile,
    Tiles,
    tile,
)
from wordsight.report.page import Page, Section

__all__ = [
    "Answer",
    "Block",
    "Card",
    "Commands",
    "Curve",
    "Gallery",
    "Matrix",
    "Page",
    "Plot",
    "Score",
    "Section",
    "Table",
    "Tile",
    "Tiles",
    "tile",
]
