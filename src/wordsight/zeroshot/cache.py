"""Zero-shot classifier weights cached on disk.

The file name is the SHA-256 of everything that determines the numbers: model weights, architecture, tokenizer,
precision, labels and templates. The file is a NumPy array, followed by the SHA-256 of its bytes (which NumPy does not
read). A damaged or unwritable file only means that the weights are computed again.
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
from wordsight.files import read_limited, write_atomic

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

MIN_TEXTS = 1000
"""Classifiers with fewer prompts are not cached: embedding them is as fast as hashing the model's weights."""

_UNIT_LENGTH_TOLERANCE = 1e-3
_FORMAT = "wordsight-classifier-2"  # files of version 1, whose names are derived without this text, have no hash


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
    shape = (len(labels), clip.card.model.embed_dim)
    path, path_1 = _cache_paths(clip, labels, templates)
    for cached in (_load(path, shape, has_hash=True), _load(path_1, shape, has_hash=False)):
        if cached is not None:
            return cached
    weights_KE = compute()
    if _is_unit_length(weights_KE):
        content = _header(shape) + np.ascontiguousarray(weights_KE, "<f4").tobytes()
        with contextlib.suppress(OutputError):
            write_atomic(path, content + hashlib.sha256(content).digest())
    return weights_KE


def _cache_paths(
    clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]
) -> tuple[Path, Path]:
    """Return the paths of the file with a hash and of the file that an older version wrote."""
    fingerprint = clip.fingerprint
    inputs = (
        fingerprint.weights,
        fingerprint.model,
        fingerprint.tokenizer,
        fingerprint.precision,
        labels,
        templates,
    )
    encoded = msgspec.json.encode(inputs)
    name, name_1 = (hashlib.sha256(content).hexdigest() for content in (_FORMAT.encode() + encoded, encoded))
    directory = cache_directory("classifiers")
    return directory / f"{name}.npy", directory / f"{name_1}.npy"


def _load(path: Path, shape: tuple[int, int], has_hash: bool) -> NDArray[np.float32] | None:
    """Return the array in a file if it has this shape, its hash, and rows of unit length; otherwise None."""
    header = _header(shape)
    end = len(header) + 4 * shape[0] * shape[1]
    try:
        content = read_limited(path, end + hashlib.sha256().digest_size, OutputError)
    except OutputError:
        return None
    expected_hash = hashlib.sha256(content[:end]).digest() if has_hash else b""
    if not content.startswith(header) or len(content) < end or content[end:] != expected_hash:
        return None
    weights_KE = np.frombuffer(content, "<f4", offset=len(header), count=shape[0] * shape[1]).reshape(shape)
    return weights_KE if _is_unit_length(weights_KE) else None


def _header(shape: tuple[int, int]) -> bytes:
    """Return the header of a NumPy file of float32; comparing it avoids parsing one that claims terabytes."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue()


def _is_unit_length(weights_KE: NDArray[np.float32]) -> bool:
    """Return whether all rows are finite and of unit length."""
    return bool(np.all(np.abs(np.linalg.norm(weights_KE, axis=1) - 1) < _UNIT_LENGTH_TOLERANCE))
