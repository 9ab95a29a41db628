"""A run between two steps, and what of it must survive a restart.

`State.parts` is that list; it is saved and loaded by nothing else. A run's random numbers need no saving: what step s
draws is a function of the recipe's seed and s (design rule 1).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from wordsight.model import CLIP
from wordsight.text import TextTokenizer, TokenizerConfig
from wordsight.training.caption_tokens import CaptionTokens


class Learner(nn.Module):
    """A CLIP with what only its training needs: the layer that names a caption's words from the image's embedding.

    Attributes:
        clip: the model.
        words: linear layer (E -> vocabulary), or None where the recipe has no such task.
    """

    def __init__(self, clip: CLIP, words: nn.Linear | None) -> None:
        super().__init__()
        self.clip = clip
        self.words = words


class EMA:
    """A running mean of a learner's weights and statistics, on which it is judged and saved.

    After n steps the decay is min(decay, n / (n + 10)), so that the first steps do not weigh on the mean.
    """

    def __init__(self, learner: Learner, decay: float) -> None:
        self._decay = decay
        self._source = _floats(learner.clip.state_dict())
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._source.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Take in the learner's present weights, after a number of steps."""
        weight = 1 - min(self._decay, steps / (steps + 10))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._source.values()), weight)


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


@dataclass(frozen=True)
class Tokens:
    """How texts become ids: as the model from which training starts, or else as published; saved with the weights."""

    config: TokenizerConfig
    tokenizer: TextTokenizer
    files: Mapping[str, bytes]


@dataclass
class State:
    """A run between two steps.

    Attributes:
        average: the averaged weights, or None where the recipe has no ema_decay.
        words: what the second task asks for, or None where the recipe has no such task.
        tokens: the tokenizer, which no step changes.
        identity: recipe and data as plain data; a checkpoint of another identity is refused.
        device: where the tensors are.
        steps: how many were taken.
        best_score: the highest validation score so far, and `best_step` where it was.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    average: EMA | None
    words: CaptionTokens | None
    tokens: Tokens
    identity: dict[str, Any]
    device: torch.device
    steps: int = 0
    best_score: float = -1.0
    best_step: int = 0
    best_scores: dict[str, float] = field(default_factory=dict)

    def parts(self) -> dict[str, Any]:
        """Everything that a restart needs."""
        return {
            "identity": self.identity,
            "steps": self.steps,
            "best_score": self.best_score,
            "best_step": self.best_step,
            "best_scores": self.best_scores,
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.tensors if self.average else {},
        }

    def take(self, parts: dict[str, Any]) -> None:
        """Go on from parts that `parts` gave."""
        for name in ("steps", "best_score", "best_step", "best_scores"):
            setattr(self, name, parts[name])
        self.learner.load_state_dict(parts["learner"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.average:
            for name, tensor in self.average.tensors.items():
                tensor.copy_(parts["average"][name])

    def weights(self) -> dict[str, Tensor]:
        """The model's tensors as they are judged and published: averaged where the recipe says so."""
        tensors = {name: tensor.detach() for name, tensor in self.learner.clip.state_dict().items()}
        return tensors | (self.average.tensors if self.average else {})
