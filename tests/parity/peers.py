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
from typing import Any

_SUBMODULES = ("transforms", "transforms.functional", "ops", "ops.misc", "models", "models.feature_extraction")


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


def has_open_clip() -> bool:
    """Whether open_clip is installed; a test that needs it skips where it is not."""
    return importlib.util.find_spec("open_clip") is not None


def open_clip() -> Any:
    """The open_clip package, on this process's torch."""
    _stand_in_for_torchvision()
    return importlib.import_module("open_clip")
