"""The model: pixels and token ids -> embeddings.

config.py          model configurations
presets.py         the published configurations and small ones, by name
clip.py            the CLIP model with both towers, and functions that build it; read this first
transformer.py     the transformer of both towers
vit.py, siglip.py, resnet.py, residual.py    the image towers
text.py            batches of texts in groups of similar length
resize.py          trained weights -> the same model for another image size
pixels.py          uint8 pixels -> normalised floats
initialise.py      initial weights, drawn from a generator

Configurations and presets do not load torch; the other names are imported on first use (PEP 562).
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
    from wordsight.model.resize import resize_image_tower

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
    "resize_image_tower",
    "to_float",
]

_NEED_TORCH = {
    "CLIP": "clip",
    "build": "clip",
    "build_empty": "clip",
    "resize_image_tower": "resize",
    "to_float": "pixels",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
