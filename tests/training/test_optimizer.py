"""AdamW and Muon: steps computed by hand, and which weights decay."""

import pytest
import torch
from torch import nn

from wordsight.config import decode
from wordsight.errors import ConfigError
from wordsight.model import PRESETS, build_empty
from wordsight.training.muon import orthogonalise
from wordsight.training.optimizer import build_optimizer
from wordsight.training.recipe import OptimizerConfig


def test_the_first_step_matches_the_formula_of_adamw() -> None:
    layer = nn.Linear(3, 2)
    before = {name: tensor.detach().clone() for name, tensor in layer.named_parameters()}
    config = OptimizerConfig(learning_rate=0.01)
    optimizer = build_optimizer(layer, config)
    gradients = {"weight": torch.tensor([[1.0, -2.0, 3e-6], [0.5, 0.0, 4.0]]), "bias": torch.tensor([2.0, -1e-7])}
    for name, parameter in layer.named_parameters():
        parameter.grad = gradients[name].clone()
    optimizer.step()
    for name, parameter in layer.named_parameters():
        g = gradients[name]
        mean, square = 0.1 * g / (1 - 0.9), 0.02 * g**2 / (1 - 0.98)
        decayed = before[name] * (1 - 0.01 * (0.2 if name == "weight" else 0.0))
        expected = decayed - 0.01 * mean / (square.sqrt() + 1e-6)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7)


def test_the_second_step_uses_the_moments_of_the_first() -> None:
    value = nn.Parameter(torch.tensor([[1.0]]))
    layer = nn.Module()
    layer.value = value
    optimizer = build_optimizer(
        layer, OptimizerConfig(learning_rate=0.1, weight_decay=0.0, beta1=0.5, beta2=0.75, epsilon=1e-3)
    )
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
    decaying, constant = build_optimizer(model, OptimizerConfig(learning_rate=1e-3)).param_groups
    assert (decaying["weight_decay"], constant["weight_decay"]) == (0.2, 0.0)
    not_decaying = {id(parameter) for parameter in constant["params"]}
    # open_clip's trainer excludes by dimension and by these parts of a name
    by_name = {
        id(one)
        for key, one in model.named_parameters()
        if one.ndim < 2 or any(part in key for part in ("bn", "ln", "bias", "logit_scale"))
    }
    assert not_decaying == by_name
    assert len(decaying["params"]) + len(not_decaying) == len(list(model.parameters()))


def test_frozen_parameters_are_not_optimised() -> None:
    layer = nn.Linear(3, 2)
    layer.bias.requires_grad_(False)
    decaying, constant = build_optimizer(layer, OptimizerConfig(learning_rate=1e-3)).param_groups
    assert (len(decaying["params"]), len(constant["params"])) == (1, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": -1e-3}, "optimizer: .*learning_rate"),
        ({"beta2": 1.0}, "optimizer: .*beta2"),
        ({"epsilon": 0}, "optimizer: .*epsilon"),
        ({"learning_rat": 1e-3}, r"unknown key 'learning_rat'; did you mean 'learning_rate'\?"),
    ],
)
def test_an_invalid_constant_is_an_error(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decode({"learning_rate": 1e-3} | change, OptimizerConfig, "optimizer")


def quintic(values: torch.Tensor) -> torch.Tensor:
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return values


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8), (1, 5)])
def test_orthogonalising_changes_only_the_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    expected = left @ torch.diag(quintic(values / values.norm())) @ right
    torch.testing.assert_close(orthogonalise(matrix).double(), expected, rtol=0, atol=2e-5)


def test_orthogonalising_equalises_singular_values_that_differ_a_hundredfold_and_accepts_zeros() -> None:
    left, _, right = torch.linalg.svd(torch.randn(32, 90, generator=torch.Generator().manual_seed(1)), False)
    matrix = left @ torch.diag(torch.logspace(0, -2, 32)) @ right
    values = torch.linalg.svdvals(orthogonalise(matrix))
    assert 0.65 < values.min() < values.max() < 1.25
    assert (orthogonalise(torch.zeros(3, 4)) == 0).all()


def test_muon_steps_matrices_as_computed_by_hand_and_other_parameters_as_adamw() -> None:
    torch.manual_seed(0)
    both = [nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 4)) for _ in range(2)]
    both[1].load_state_dict(both[0].state_dict())
    config = OptimizerConfig(learning_rate=0.01, weight_decay=0.3, matrices="muon", momentum=0.9)
    muon, adamw = (
        build_optimizer(model, one)
        for model, one in zip(both, (config, OptimizerConfig(learning_rate=0.01)), strict=True)
    )
    expected = {name: one.detach().clone() for name, one in both[0].named_parameters()}
    means = {name: torch.zeros_like(one) for name, one in expected.items()}
    for step in range(3):
        for model in both:
            for number, one in enumerate(model.parameters()):
                one.grad = torch.randn(one.shape, generator=torch.Generator().manual_seed(10 * step + number))
        for name, one in both[0].named_parameters():
            means[name] = 0.9 * means[name] + 0.1 * one.grad
            nesterov = 0.1 * one.grad + 0.9 * means[name]
            if one.ndim >= 2:
                direction = orthogonalise(nesterov.flatten(1)).view_as(one)
                size = 0.2 * max(one.shape[0], one[0].numel()) ** 0.5
                expected[name] = expected[name] * (1 - 0.01 * 0.3) - 0.01 * size * direction
        muon.step()
        adamw.step()
    for (name, one), other in zip(both[0].named_parameters(), both[1].parameters(), strict=True):
        reference = expected[name] if one.ndim >= 2 else other
        torch.testing.assert_close(one, reference, rtol=1e-5, atol=1e-6)


def test_muon_agrees_with_torch() -> None:
    # torch's implementation computes in bfloat16, so the results agree only approximately
    ours, theirs = (nn.Linear(16, 24, bias=False) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    before = ours.weight.detach().clone()
    config = OptimizerConfig(learning_rate=0.02, weight_decay=0.1, matrices="muon")
    our_optimizer = build_optimizer(ours, config)
    torch_optimizer = torch.optim.Muon(theirs.parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for seed in range(3):
        for one in (ours, theirs):
            one.weight.grad = torch.randn(24, 16, generator=torch.Generator().manual_seed(seed))
        our_optimizer.step()
        torch_optimizer.step()
    distance, difference = (ours.weight - before).norm(), (ours.weight - theirs.weight).norm()
    assert difference < 0.02 * distance


@pytest.mark.parametrize("name", ["ViT-B-32", "RN50", "residual-small"])
def test_muon_does_not_step_embedding_tables_and_vectors(name: str) -> None:
    model = build_empty(PRESETS[name])
    tables, vectors, matrices = build_optimizer(
        model, OptimizerConfig(learning_rate=1e-3, matrices="muon")
    ).param_groups
    name_of = {id(one): key for key, one in model.named_parameters()}
    assert all("embedding" in name_of[id(one)] for one in tables["params"])
    assert all(one.ndim < 2 for one in vectors["params"])
    assert not any("embedding" in name_of[id(one)] for one in matrices["params"])
    assert sum(len(group["params"]) for group in (tables, vectors, matrices)) == len(name_of)
