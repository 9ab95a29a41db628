"""First weights, from an explicit generator and no global random state.

A model is made on the meta device, where torch's own initialisation costs nothing, then given memory and filled here.
A module of ours says in its method `initialise` how it differs from torch's defaults, which the published code keeps
for everything that it does not name.
"""

import math
from typing import Protocol, runtime_checkable

import torch
from torch import Generator, Tensor, nn


@runtime_checkable
class Initialised(Protocol):
    """A module that fills its own parameters, after those of the modules inside it."""

    def initialise(self, generator: Generator) -> None:
        """Fill what torch's defaults do not."""


def fill_normal(tensor: Tensor, deviation: float, generator: Generator) -> None:
    """Fill in place from a normal distribution about zero."""
    with torch.no_grad():
        tensor.normal_(0.0, deviation, generator=generator)


def fill_uniform(tensor: Tensor, bound: float, generator: Generator) -> None:
    """Fill in place evenly from -bound to bound."""
    with torch.no_grad():
        tensor.uniform_(-bound, bound, generator=generator)


def initialise(model: nn.Module, generator: Generator) -> None:
    """Fill every parameter and buffer of a model that has memory, on the generator's device."""
    for module in reversed(list(model.modules())):  # inner before outer, so that the outer may overrule
        if isinstance(module, Initialised):
            module.initialise(generator)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())  # torch's default
            fill_uniform(module.weight, bound, generator)
            if module.bias is not None:
                fill_uniform(module.bias, bound, generator)
        elif isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            module.reset_parameters()  # gains 1, biases 0, running mean 0 and variance 1: nothing drawn
