"""Pixels travel as bytes and become numbers once, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_float(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalised pixels, on the device of the bytes: uint8 (N, H, W, 3) -> float32 (N, 3, H, W).

    The memory stays channels last, which convolutions prefer. Mean and deviation are of values from 0 to 1; the
    order of operations, hence every bit, is that of the published preprocessing.
    """
    values = pixels.permute(0, 3, 1, 2).to(torch.float32)
    mean_C11, std_C11 = (torch.tensor(three, device=pixels.device).view(3, 1, 1) for three in (mean, std))
    return values.div_(255).sub_(mean_C11).div_(std_C11)
