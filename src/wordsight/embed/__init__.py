"""Embedding many images into a file, and reading the file.

job.py                 embed_files: streams images through the image pipeline into a file, and resumes interrupted runs
embedding_files.py     the two file formats: writing, and reading what an earlier run has computed
stored_embeddings.py   open_embeddings: a file block by block, for exact search, and a few of its rows
parquet_values.py      where the numbers of a Parquet column are in the file
ray_cluster.py         the same work on the machines of a Ray cluster
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordsight.embed.stored_embeddings import StoredEmbeddings, StoredRow, open_embeddings

__all__ = ["StoredEmbeddings", "StoredRow", "open_embeddings"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from wordsight.embed import stored_embeddings

        return getattr(stored_embeddings, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
