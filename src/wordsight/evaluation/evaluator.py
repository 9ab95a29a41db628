"""The interface of an evaluator, which `training` calls at every validation."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wordsight.metrics import Score

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

Evaluator = Callable[["DualEncoder", int], Sequence[Score]]
"""Called with an encoder and the number of steps it was trained for; returns the encoder's scores."""
