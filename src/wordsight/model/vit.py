"""The vision transformer, with parameters named as in the published weights."""

import torch
from torch import Generator, Tensor, nn

from wordsight.model.config import VisionTransformerConfig
from wordsight.model.initialise import fill_normal
from wordsight.model.transformer import Transformer


class VisionTransformer(nn.Module):
    """A vision transformer, pooled by its class token or by the mean over patches."""

    def __init__(self, config: VisionTransformerConfig, embed_dim: int) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size_px
        is_published = config.stem == "patch"
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False) if is_published else conv_stem(patch, width)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2 + 1, width))
        self.ln_pre = nn.LayerNorm(width, config.epsilon) if config.norm_before else nn.Identity()
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(width, config.epsilon)
        self.proj = nn.Parameter(torch.empty(width, embed_dim))

    def initialise(self, generator: Generator) -> None:
        """Draw the weights with the published standard deviations; the transformer keeps torch's defaults."""
        for tensor in (self.class_embedding, self.positional_embedding, self.proj):
            fill_normal(tensor, self.transformer.width**-0.5, generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, E)."""
        patches_NPD = self.conv1(pixels).flatten(2).transpose(1, 2)
        start_N1D = self.class_embedding.expand(pixels.shape[0], 1, -1).to(patches_NPD.dtype)
        x_NLD = torch.cat([start_N1D, patches_NPD], dim=1) + self.positional_embedding
        return self._pool(self.ln_pre(x_NLD)) @ self.proj

    def _pool(self, x_NLD: Tensor) -> Tensor:
        if self.config.pool == "class_token":
            first_N = torch.zeros(x_NLD.shape[0], dtype=torch.int64, device=x_NLD.device)
            return self.ln_post(self.transformer.read(x_NLD, first_N))
        x_NPD = self.transformer(x_NLD)[:, 1:]
        return self.ln_post(x_NPD.mean(dim=1)) if self.config.norm_after_pool else self.ln_post(x_NPD).mean(dim=1)


def conv_stem(patch_size_px: int, width: int) -> nn.Sequential:
    """Return 3x3 convolutions of stride 2, each twice as wide, then a 1x1 convolution.

    They map (N, 3, H, W) to (N, D, grid, grid). Small transformers converge faster with this stem than with one
    convolution.

    Source: Xiao et al. 2021, arXiv 2106.14881.
    """
    layers: list[nn.Module] = []
    in_channels, halvings = 3, patch_size_px.bit_length() - 1
    for halving in range(halvings):
        out_channels = width // 2 ** (halvings - 1 - halving)
        layers += [nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False), nn.BatchNorm2d(out_channels)]
        layers.append(nn.ReLU(inplace=True))
        in_channels = out_channels
    return nn.Sequential(*layers, nn.Conv2d(width, width, 1))
