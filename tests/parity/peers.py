"""Import the peer libraries with the installed torch.

open_clip and timm require torchvision, which may install another torch. Both are therefore installed without their
dependencies, and the stand-in for torchvision in this module satisfies their imports. Of torchvision, it implements
the transforms of open_clip's evaluation, as documented (see test_preprocessing_parity.py).
"""

import enum
import importlib
import importlib.machinery
import importlib.util
import sys
import types
import warnings
from typing import Any

import numpy as np
import torch
from PIL import Image

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
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *arguments, **options: None})


class _InterpolationMode(enum.Enum):
    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


class _Compose:
    def __init__(self, transforms: list[Any]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class _Resize:
    def __init__(self, size: Any, interpolation: _InterpolationMode = _InterpolationMode.BILINEAR) -> None:
        self.size, self.resample = size, {"bilinear": 2, "bicubic": 3}[interpolation.value]

    def __call__(self, image: Image.Image) -> Image.Image:
        if not isinstance(self.size, int):
            height, width = self.size
            return image.resize((width, height), self.resample)
        width, height = image.size
        if width <= height:
            return image.resize((self.size, int(self.size * height / width)), self.resample)
        return image.resize((int(self.size * width / height), self.size), self.resample)


class _CenterCrop:
    def __init__(self, size: Any) -> None:
        self.height, self.width = (size, size) if isinstance(size, int) else size

    def __call__(self, image: Image.Image) -> Image.Image:
        left, top = round((image.width - self.width) / 2.0), round((image.height - self.height) / 2.0)
        return image.crop((left, top, left + self.width, top + self.height))


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)


class _Normalize:
    def __init__(self, mean: Any, std: Any) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - self.mean) / self.std


def _stand_in_for_torchvision() -> None:
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is not None:
        return
    if importlib.util.find_spec("transformers") is not None:
        importlib.import_module("transformers")  # it must look for torchvision before the stand-in exists
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
    for transform in (_Compose, _Resize, _CenterCrop, _Normalize):
        setattr(sys.modules["torchvision.transforms"], transform.__name__.removeprefix("_"), transform)
    sys.modules["torchvision.transforms.functional"].to_tensor = _to_tensor  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms"].InterpolationMode = _InterpolationMode  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms.functional"].InterpolationMode = _InterpolationMode  # type: ignore[attr-defined]


def _import(name: str) -> Any:
    """Import a package that requires torchvision, and ignore the warnings of the import."""
    _stand_in_for_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


def has_open_clip() -> bool:
    """Whether open_clip is installed; tests that need it are skipped otherwise."""
    return importlib.util.find_spec("open_clip") is not None


def open_clip() -> Any:
    """The open_clip package."""
    return _import("open_clip")


def timm() -> Any:
    """The timm package, which provides open_clip's image towers of SigLIP."""
    return _import("timm")


def has_timm() -> bool:
    """Whether timm is installed; tests that need it are skipped otherwise."""
    return importlib.util.find_spec("timm") is not None


def has_transformers() -> bool:
    """Whether transformers is installed; tests that need it are skipped otherwise."""
    return importlib.util.find_spec("transformers") is not None


def transformers() -> Any:
    """The transformers package."""
    return importlib.import_module("transformers")


def fill_at_random(model: Any, seed: int) -> None:
    """Draw random values for every tensor in a model's state dict, so that no gain of 1 or bias of 0 hides a mistake.

    Matrices preserve the magnitude of activations. Patch, token and positional embeddings are small, so that the
    epsilon of the normalisation after them has a visible effect.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():  # the batch counter of a normalisation
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
