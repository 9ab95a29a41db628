"""The optimiser: the update rule and the weight decay of each parameter."""

from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW

from wordsight.training.muon import Muon
from wordsight.training.recipe import OptimizerConfig

_FUSED_DEVICES = {"cpu", "cuda"}


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> AdamW:
    """Build an optimiser of the model's trainable parameters.

    Gains, biases and the logit scale, which are the parameters with fewer than two dimensions, do not decay
    (Radford et al. 2021, 2.5).

    Returns:
        An optimiser with the groups: parameters that decay, parameters that do not, and Muon's matrices if any.
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    matrices = {name: parameter for name, parameter in trainable.items() if _is_matrix(name, parameter)}
    muon_names = list(matrices) if config.matrices == "muon" else []
    others = [parameter for name, parameter in trainable.items() if name not in muon_names]
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in others if parameter.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in others if parameter.ndim < 2], "weight_decay": 0.0},
    ]
    if muon_names:
        groups.append(
            {"params": list(matrices.values()), "weight_decay": config.weight_decay, "momentum": config.momentum}
        )
    optimizer_class = Muon if muon_names else AdamW
    return optimizer_class(
        groups,
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        # one pass over memory instead of ten
        fused={parameter.device.type for parameter in trainable.values()} <= _FUSED_DEVICES,
    )


def _is_matrix(name: str, parameter: Tensor) -> bool:
    """Return whether a parameter maps vectors to vectors; the rows of embedding tables and the caption head do not."""
    return parameter.ndim >= 2 and "embedding" not in name and not name.startswith("caption_head.")
