"""From a model to embeddings.

dual_encoder.py       DualEncoder: a model with its tokenizer and preprocessing, the interface for all higher layers
loading.py            load: from the name or the path of a model to a DualEncoder
pipeline.py           the one image pipeline: read, decode, preprocess, batch, encode
runtime.py            Runtime: the protocol of whatever computes embeddings from pixels and token ids
torch_runtime.py      its implementation on torch; prefix_tree.py and prepacked.py make it fast
onnx_runtime.py       its implementation on ONNX Runtime, in float32 or with 8-bit products
runtime_selection.py  conversion of a checkpoint for ONNX Runtime, and the choice between the two
batch_sizes.py        how many images and texts are encoded together on each type of device
fingerprint.py        Fingerprint: everything that determines the value of an embedding

The names below are imported on first use, so that importing this package does not load torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder
    from wordsight.encoder.fingerprint import Fingerprint
    from wordsight.encoder.loading import load

__all__ = ["DualEncoder", "Fingerprint", "load"]

_MODULES = {"DualEncoder": "dual_encoder", "Fingerprint": "fingerprint", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
