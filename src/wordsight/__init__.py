"""wordsight learns pictures from words: CLIP (Radford et al. 2021, arXiv 2103.00020) made whole.

This is the face. Its names come when they are asked for (PEP 562), so that `import wordsight` is quick and loads
neither torch nor NumPy. Errors that a user can cause are in `wordsight.errors`.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordsight import errors
    from wordsight.infer import DualEncoder, load
    from wordsight.text import tokenize
    from wordsight.train import Run, train
    from wordsight.zeroshot import Answer, Labels

__version__ = "0.1.0"

__all__ = ["Answer", "DualEncoder", "Labels", "Run", "__version__", "errors", "load", "tokenize", "train"]

_ROOMS = {
    "Answer": "zeroshot",
    "DualEncoder": "infer",
    "Labels": "zeroshot",
    "Run": "train",
    "load": "infer",
    "tokenize": "text",
}


def __getattr__(name: str) -> Any:
    if name in ("errors", "train"):  # a module; and a room that can be called
        return import_module(f"wordsight.{name}")
    if name not in _ROOMS:
        raise AttributeError(f"module 'wordsight' has no attribute {name!r}")
    return getattr(import_module(f"wordsight.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Room(ModuleType):
    """A room of the same name as its function: called, it is the function."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        return self.train(*arguments, **options)


class _Face(ModuleType):
    """This module. An import of the room `wordsight.train` sets it here, over whatever has its name."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "train" and isinstance(value, ModuleType):
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Face
