"""Initial weights, drawn from an explicit generator without global random state.

A model is created on the meta device, where torch's own initialisation costs nothing, then allocated and filled here.
A module that differs from torch's defaults has a method `initialise`; everything else keeps these defaults, as in the
published code.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn


@runtime_checkable
class Initialised(Protocol):
    """A module that initialises its own parameters, after those of its submodules."""

    def initialise(self, generator: Generator) -> None:
        """Initialise the parameters that differ from torch's defaults."""


def fill_normal(tensor: Tensor, deviation: float, generator: Generator) -> None:
    """Fill a tensor in place from a normal distribution with mean zero."""
    with torch.no_grad():
        tensor.normal_(0.0, deviation, generator=generator)


def fill_uniform(tensor: Tensor, bound: float, generator: Generator) -> None:
    """Fill a tensor in place from a uniform distribution over [-bound, bound]."""
    with torch.no_grad():
        tensor.uniform_(-bound, bound, generator=generator)


def initialise(model: nn.Module, generator: Generator) -> None:
    """Initialise every parameter and buffer of an allocated model on the generator's device."""
    for module in reversed(list(model.modules())):  # submodules first, so that the outer module can override them
        if isinstance(module, Initialised):
            module.initialise(generator)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())  # torch's default
            fill_uniform(module.weight, bound, generator)
            if module.bias is not None:
                fill_uniform(module.bias, bound, generator)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.reset_parameters()  # gain 1, bias 0, running mean 0 and variance 1: nothing is drawn
