"""AdamW: one step by hand, and which weights decay."""

import pytest
import torch
from torch import nn

from wordsight.config import decode
from wordsight.errors import ConfigError
from wordsight.model import PRESETS, build_empty
from wordsight.train.optimizer import OptimizerConfig, adamw


def test_one_step_is_the_formula() -> None:
    layer = nn.Linear(3, 2)
    before = {name: tensor.detach().clone() for name, tensor in layer.named_parameters()}
    config = OptimizerConfig(learning_rate=0.01)
    optimizer = adamw(layer, config)
    gradients = {"weight": torch.tensor([[1.0, -2.0, 3e-6], [0.5, 0.0, 4.0]]), "bias": torch.tensor([2.0, -1e-7])}
    for name, parameter in layer.named_parameters():
        parameter.grad = gradients[name].clone()
    optimizer.step()
    for name, parameter in layer.named_parameters():
        g = gradients[name]
        mean, square = 0.1 * g / (1 - 0.9), 0.02 * g**2 / (1 - 0.98)
        decayed = before[name] * (1 - 0.01 * (0.2 if name == "weight" else 0.0))
        wanted = decayed - 0.01 * mean / (square.sqrt() + 1e-6)
        torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-6, atol=1e-7)


def test_the_second_step_remembers_the_first() -> None:
    value = nn.Parameter(torch.tensor([[1.0]]))
    layer = nn.Module()
    layer.value = value
    optimizer = adamw(layer, OptimizerConfig(learning_rate=0.1, weight_decay=0.0, beta1=0.5, beta2=0.75, epsilon=1e-3))
    for gradient in (2.0, -1.0):
        value.grad = torch.tensor([[gradient]])
        optimizer.step()
    first = 1 - 0.1 * 2 / (2 + 1e-3)
    mean = (0.5 * (0.5 * 2) + 0.5 * -1) / (1 - 0.5**2)
    square = (0.75 * (0.25 * 4) + 0.25 * 1) / (1 - 0.75**2)
    assert value.item() == pytest.approx(first - 0.1 * mean / (square**0.5 + 1e-3), rel=1e-6)


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "residual-small", "vit-small"])
def test_gains_biases_and_scale_do_not_decay(name: str) -> None:
    model = build_empty(PRESETS[name])
    decaying, still = adamw(model, OptimizerConfig(learning_rate=1e-3)).param_groups
    assert (decaying["weight_decay"], still["weight_decay"]) == (0.2, 0.0)
    kept = {id(parameter) for parameter in still["params"]}
    # open_clip's trainer excludes by dimension and by these parts of a name
    by_name = {
        id(one)
        for key, one in model.named_parameters()
        if one.ndim < 2 or any(part in key for part in ("bn", "ln", "bias", "logit_scale"))
    }
    assert kept == by_name
    assert len(decaying["params"]) + len(kept) == len(list(model.parameters()))


def test_frozen_parameters_are_left_out() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    decaying, still = adamw(layer, OptimizerConfig(learning_rate=1e-3)).param_groups
    assert (len(decaying["params"]), len(still["params"])) == (1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1e-3}, "optimizer: .*learning_rate"),
        ({"beta2": 1.0}, "optimizer: .*beta2"),
        ({"epsilon": 0}, "optimizer: .*epsilon"),
        ({"learning_rat": 1e-3}, r"unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
    ],
)
def test_an_impossible_constant_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode({"learning_rate": 1e-3} | change, OptimizerConfig, "optimizer")
