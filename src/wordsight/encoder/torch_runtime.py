"""The runtime of torch: the one place where inference meets it.

A model is put into evaluation for the moment, so that a embedding does not depend on its neighbours in the batch
(batch normalisation in training does), and left as it was found.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wordsight.encoder.prefix_tree import encode_texts
from wordsight.encoder.prepacked import can_prepack, prepack_image_tower, prepack_text_tower, state_of
from wordsight.encoder.runtime import Embeddings, require_finite
from wordsight.image import Preprocessing
from wordsight.model import CLIP, to_float
from wordsight.weights.formats.wordsight import hash_weights

_TEXTS_AT_ONCE = 64  # where every token of the context is computed


class TorchRuntime:
    """A model where it is, in its own precision; see `Runtime`.

    A float32 model on a CPU computes with arranged weights (`packed.py`).
    """

    name = "torch"

    def __init__(self, model: CLIP, preprocessing: Preprocessing) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self._state: object = None
        self._packed: dict[Callable[[CLIP], CLIP], CLIP] = {}

    @property
    def precision(self) -> str:
        """Of the weights."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def scale(self) -> float:
        """The learnt one."""
        return self.model.scale.item()

    @property
    def bias(self) -> float:
        """The learnt one; 0 where there is none."""
        return self.model.logit_bias.item() if self.model.config.logit_bias else 0.0

    @property
    def weights_hash(self) -> str:
        """Of the weights as they are now."""
        return hash_weights(self.model.state_dict())

    def encode_pixels(self, squares: NDArray[np.uint8]) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, E) float32; pixels travel to the device as bytes."""
        first = next(self.model.parameters())
        model = self._quickest(prepack_image_tower)
        with _evaluating(self.model):
            bytes_on_device = torch.from_numpy(squares).to(first.device)
            pixels = to_float(bytes_on_device, self.preprocessing.mean, self.preprocessing.std)
            return _unit(model.encode_image(pixels.to(first.dtype)))

    def encode_ids(self, ids: NDArray[np.int32]) -> Embeddings:
        """(M, L) int32 -> (M, E) float32; beginnings are shared where the tower is causal."""
        model = self._quickest(prepack_text_tower)
        with _evaluating(self.model):
            if model.config.text.is_trimmed:
                return _unit(encode_texts(model, torch.from_numpy(ids)))
            groups = torch.from_numpy(ids).to(next(model.parameters()).device, torch.int64).split(_TEXTS_AT_ONCE)
            return np.concatenate([_unit(model.encode_text(group)) for group in groups])

    def _quickest(self, pack: Callable[[CLIP], CLIP]) -> CLIP:
        """The model to compute with: arranged once, and again when its weights have changed."""
        if not can_prepack(self.model) or (state := state_of(self.model)) is None:
            return self.model
        if state != self._state:
            self._state, self._packed = state, {}
        if pack not in self._packed:
            self._packed[pack] = pack(self.model)
        return self._packed[pack]


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


def _unit(embeddings: Tensor) -> Embeddings:
    return require_finite(np.asarray(nn.functional.normalize(embeddings.float(), dim=-1).cpu().numpy(), np.float32))
