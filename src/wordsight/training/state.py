"""The state of a run between two steps.

`State.parts` lists everything that must survive a restart; nothing else is saved or loaded. Random number generators
need no saving, because the random numbers of step s are a function of the recipe's seed and s
(docs/explanation/determinism.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta
from torch import Tensor, nn

from wordsight.config import Config
from wordsight.metrics import Score
from wordsight.model import CLIP
from wordsight.text import TextTokenizer, TokenizerConfig
from wordsight.training.caption_tokens import CaptionTokens
from wordsight.training.recipe import Recipe


class RunIdentity(Config, frozen=True):
    """Everything that determines the result of a run; a checkpoint can only be resumed by a run of the same identity.

    Attributes:
        recipe: without `about`.
        data: fingerprint of the mixture.
        start: fingerprint of the model from which training starts; empty for a new model.
    """

    recipe: Recipe
    data: str
    start: str = ""


@dataclass
class LossSums:
    """Sums of the losses since the last row of `metrics.jsonl`, so that a resumed run writes the same rows.

    Attributes:
        steps: number of steps.
        loss: sum of the contrastive losses.
        caption_token_loss: sum of the losses of caption token classification.
    """

    steps: int = 0
    loss: float = 0.0
    caption_token_loss: float = 0.0


class Change(Config, frozen=True):
    """A key of the recipe that was changed when the run was resumed.

    Attributes:
        step: number of steps taken before the change.
        key: dotted key.
        before: its previous value; None if it had none.
        after: its new value.
    """

    step: int
    key: str
    before: Any = None
    after: Any = None


class _Saved(Config, frozen=True):
    """The parts of a checkpoint that are not tensors, for validation."""

    steps: Annotated[int, Meta(ge=0)]
    best_value: float | None
    best_step: Annotated[int, Meta(ge=0)]
    best_scores: tuple[Score, ...]
    sums: LossSums = msgspec.field(default_factory=LossSums)
    changes: tuple[Change, ...] = ()


class Learner(nn.Module):
    """A CLIP model with the layer that only training needs.

    Attributes:
        clip: the model.
        caption_head: linear layer (E -> V) of caption token classification, or None if the recipe does not use it.
    """

    def __init__(self, clip: CLIP, caption_head: nn.Linear | None) -> None:
        super().__init__()
        self.clip = clip
        self.caption_head = caption_head


class EMA:
    """An exponential moving average of a model's weights and statistics, which is evaluated and saved.

    After n steps the decay is min(decay, n / (n + 10)), so that the initial weights do not dominate the average.
    """

    def __init__(self, learner: Learner, decay: float) -> None:
        self._decay = decay
        self._source = _floats(learner.clip.state_dict())
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._source.items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        """Update the average with the model's weights after `steps` steps."""
        weight = 1 - min(self._decay, steps / (steps + 10))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._source.values()), weight)


def _floats(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}


@dataclass(frozen=True)
class Tokens:
    """How texts become token ids: the tokenizer of the start model, or else the published one; saved with the model.

    Attributes:
        config: the tokenizer's entry in the model card.
        tokenizer: the tokenizer.
        files: the tokenizer's files, name -> content.
    """

    config: TokenizerConfig
    tokenizer: TextTokenizer
    files: Mapping[str, bytes]


@dataclass
class State:
    """The state of a run between two steps.

    Attributes:
        learner: the model that is trained.
        optimizer: with its moments.
        ema: the averaged weights, or None if the recipe has no `ema_decay`.
        caption_tokens: the tokens of caption token classification, or None if the recipe does not use it.
        tokens: the tokenizer, which no step changes.
        identity: recipe and data; a checkpoint of another identity is refused.
        device: where the tensors are.
        steps: number of steps taken.
        best_value: highest value of the selection metric so far; None before the first validation and in runs without a
            selection metric.
        best_step: the step of the best model.
        best_scores: the scores of the best model.
        sums: losses since the last row of the log.
        changes: keys that were changed when the run was resumed.
    """

    learner: Learner
    optimizer: torch.optim.Optimizer
    ema: EMA | None
    caption_tokens: CaptionTokens | None
    tokens: Tokens
    identity: RunIdentity
    device: torch.device
    steps: int = 0
    best_value: float | None = None
    best_step: int = 0
    best_scores: tuple[Score, ...] = ()
    sums: LossSums = field(default_factory=LossSums)
    changes: tuple[Change, ...] = ()

    def parts(self) -> dict[str, Any]:
        """Return everything that a restart needs, as tensors and plain data."""
        return {
            "identity": msgspec.to_builtins(self.identity),
            "steps": self.steps,
            "best_value": self.best_value,
            "best_step": self.best_step,
            "best_scores": msgspec.to_builtins(self.best_scores),
            "sums": msgspec.to_builtins(self.sums),
            "changes": msgspec.to_builtins(self.changes),
            "learner": self.learner.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.tensors if self.ema else {},
        }

    def restore(self, parts: dict[str, Any]) -> None:
        """Continue from the return value of `parts`."""
        saved = msgspec.convert({key: parts[key] for key in _Saved.__struct_fields__ if key in parts}, _Saved)
        self.steps, self.best_step, self.best_value = saved.steps, saved.best_step, saved.best_value
        self.best_scores, self.sums, self.changes = saved.best_scores, saved.sums, saved.changes
        self.learner.load_state_dict(parts["learner"])
        self.optimizer.load_state_dict(parts["optimizer"])
        if self.ema:
            for name, tensor in self.ema.tensors.items():
                tensor.copy_(parts["ema"][name])

    def weights(self) -> dict[str, Tensor]:
        """Return the model's tensors as they are evaluated and saved: averaged if the recipe says so."""
        tensors = {name: tensor.detach() for name, tensor in self.learner.clip.state_dict().items()}
        return tensors | (self.ema.tensors if self.ema else {})
