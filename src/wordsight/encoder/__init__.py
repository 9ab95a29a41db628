"""Models to embeddings.

dual_encoder.py   a model with its tokenizer and preprocessing: the waist on which everything above stands
loading.py        a name or a place to a dual encoder
runtime.py        what computes embeddings: on_torch.py (texts as a tree of their beginnings: prefix_tree.py), on_onnx.py
choose.py         which runtime computes, and which of them is select_runtime here
fingerprint.py    what decides the value of a embedding
images.py       finding images, and embedding many of which some may be broken
items.py          what can be embedded: directories, tables, shards, videos (video.py)
on_ray.py         the same work by many machines
embed_files.py    items to a file of embeddings (embedding_files.py), and what was done is not done again

torch comes with the first name that is asked for: those who stand above import this room at no cost.
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
