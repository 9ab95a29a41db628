"""Files of embeddings for tests, written by the writers of `wordsight embed`."""

from collections.abc import Iterable
from pathlib import Path

from wordsight.embed.embedding_files import EmbeddingRow
from wordsight.embed.writers import open_output
from wordsight.encoder.fingerprint import Fingerprint


def write_embeddings(path: Path, fingerprint: Fingerprint, rows: Iterable[EmbeddingRow]) -> None:
    """Write a `.parquet` or `.npy` file of embeddings."""
    with open_output(path, fingerprint) as write:
        write(rows)
