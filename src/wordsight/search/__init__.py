"""Search among images: by embeddings, and for duplicates.

query.py        texts and images with weights -> one embedding
exact.py        ExactSearch: the most similar embeddings in files of any size
duplicates.py   find_duplicates: groups of files with the same bytes, and of images that resemble each other
resemblance.py  which images resemble each other, by aligned thumbnails
"""

from wordsight.search.duplicates import (
    DEFAULT_THRESHOLD,
    Duplicate,
    DuplicateGroup,
    DuplicateScan,
    ImageFacts,
    find_duplicates,
    scan_images,
)
from wordsight.search.exact import ExactSearch, Match, reading_ahead
from wordsight.search.query import QueryPart, build_query, embed_query

__all__ = [
    "DEFAULT_THRESHOLD",
    "Duplicate",
    "DuplicateGroup",
    "DuplicateScan",
    "ExactSearch",
    "ImageFacts",
    "Match",
    "QueryPart",
    "build_query",
    "embed_query",
    "find_duplicates",
    "reading_ahead",
    "scan_images",
]
