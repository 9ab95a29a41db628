"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon): momentum whose directions all weigh the same.

The momentum of a weight matrix is mostly a few strong directions; its singular values are made about equal before the
step, so that the weak ones are learned as well. Convolutions are matrices of outputs by everything that they see.
Sizes follow Liu et al. 2025 (arXiv 2502.16982, 2.2), by which one learning rate fits Muon and AdamW.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan et al.: a x + b x^3 + c x^5, which in five rounds ends near 1
_ROUNDS = 5
_ADAMW_SIZE = 0.2  # root mean square of AdamW's usual update (Liu et al.)
_LEAST_NORM = 1e-7


def orthogonalise(matrix_MN: Tensor) -> Tensor:
    """The matrix with its singular values brought to 0.7 to 1.2, by five Newton-Schulz rounds.

    Singular values below a thousandth of the Frobenius norm end lower. Rounds are polynomials of the smaller Gram
    matrix, which commute: they are multiplied among themselves, and meet the matrix once. For a convolution of 512 by
    4608 that is two fifths of the work.

    Args:
        matrix_MN: float32; not changed.
    """
    if matrix_MN.shape[0] > matrix_MN.shape[1]:
        return orthogonalise(matrix_MN.T).T
    unit_MN = matrix_MN / matrix_MN.norm().clamp(min=_LEAST_NORM)
    gram_MM = unit_MN @ unit_MN.T
    product_MM = round_MM = _polynomial(gram_MM)
    for _ in range(_ROUNDS - 1):
        gram_MM = round_MM @ gram_MM @ round_MM
        round_MM = _polynomial(gram_MM)
        product_MM = round_MM @ product_MM
    return product_MM @ unit_MN


def _polynomial(gram_MM: Tensor) -> Tensor:
    """a + b G + c G^2, which takes x to a x + b x^3 + c x^5 where G = x x^T."""
    first, third, fifth = _QUINTIC
    sum_MM = torch.addmm(gram_MM, gram_MM, gram_MM, beta=third, alpha=fifth)
    sum_MM.diagonal().add_(first)
    return sum_MM


class Muon(AdamW):
    """AdamW whose groups with a `momentum` take Muon's step instead: decoupled decay, Nesterov momentum, no bias
    correction, as the direction has no size."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Take a step; the gradients of Muon's matrices are used up."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if "momentum" in group and parameter.grad is not None:
                    self._step_matrix(parameter, parameter.grad, group)
                    parameter.grad = None  # AdamW passes over what has none
        return super().step(closure)

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, momentum = self.state[parameter], group["momentum"]
        if not state:
            state["step"] = torch.zeros(())  # AdamW wants one of every state that it loads
            state["mean"] = torch.zeros_like(gradient)
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - momentum)
        direction_MN = orthogonalise(gradient.lerp(state["mean"], momentum).flatten(1).float())
        size = _ADAMW_SIZE * math.sqrt(max(direction_MN.shape))
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(direction_MN.view_as(parameter), alpha=-group["lr"] * size)
