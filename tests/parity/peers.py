"""The peer libraries, imported on the torch that is there.

open_clip and timm require torchvision, which on many machines drags in another torch; both are installed without
their dependencies and this stand-in satisfies the import (design, "What it stands on"). Nothing of torchvision's
behaviour is used: a transform that was called would fail.
"""

import enum
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from typing import Any

import torch

_SUBMODULES = (
    "transforms",
    "transforms.functional",
    "ops",
    "ops.misc",
    "models",
    "models.feature_extraction",
    "datasets",
)


class _AnyName(types.ModuleType):
    """A module in which any name is a class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


def _stand_in_for_torchvision() -> None:
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    if importlib.util.find_spec("transformers") is not None:
        importlib.import_module("transformers")  # it must look for torchvision before the stand-in is there
    package = types.ModuleType("torchvision")
    package.__path__ = []
    package.__spec__ = importlib.machinery.ModuleSpec("torchvision", None, is_package=True)
    package.__dict__["__version__"] = "0.0"
    sys.modules["torchvision"] = package
    for name in _SUBMODULES:
        module = _AnyName(f"torchvision.{name}")
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(f"torchvision.{name}", None, is_package=True)
        sys.modules[f"torchvision.{name}"] = module
        parent, _, leaf = f"torchvision.{name}".rpartition(".")
        setattr(sys.modules[parent], leaf, module)
    sys.modules["torchvision.transforms"].InterpolationMode = _InterpolationMode  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms.functional"].InterpolationMode = _InterpolationMode  # type: ignore[attr-defined]


def _import(name: str) -> Any:
    """A package that wants torchvision; what it warns of while it is imported is its own affair."""
    _stand_in_for_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def has_open_clip() -> bool:
    """Whether open_clip is installed; a test that needs it skips where it is not."""
    return importlib.util.find_spec("open_clip") is not None


def open_clip() -> Any:
    """The open_clip package, on this process's torch."""
    return _import("open_clip")


def timm() -> Any:
    """The timm package, whose image towers open_clip takes for SigLIP, on this process's torch."""
    return _import("timm")


def has_timm() -> bool:
    """Whether timm is installed; a test that needs it skips where it is not."""
    return importlib.util.find_spec("timm") is not None


def has_transformers() -> bool:
    """Whether transformers is installed; a test that needs it skips where it is not."""
    return importlib.util.find_spec("transformers") is not None


def transformers() -> Any:
    """The transformers package, which looks for torchvision once, when it is first imported."""
    return importlib.import_module("transformers")


def fill_at_random(model: Any, seed: int) -> None:
    """Draw every parameter and buffer of a peer that its files hold, so that no gain of 1 or bias of 0 hides a mistake.

    Matrices keep a signal's size. Patches, tokens and positions are small, so that the epsilon of the first
    normalisation behind them can be seen.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():  # how many batches a normalisation has seen
            continue
        noise = torch.randn(tensor.shape, generator=generator)
        if name.endswith(("logit_scale", "logit_bias")):
            drawn = (3 if name.endswith("scale") else -9) + noise / 10
        elif tensor.ndim == 1 and name.endswith(("weight", "gamma", "running_var")):
            drawn = 1 + noise.clamp(-4, 4) / 5
        elif any(word in name for word in ("embed", "conv1.weight", "cls_emb")):
            drawn = noise / 50 * (tensor[0].numel() ** -0.5 if tensor.ndim == 4 else 1)
        elif tensor.ndim == 1:
            drawn = noise / 5
        else:
            drawn = noise * tensor[0].numel() ** -0.5
        tensor.copy_(drawn.to(tensor.dtype))
