"""Pixels and ids to embeddings.

config.py                       what a model is made of
presets.py                      the published ones and small ones, by name
clip.py                         both towers, and how to build them: read this first
transformer.py                  the blocks of both towers
vit.py, siglip.py, resnet.py, residual.py  the image towers
text.py                         texts in groups of like length
pixels.py                       bytes to normalised floats
initialise.py                   first weights, from a generator

What a model is made of is known without torch: the rest comes when it is asked for (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wordsight.model.config import (
    ModelConfig,
    ModifiedResNetConfig,
    ResidualConfig,
    SigLIPConfig,
    TextConfig,
    VisionTransformerConfig,
)
from wordsight.model.presets import PRESETS, PUBLISHED, preset

if TYPE_CHECKING:
    from wordsight.model.clip import CLIP, build, build_empty
    from wordsight.model.pixels import to_float

__all__ = [
    "CLIP",
    "PRESETS",
    "PUBLISHED",
    "ModelConfig",
    "ModifiedResNetConfig",
    "ResidualConfig",
    "SigLIPConfig",
    "TextConfig",
    "VisionTransformerConfig",
    "build",
    "build_empty",
    "preset",
    "to_float",
]

_NEED_TORCH = {"CLIP": "clip", "build": "clip", "build_empty": "clip", "to_float": "pixels"}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
