"""Exact search over files of embeddings, in blocks.

A match is scored by the cosine similarity of its embedding and the query, computed in float64 in a fixed order, so that
results depend neither on the size of the blocks nor on the number of threads. Most rows are ruled out before that, by a
faster product with a bounded error:

- while a file is read, by a float32 product;
- in further queries of one process, by a copy of the embeddings with 8 bits per component, a quarter of the size of the
  file. The distance of each embedding from its copy is stored, and no similarity can be wrong by more than that
  distance (Cauchy-Schwarz); the rows that could be in the top k are read again from the file.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordsight.embed import StoredEmbeddings
from wordsight.errors import DataError
from wordsight.parallel import ordered_map

MAX_COPY_BYTES = 1 << 29
"""Size of the 8-bit copy, 512 MiB (1,048,576 embeddings of 512 components), above which every query reads the files."""

_BLOCK_BYTES = 1 << 24
_READ_AHEAD_BYTES = 1 << 23
_COPIED_ROWS_PER_STEP, _STEPS_PER_TASK = 1024, 64
_ROWS_PER_SCORING = 4096
_FLOAT32_ROUNDING = 2.0**-23  # twice the unit roundoff, for the error of lengths that are nearly 1
_LEVELS = 127


class Match(NamedTuple):
    """One result of a search.

    Attributes:
        file: index of the file.
        number: of the embedding within the file; see `StoredEmbeddings.rows`.
        score: cosine similarity to the query.
    """

    file: int
    number: int
    score: float


@contextmanager
def reading_ahead(paths: Sequence[Path]) -> Iterator[None]:
    """Read files within the context, in a thread, so that they are in the cache of the operating system afterwards.

    The thread ends with the context, wherever it is.
    """
    is_over = threading.Event()

    def read() -> None:
        buffer = bytearray(_READ_AHEAD_BYTES)
        for path in paths:
            try:
                with path.open("rb", buffering=0) as file:
                    while not is_over.is_set() and file.readinto(buffer):
                        pass
            except OSError:  # whoever needs the file reports it
                return

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


class ExactSearch:
    """Searches files of embeddings of one model. A file must not be changed meanwhile.

    Args:
        files: the files; all of one fingerprint.
        keep_copy: whether to keep a copy of the embeddings in memory for further queries, unless it would be larger
            than `MAX_COPY_BYTES`.

    Raises:
        DataError: the files are of different models.
    """

    def __init__(self, files: Sequence[StoredEmbeddings], keep_copy: bool = False) -> None:
        for file in files:
            file.require_fingerprint(files[0].fingerprint)
        self._files = files
        self._embed_dim = files[0].fingerprint.model.embed_dim
        self._starts = np.cumsum([0] + [file.num_embeddings for file in files])
        self._error = self._embed_dim * _FLOAT32_ROUNDING
        self._copy: _Copy | None = None
        self._may_copy = keep_copy and self.num_embeddings * self._embed_dim <= MAX_COPY_BYTES

    @property
    def num_embeddings(self) -> int:
        """Number of embeddings in all files."""
        return int(self._starts[-1])

    def find(self, query_E: NDArray[np.float32], top: int) -> list[Match]:
        """Return the most similar embeddings, best first; equal ones in the order of the files and their rows.

        Args:
            query_E: (E,), unit length.
            top: number of matches; fewer if there are fewer embeddings.

        Raises:
            DataError: a file is damaged.
        """
        top = min(top, self.num_embeddings)
        if top < 1:
            return []
        numbers, scores = self._read(query_E, top) if self._copy is None else self._find_in_copy(query_E, top)
        files = np.searchsorted(self._starts, numbers, side="right") - 1
        return [
            Match(file, number - int(self._starts[file]), score)
            for file, number, score in zip(files.tolist(), numbers.tolist(), scores.tolist(), strict=True)
        ]

    def _read(self, query_E: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Read all files once, and copy them if that is wanted."""
        copy = _Copy(self.num_embeddings, self._embed_dim) if self._may_copy else None
        numbers, scores = np.empty(0, np.int64), np.empty(0, np.float64)
        for start, block_NE in self._blocks():
            similarity_N = block_NE @ query_E
            if not np.isfinite(similarity_N).all():
                raise self._not_finite(start + int(np.flatnonzero(~np.isfinite(similarity_N))[0]))
            if copy is not None:
                copy.store(start, block_NE)
            threshold = scores[-1] - self._error if len(scores) == top else -np.inf
            if len(block_NE) > top:
                threshold = max(threshold, np.partition(similarity_N, -top)[-top] - 2 * self._error)
            rows = np.flatnonzero(similarity_N >= threshold)
            numbers = np.concatenate([numbers, rows + start])
            scores = np.concatenate([scores, _scores(block_NE, rows, query_E)])
            numbers, scores = _best(numbers, scores, top)
        self._copy = copy
        return numbers, scores

    def _find_in_copy(self, query_E: NDArray[np.float32], top: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        assert self._copy is not None
        similarity_N, error_N = self._copy.similarity(query_E), self._copy.distance + np.float32(self._error)
        lowest = np.partition(similarity_N - error_N, -top)[-top]
        numbers = np.flatnonzero(similarity_N + error_N >= lowest)
        scores = np.empty(len(numbers))
        for index, file in enumerate(self._files):
            begin, end = np.searchsorted(numbers, self._starts[index : index + 2]).tolist()
            for first in range(begin, end, _ROWS_PER_SCORING):
                part = slice(first, min(first + _ROWS_PER_SCORING, end))
                block_NE = file.embeddings((numbers[part] - self._starts[index]).tolist())
                scores[part] = _scores(block_NE, np.arange(len(block_NE)), query_E)
        return _best(numbers, scores, top)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.float32]]]:
        max_rows = max(1, _BLOCK_BYTES // (4 * self._embed_dim))
        for file, start in zip(self._files, self._starts.tolist(), strict=False):
            for block_NE in file.blocks(max_rows):
                yield start, block_NE
                start += len(block_NE)

    def _not_finite(self, number: int) -> DataError:
        file = int(np.searchsorted(self._starts, number, side="right")) - 1
        return DataError(
            f"{self._files[file].path}: embedding {number - int(self._starts[file])} is not finite: the file is "
            "damaged; write it again with 'wordsight embed'"
        )


class _Copy:
    """The embeddings with 8 bits per component: `scale` of a row times its integers, off by at most `distance`."""

    def __init__(self, num_rows: int, embed_dim: int) -> None:
        self.distance = np.empty(num_rows, np.float32)
        self._scale = np.empty(num_rows, np.float32)
        self._integers = np.empty((num_rows, embed_dim), np.int8)

    def store(self, start: int, block_NE: NDArray[np.float32]) -> None:
        """Copy consecutive rows."""
        tasks = range(0, len(block_NE), _COPIED_ROWS_PER_STEP)

        def store(first: int) -> None:
            self._store(start + first, block_NE[first : first + _COPIED_ROWS_PER_STEP])

        for _ in ordered_map(store, tasks):
            pass

    def _store(self, start: int, rows_NE: NDArray[np.float32]) -> None:
        stored = slice(start, start + len(rows_NE))
        scale_N = np.maximum(rows_NE.max(axis=1), -rows_NE.min(axis=1)) / np.float32(_LEVELS)
        scale_N[scale_N == 0] = 1
        rounded_NE = np.rint(rows_NE / scale_N[:, None])
        self._scale[stored], self._integers[stored] = scale_N, rounded_NE
        rounded_NE *= scale_N[:, None]
        rounded_NE -= rows_NE
        # the factor covers the rounding of the norm itself
        self.distance[stored] = np.sqrt(np.einsum("ne,ne->n", rounded_NE, rounded_NE)) * np.float32(1.001)

    def similarity(self, query_E: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the product of the query with all rows, (N,)."""
        similarity_N = np.empty(len(self._integers), np.float32)

        def multiply(first: int) -> None:
            buffer_NE = np.empty((_COPIED_ROWS_PER_STEP, len(query_E)), np.float32)
            for start in range(first, min(first + rows_per_task, len(similarity_N)), _COPIED_ROWS_PER_STEP):
                integers_NE = self._integers[start : start + _COPIED_ROWS_PER_STEP]
                floats_NE = buffer_NE[: len(integers_NE)]  # small enough for the cache
                np.copyto(floats_NE, integers_NE)
                np.dot(floats_NE, query_E, out=similarity_N[start : start + len(integers_NE)])

        rows_per_task = _COPIED_ROWS_PER_STEP * _STEPS_PER_TASK
        for _ in ordered_map(multiply, range(0, len(similarity_N), rows_per_task)):
            pass
        similarity_N *= self._scale
        return similarity_N


def _scores(
    block_NE: NDArray[np.float32], rows: NDArray[np.int64], query_E: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the similarity of some rows of a block in float64, which does not depend on the other rows."""
    query = query_E.astype(np.float64)
    parts = [rows[first : first + _ROWS_PER_SCORING] for first in range(0, len(rows), _ROWS_PER_SCORING)]
    return np.concatenate([np.empty(0), *((block_NE[part] * query).sum(axis=1) for part in parts)])


def _best(
    numbers: NDArray[np.int64], scores: NDArray[np.float64], top: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    order = np.lexsort((numbers, -scores))[:top]
    return numbers[order], scores[order]
