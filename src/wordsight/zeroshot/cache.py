"""Classifiers that were computed before, on disk: known by all that decides their numbers.

The name of a file is the SHA-256 of weights, architecture, tokenizer, precision, labels and templates. A file that is
damaged, or cannot be written, costs time and nothing else.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.cache import cache_directory
from wordsight.errors import OutputError
from wordsight.files import write_atomic

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

LEAST_TEXTS = 1000
"""Below, computing is as quick as hashing the weights."""

_LENGTH_WITHIN = 1e-3


def remembered(
    clip: "DualEncoder",
    labels: Sequence[tuple[str, ...]],
    templates: tuple[str, ...],
    make: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """The classifier that `make` gives, (K, E) float32, from disk where it was made before and took some work."""
    if sum(map(len, labels)) * len(templates) < LEAST_TEXTS:
        return make()
    path = _place(clip, labels, templates)
    found = _read(path, (len(labels), clip.card.model.embed_dim))
    if found is not None:
        return found
    made, file = make(), io.BytesIO()
    np.save(file, made)
    with contextlib.suppress(OutputError):
        write_atomic(path, file.getvalue())
    return made


def _place(clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]) -> Path:
    made_by = clip.fingerprint
    decides = (made_by.weights, made_by.model, made_by.tokenizer, made_by.precision, labels, templates)
    return cache_directory("classifiers") / f"{hashlib.sha256(msgspec.json.encode(decides)).hexdigest()}.npy"


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """What a file holds, where it is a classifier of this shape."""
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype != np.float32:
        return None
    lengths = np.linalg.norm(found, axis=1)
    return found if np.all(np.abs(lengths - 1) < _LENGTH_WITHIN) else None
