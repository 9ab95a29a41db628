"""wordsight is a complete CLIP toolkit (Radford et al. 2021, arXiv 2103.00020).

Train, load, evaluate and use image-text models. The public names are imported on first use (PEP 562), so
`import wordsight` loads neither torch nor NumPy. Every error that a user can cause is a
`wordsight.errors.WordsightError`.
"""

TYPE_CHECKING = False  # as type checkers assume it; importing typing would be most of the time of `import wordsight`

if TYPE_CHECKING:
    from typing import Any

    from wordsight import errors
    from wordsight.encoder import DualEncoder, load
    from wordsight.evaluation import Scores, evaluate
    from wordsight.text import tokenize
    from wordsight.training import Run, train
    from wordsight.zeroshot import Prediction, ZeroShotClassifier

__version__ = "0.1.0"

__all__ = [
    "DualEncoder",
    "Prediction",
    "Run",
    "Scores",
    "ZeroShotClassifier",
    "__version__",
    "errors",
    "evaluate",
    "load",
    "tokenize",
    "train",
]

_PACKAGES = {
    "DualEncoder": "encoder",
    "Prediction": "zeroshot",
    "Run": "training",
    "Scores": "evaluation",
    "ZeroShotClassifier": "zeroshot",
    "evaluate": "evaluation",
    "load": "encoder",
    "tokenize": "text",
    "train": "training",
}


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name == "errors":
        return import_module("wordsight.errors")
    if name not in _PACKAGES:
        raise AttributeError(f"module 'wordsight' has no attribute {name!r}")
    return getattr(import_module(f"wordsight.{_PACKAGES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
