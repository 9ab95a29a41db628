"""Fixed pixels and token ids on which two forms of one model are compared: always the same, drawn by Philox.

They need no images and no tokenizer, so a certificate can be made for any model; what a model's own tokenizer and
preprocessing make of a fixed text and image is compared beside them.
"""

import numpy as np
import torch
from torch import Tensor

from wordsight.model import TextConfig

_SEED = 20210226  # the day on which the paper was submitted


def probe_pixels(size_px: int, count: int = 4) -> Tensor:
    """(N, 3, S, S) float32, normally distributed, as normalised images are."""
    drawn = np.random.Generator(np.random.Philox(key=_SEED)).standard_normal((count, 3, size_px, size_px), np.float32)
    return torch.from_numpy(drawn)


def probe_ids(text: TextConfig, count: int = 4, length: int | None = None) -> Tensor:
    """(M, L) int32: begin, words of every length, end, padding; L is the context length where it is not given.

    The greatest id ends a text, as in the published vocabulary, or `text.end_id` where the tower says it.
    """
    length = length or text.context_length
    last = text.vocabulary_size - 1
    end = last if text.end_id is None else text.end_id
    generator = np.random.Generator(np.random.Philox(key=_SEED + 1))
    ids = np.full((count, length), text.pad_id, np.int32)
    for row, used in enumerate(np.linspace(2, length, count).round().astype(int)):
        ids[row, :used] = generator.integers(0, max(1, last - 1), used)
        ids[row, ids[row] == end] = text.pad_id
        ids[row, used - 1] = end
    return torch.from_numpy(ids)
