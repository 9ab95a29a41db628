"""The vision transformer, with the names of the published weights."""

import torch
from torch import Tensor, nn

from wordsight.model.config import Activation, VisionTransformerConfig
from wordsight.model.transformer import Transformer


class VisionTransformer(nn.Module):
    """Patches, a class token and positions through a transformer; the class token is the picture."""

    def __init__(self, config: VisionTransformerConfig, embed_dim: int, activation: Activation) -> None:
        super().__init__()
        width = config.width
        self.conv1 = (
            conv_stem(config.patch_size_px, width)
            if config.stem == "conv"
            else nn.Conv2d(3, width, config.patch_size_px, config.patch_size_px, bias=False)
        )
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.heads, config.layers, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, E)."""
        patches_NPD = self.conv1(pixels).flatten(2).transpose(1, 2)
        start_N1D = self.class_embedding.expand(len(pixels), 1, -1)
        x_NLD = torch.cat([start_N1D, patches_NPD], 1) + self.positional_embedding
        x_ND = self.transformer(self.ln_pre(x_NLD))
        return self.ln_post(x_ND) @ self.proj


def conv_stem(patch_size_px: int, width: int) -> nn.Sequential:
    """3x3 convolutions of stride 2 that double their width, then a 1x1 one: (N, 3, H, W) -> (N, D, grid, grid)."""
    halvings = patch_size_px.bit_length() - 1
    layers: list[nn.Module] = []
    before = 3
    for halving in range(halvings):
        after = width // 2 ** (halvings - 1 - halving)
        layers += [nn.Conv2d(before, after, 3, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
        before = after
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))
