"""Files of embeddings for tests, written by the writers of `wordsight embed`."""

from collections.abc import Iterable
from pathlib import Path

from wordsight.embed.embedding_files import EmbeddingRow, open_numpy, write_parquet
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.files import open_atomic


def write_embeddings(path: Path, fingerprint: Fingerprint, rows: Iterable[EmbeddingRow]) -> None:
    if path.suffix == ".npy":
        with open_numpy(path, fingerprint) as writer:
            writer.write(rows)
    else:
        with open_atomic(path) as file:
            write_parquet(file, iter(rows), fingerprint)
