"""AdamW with the published constants, and which weights decay."""

from typing import Annotated

from msgspec import Meta
from torch import nn
from torch.optim import AdamW

from wordsight.config import Config

_FUSED_DEVICES = {"cpu", "cuda"}

Fraction = Annotated[float, Meta(ge=0, lt=1)]
Positive = Annotated[float, Meta(gt=0)]


class OptimizerConfig(Config, frozen=True):
    """AdamW (Loshchilov and Hutter 2019); the defaults are table 18's for vision transformers.

    `gradient_clip` bounds the norm of all gradients together, before the step; None leaves them.
    """

    learning_rate: Positive
    weight_decay: Annotated[float, Meta(ge=0)] = 0.2
    beta1: Fraction = 0.9
    beta2: Fraction = 0.98
    epsilon: Positive = 1e-6
    gradient_clip: Positive | None = None


def adamw(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """An optimiser of the model's trainable parameters, in two groups: those that decay, those that do not.

    Gains, biases and the scale, which are the parameters of less than two dimensions, do not decay
    (Radford et al. 2021, 2.5).
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return AdamW(
        [
            {"params": [one for one in trainable if one.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [one for one in trainable if one.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused={one.device.type for one in trainable} <= _FUSED_DEVICES,  # one pass over memory in place of ten
    )
