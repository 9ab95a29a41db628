"""Another image size for trained weights: the positional embedding is interpolated as in open_clip."""

import math
from collections.abc import Mapping

import msgspec
import torch
from torch import Tensor
from torch.nn import functional as F

from wordsight.model.config import ModelConfig, ModifiedResNetConfig, ResidualConfig, SigLIPConfig


def resize_image_tower(
    tensors: Mapping[str, Tensor], config: ModelConfig, image_size_px: int
) -> tuple[dict[str, Tensor], ModelConfig]:
    """Return the state dict and the configuration of the same model for images of another size.

    The grid of the positional embedding is interpolated (bicubic, with antialiasing when it shrinks); the embedding of
    the class token, or of the mean in a ModifiedResNet, is kept. A residual network has no positional embedding.

    Args:
        tensors: state dict of the model; not modified.
        config: of the model.
        image_size_px: the new side of the image.

    Raises:
        ConfigError: the size does not fit the tower, for example because it is not a multiple of the patch size.

    Source: open_clip 3.3.0, `model.py: resize_pos_embed`.
    """
    image = msgspec.structs.replace(config.image, image_size_px=image_size_px)
    resized = dict(tensors)
    if not isinstance(image, ResidualConfig):
        is_resnet = isinstance(image, ModifiedResNetConfig)
        name = "visual.attnpool.positional_embedding" if is_resnet else "visual.positional_embedding"
        grid = image_size_px // 32 if isinstance(image, ModifiedResNetConfig) else image.grid
        num_prefix = 0 if isinstance(image, SigLIPConfig) else 1
        resized[name] = _interpolate(tensors[name], num_prefix, grid)
    return resized, msgspec.structs.replace(config, image=image)


def _interpolate(positions_PD: Tensor, num_prefix: int, grid: int) -> Tensor:
    """Interpolate the grid that follows the first `num_prefix` rows to `grid` x `grid`."""
    prefix_PD, grid_PD = positions_PD[:num_prefix], positions_PD[num_prefix:]
    side = math.isqrt(len(grid_PD))
    if side == grid:
        return positions_PD
    old_1DHW = grid_PD.float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    new_1DHW = F.interpolate(old_1DHW, size=(grid, grid), mode="bicubic", antialias=True, align_corners=False)
    new_PD = new_1DHW.permute(0, 2, 3, 1).reshape(grid * grid, -1).to(positions_PD.dtype)
    return torch.cat([prefix_PD, new_PD])
