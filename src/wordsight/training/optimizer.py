"""Which optimiser steps which weights, and which of them decay."""

from typing import Annotated, Any, Literal

from msgspec import Meta
from torch import Tensor, nn
from torch.optim import AdamW

from wordsight.config import Config
from wordsight.training.muon import Muon

_FUSED_DEVICES = {"cpu", "cuda"}

Fraction = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]


class OptimizerConfig(Config, frozen=True):
    """AdamW (Loshchilov and Hutter 2019); the defaults are table 18's for vision transformers.

    `matrices`: what steps linear layers, convolutions and projections: `adamw` as all else, or `muon` with `momentum`.
    `gradient_clip` bounds the norm of all gradients together, before the step; None leaves them.
    """

    learning_rate: Positive
    weight_decay: Annotated[float, Meta(ge=0)] = 0.2
    beta1: Fraction = 0.9
    beta2: Fraction = 0.98
    epsilon: Positive = 1e-6
    gradient_clip: Positive | None = None
    matrices: Literal["adamw", "muon"] = "adamw"
    momentum: Annotated[float, Meta(gt=0, lt=1)] = 0.95


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """An optimiser of the model's trainable parameters, in groups: those that decay, those that do not, Muon's.

    Gains, biases and the scale, which are the parameters of less than two dimensions, do not decay
    (Radford et al. 2021, 2.5).
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = [name for name, one in trainable.items() if config.matrices == "muon" and _is_matrix(name, one)]
    rest = [one for name, one in trainable.items() if name not in matrices]
    groups: list[dict[str, Any]] = [
        {"params": [one for one in rest if one.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [one for one in rest if one.ndim < 2], "weight_decay": 0.0},
    ]
    if matrices:
        own = [trainable[name] for name in matrices]
        groups.append({"params": own, "weight_decay": config.weight_decay, "momentum": config.momentum})
    kind = Muon if matrices else AdamW
    return kind(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused={one.device.type for one in trainable.values()} <= _FUSED_DEVICES,  # one pass over memory in place of ten
    )


def _is_matrix(name: str, parameter: Tensor) -> bool:
    """Whether it maps vectors to vectors; of a table of embeddings, or of words to be named, each row is its own."""
    return parameter.ndim >= 2 and "embedding" not in name and not name.startswith("words.")
