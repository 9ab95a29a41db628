"""Pixels and ids to unit vectors: the one place where inference meets torch.

A model is put into evaluation for the moment, so that a vector does not depend on its neighbours in the batch
(batch normalisation in training does), and left as it was found.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wordsight.errors import WeightsError
from wordsight.image import Preprocessing
from wordsight.infer.prefix_tree import encode_texts
from wordsight.model import CLIP, to_float

_TEXTS_AT_ONCE = 64  # where every token of the context is computed


def encode_squares(model: CLIP, squares: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Embed pictures that have the model's size.

    Args:
        squares: (N, S, S, 3) uint8 with S = `preprocessing.size_px`.

    Returns:
        (N, E) float32, unit length.

    Raises:
        WeightsError: the model answers with numbers that are not finite.
    """
    first = next(model.parameters())
    with _evaluating(model):
        pixels = to_float(torch.from_numpy(squares).to(first.device), preprocessing.mean, preprocessing.std)
        return _unit(model.encode_image(pixels.to(first.dtype)))


def encode_ids(model: CLIP, ids: NDArray[np.int32]) -> NDArray[np.float32]:
    """Embed texts.

    Args:
        ids: (M, L) int32, as the model's tokenizer gives them.

    Returns:
        (M, E) float32, unit length.

    Raises:
        WeightsError: the model answers with numbers that are not finite.
    """
    device = next(model.parameters()).device
    with _evaluating(model):
        if model.config.text.is_trimmed:
            return _unit(encode_texts(model, torch.from_numpy(ids)))
        groups = torch.from_numpy(ids).to(device, torch.int64).split(_TEXTS_AT_ONCE)
        return np.concatenate([_unit(model.encode_text(group)) for group in groups])


def hash_weights(state_dict: Mapping[str, Tensor]) -> str:
    """SHA-256, hexadecimal, of the names, types, shapes and values of tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    in_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module in in_training:
            module.training = True


def _unit(embeddings: Tensor) -> NDArray[np.float32]:
    vectors = nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy()
    if not np.isfinite(vectors).all():
        raise WeightsError("the model's embeddings are not finite numbers; its weights are damaged or diverged")
    return np.asarray(vectors, dtype=np.float32)
