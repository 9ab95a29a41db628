"""SigLIP's image tower (Zhai et al. 2023, arXiv 2303.15343): a vision transformer with attention pooling.

Parameters inside the transformer are named as in CLIP; `weights` translates timm's and Hugging Face's names.
"""

import torch
from torch import Generator, Tensor, nn

from wordsight.model.config import SigLIPConfig
from wordsight.model.initialise import fill_normal
from wordsight.model.transformer import MLP, Attention, Transformer


class AttentionPool(nn.Module):
    """Attention pooling with one learnt query, then a residual MLP (Lee et al. 2019, arXiv 1810.00825)."""

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.empty(config.width))
        self.attn = Attention(config.width, config.heads)
        self.ln = nn.LayerNorm(config.width, config.epsilon)
        self.mlp = MLP(config.width, config.mlp_width, config.activation)

    def initialise(self, generator: Generator) -> None:
        """Draw the query with the published standard deviation."""
        fill_normal(self.probe, self.probe.shape[0] ** -0.5, generator)

    def forward(self, x_NPD: Tensor) -> Tensor:
        """(N, P, D) -> (N, D)."""
        x_ND = self.attn.pool(x_NPD, self.probe.expand(x_NPD.shape[0], -1), None)
        return x_ND + self.mlp(self.ln(x_ND))


class SigLIPVisionTransformer(nn.Module):
    """A vision transformer without class token and projection, pooled by attention."""

    def __init__(self, config: SigLIPConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, config.width, config.patch_size_px, config.patch_size_px)
        self.positional_embedding = nn.Parameter(torch.empty(config.grid**2, config.width))
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(config.width, config.epsilon)
        self.attn_pool = AttentionPool(config)

    def initialise(self, generator: Generator) -> None:
        """Draw the positional embedding with the published standard deviation."""
        fill_normal(self.positional_embedding, self.positional_embedding.shape[1] ** -0.5, generator)

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, E), where E is the width of the tower."""
        x_NPD = self.conv1(pixels).flatten(2).transpose(1, 2) + self.positional_embedding
        return self.attn_pool(self.ln_post(self.transformer(x_NPD)))
