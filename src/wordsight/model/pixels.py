"""Pixels stay uint8 until they are converted to float once, on the device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def to_float(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalise pixels on their device: uint8 (N, H, W, 3) -> float32 (N, 3, H, W).

    The memory format is channels last, in which convolutions are faster. The order of operations is that of the
    published preprocessing, so the results are bitwise identical.

    Args:
        pixels: uint8; not modified.
        mean: of red, green and blue, for values in [0, 1].
        std: standard deviation of red, green and blue, for values in [0, 1].
    """
    values = pixels.permute(0, 3, 1, 2).to(torch.float32)
    mean_C11, std_C11 = (torch.tensor(channels, device=pixels.device).view(3, 1, 1) for channels in (mean, std))
    return values.div_(255).sub_(mean_C11).div_(std_C11)
