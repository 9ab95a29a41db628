"""The torch runtime, the only module that runs inference with torch.

A model is switched to evaluation mode while it computes, because batch normalisation in training mode would make an
embedding depend on the rest of its batch. Its modules are switched back afterwards.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wordsight.encoder.batch_sizes import batch_sizes
from wordsight.encoder.prefix_tree import encode_texts
from wordsight.encoder.prepacked import can_prepack, prepack_image_tower, prepack_text_tower, weights_version
from wordsight.encoder.runtime import Embeddings, require_finite
from wordsight.image import Preprocessing
from wordsight.model import CLIP, to_float
from wordsight.weights.formats.wordsight import hash_weights

_SAMPLED_VALUES = 64  # of each tensor


class TorchRuntime:
    """Runs a model on its device and in its precision; see `Runtime`.

    A float32 model on a CPU computes with prepacked weights (`prepacked.py`).
    """

    name = "torch"

    def __init__(self, model: CLIP, preprocessing: Preprocessing) -> None:
        self.model = model
        self.preprocessing = preprocessing
        self._prepacked_version: object = None
        self._prepacked: dict[Callable[[CLIP], CLIP], CLIP] = {}
        self._hashed_state: object = None
        self._hash = ""

    @property
    def device_type(self) -> str:
        """Type of the device that holds the model now."""
        return next(self.model.parameters()).device.type

    @property
    def precision(self) -> str:
        """Data type of the weights."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def scale(self) -> float:
        """The learnt logit scale."""
        return self.model.scale.item()

    @property
    def bias(self) -> float:
        """The learnt logit bias; 0 for a model without one."""
        return self.model.logit_bias.item() if self.model.config.logit_bias else 0.0

    @property
    def weights_hash(self) -> str:
        """SHA-256 of the current weights; computed again only after they have changed."""
        state = _state_of(self.model)
        if state is None or state != self._hashed_state:
            self._hash, self._hashed_state = hash_weights(self.model.state_dict()), state
        return self._hash

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, E) float32. Pixels are copied to the device as bytes and converted there."""
        first_parameter = next(self.model.parameters())
        model = self._fastest(prepack_image_tower)
        with _evaluation_mode(self.model):
            bytes_on_device = torch.from_numpy(pixels).to(first_parameter.device)
            floats = to_float(bytes_on_device, self.preprocessing.mean, self.preprocessing.std)
            return _unit(model.encode_image(floats.to(first_parameter.dtype)))

    def encode_ids(self, ids: NDArray[np.int32]) -> Embeddings:
        """(M, L) int32 -> (M, E) float32. A causal text tower computes a common prefix once."""
        model = self._fastest(prepack_text_tower)
        with _evaluation_mode(self.model):
            if model.config.text.is_trimmed:
                return _unit(encode_texts(model, torch.from_numpy(ids)))
            device = next(model.parameters()).device
            batches = torch.from_numpy(ids).to(device, torch.int64).split(batch_sizes(device.type).texts)
            return np.concatenate([_unit(model.encode_text(batch)) for batch in batches])

    def _fastest(self, prepack: Callable[[CLIP], CLIP]) -> CLIP:
        """Return the model to compute with: prepacked on first use, and again after its weights have changed."""
        if not can_prepack(self.model) or (version := weights_version(self.model)) is None:
            return self.model
        if version != self._prepacked_version:
            self._prepacked_version, self._prepacked = version, {}
        if prepack not in self._prepacked:
            self._prepacked[prepack] = prepack(self.model)
        return self._prepacked[prepack]


def _state_of(model: CLIP) -> object:
    """Return a value that changes when the weights change, and that is faster to compute than their hash; or None.

    Version counters do not see writes through `tensor.data`, which is how many EMA implementations copy weights.
    Therefore it includes a sample of the values of each tensor.
    """
    version = weights_version(model)
    if version is None:
        return None
    tensors = [tensor.detach().reshape(-1) for tensor in model.state_dict().values()]
    samples = [tensor[:: max(1, len(tensor) // _SAMPLED_VALUES)].cpu().contiguous() for tensor in tensors]
    return version, [sample.view(torch.uint8).numpy().tobytes() for sample in samples]


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
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
