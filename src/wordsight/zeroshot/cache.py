"""Zero-shot classifier weights cached on disk.

The file name is the SHA-256 of everything that determines the numbers: model weights, architecture, tokenizer,
precision, labels and templates. A damaged or unwritable file only means that the weights are computed again.
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

MIN_TEXTS = 1000
"""Classifiers with fewer prompts are not cached: embedding them is as fast as hashing the model's weights."""

_UNIT_LENGTH_TOLERANCE = 1e-3


def load_or_compute(
    clip: "DualEncoder",
    labels: Sequence[tuple[str, ...]],
    templates: tuple[str, ...],
    compute: Callable[[], NDArray[np.float32]],
) -> NDArray[np.float32]:
    """Return classifier weights from the cache, or compute and store them.

    Args:
        clip: the model that embeds the prompts.
        labels: the names of each of the K labels.
        templates: the prompt templates.
        compute: returns the weights, (K, E) float32 of unit length; called if they are not cached.

    Returns:
        (K, E) float32.
    """
    if sum(map(len, labels)) * len(templates) < MIN_TEXTS:
        return compute()
    path = _cache_path(clip, labels, templates)
    cached = _load(path, (len(labels), clip.card.model.embed_dim))
    if cached is not None:
        return cached
    weights_KE, file = compute(), io.BytesIO()
    np.save(file, weights_KE)
    with contextlib.suppress(OutputError):
        write_atomic(path, file.getvalue())
    return weights_KE


def _cache_path(clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]) -> Path:
    fingerprint = clip.fingerprint
    inputs = (
        fingerprint.weights,
        fingerprint.model,
        fingerprint.tokenizer,
        fingerprint.precision,
        labels,
        templates,
    )
    return cache_directory("classifiers") / f"{hashlib.sha256(msgspec.json.encode(inputs)).hexdigest()}.npy"


def _load(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Return the array in a file if it has this shape and rows of unit length, otherwise None."""
    try:
        weights = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(weights, np.ndarray) or weights.shape != shape or weights.dtype != np.float32:
        return None
    lengths = np.linalg.norm(weights, axis=1)
    return weights if np.all(np.abs(lengths - 1) < _UNIT_LENGTH_TOLERANCE) else None
