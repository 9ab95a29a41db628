"""The transformer of both towers, with the published parameter names (`resblocks.0.attn.in_proj_weight`).

It consists of pre-norm blocks of attention and an MLP. A tower that uses the output of one token only lets the last
block compute that token alone: keys and values are computed for every token; query, output projection and MLP for one.
The result is the same, and most of a block is saved.
"""

import math
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import Activation, TransformerShape
from wordsight.model.initialise import fill_normal, fill_uniform

QUICK_GELU_SLOPE = 1.702
INITIAL_LAYER_SCALE = 1e-5


class Attention(nn.Module):
    """Multi-head self-attention; one matrix projects to queries, keys and values, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def initialise(self, generator: Generator) -> None:
        """Initialise as torch's MultiheadAttention, which the published code uses: Xavier over all three, biases 0."""
        rows, columns = self.in_proj_weight.shape
        fill_uniform(self.in_proj_weight, math.sqrt(6 / (rows + columns)), generator)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def project(self, x: Tensor) -> Tensor:
        """Return queries, keys and values: (..., D) -> (..., 3 D)."""
        return F.linear(x, self.in_proj_weight, self.in_proj_bias)

    def project_query(self, x: Tensor) -> Tensor:
        """Return the queries alone: (..., D) -> (..., D)."""
        width = x.shape[-1]
        return F.linear(x, self.in_proj_weight[:width], self.in_proj_bias[:width])

    def project_keys_values(self, x: Tensor) -> Tensor:
        """Return keys and values: (..., D) -> (..., 2 D)."""
        width = x.shape[-1]
        return F.linear(x, self.in_proj_weight[width:], self.in_proj_bias[width:])

    def forward(self, x_NLD: Tensor, is_causal: bool, visible: Tensor | None) -> Tensor:
        """(N, L, D) -> (N, L, D).

        Args:
            is_causal: whether each token attends only to itself and earlier tokens.
            visible: (N, 1, L, L) bool, which tokens (last axis) each token attends to; None for all.
        """
        n, length, width = x_NLD.shape
        query, key, value = (
            self.project(x_NLD).view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, is_causal=is_causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(n, length, width))

    def pool(self, x_NLD: Tensor, token_ND: Tensor, visible_NL: Tensor | None) -> Tensor:
        """Return the attention output of one token per sequence: (N, L, D), (N, D) -> (N, D).

        Args:
            x_NLD: the tokens from which keys and values are computed.
            token_ND: the tokens from which queries are computed.
            visible_NL: bool, which tokens are attended to; None for all.
        """
        n, length, width = x_NLD.shape
        query = self.project_query(token_ND).view(n, self.heads, 1, width // self.heads)
        keys_values = self.project_keys_values(x_NLD)
        key, value = keys_values.view(n, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = None if visible_NL is None else visible_NL[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.reshape(n, width))


class MLP(nn.Module):
    """Two linear layers with an activation between them; the hidden layer is four times as wide by default."""

    def __init__(self, width: int, hidden_width: int | None, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden_width or 4 * width)
        self.c_proj = nn.Linear(hidden_width or 4 * width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D).

        quick_gelu(h) = h sigmoid(1.702 h) = silu(1.702 h) / 1.702. In training both factors are applied to the weights,
        which are smaller than a batch of activations; one activation instead of three is then kept for the backward
        pass.
        """
        if self.activation != "quick_gelu":
            return self.c_proj(F.gelu(self.c_fc(x), approximate="none" if self.activation == "gelu" else "tanh"))
        if torch.is_grad_enabled():
            hidden = F.linear(x, QUICK_GELU_SLOPE * self.c_fc.weight, QUICK_GELU_SLOPE * self.c_fc.bias)
            return F.linear(F.silu(hidden), self.c_proj.weight / QUICK_GELU_SLOPE, self.c_proj.bias)
        return self.c_proj(F.silu(QUICK_GELU_SLOPE * self.c_fc(x)) / QUICK_GELU_SLOPE)


class LayerScale(nn.Module):
    """Learnt factors on the output of one branch of a block (Touvron et al. 2021, arXiv 2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.empty(width))

    def initialise(self, generator: Generator) -> None:
        """Initialise the factors close to zero, as published."""
        nn.init.constant_(self.gamma, INITIAL_LAYER_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block: residual attention, then a residual MLP."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(shape.width, shape.epsilon)
        self.attn = Attention(shape.width, shape.heads)
        self.ls_1 = LayerScale(shape.width) if shape.layer_scale else nn.Identity()
        self.ln_2 = nn.LayerNorm(shape.width, shape.epsilon)
        self.mlp = MLP(shape.width, shape.mlp_width, shape.activation)
        self.ls_2 = LayerScale(shape.width) if shape.layer_scale else nn.Identity()

    def forward(self, x_NLD: Tensor, is_causal: bool = False, visible: Tensor | None = None) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        x_NLD = x_NLD + self.ls_1(self.attn(self.ln_1(x_NLD), is_causal, visible))
        return x_NLD + self.ls_2(self.mlp(self.ln_2(x_NLD)))

    def read(self, x_NLD: Tensor, position_N: Tensor, visible_NL: Tensor | None = None) -> Tensor:
        """Return the output of one token of each sequence only: (N, L, D) -> (N, D).

        Args:
            position_N: int64, the position of the token.
            visible_NL: bool, which tokens it attends to; None for all.
        """
        normed_NLD = self.ln_1(x_NLD)
        rows_N = torch.arange(x_NLD.shape[0], device=x_NLD.device)
        x_ND, token_ND = x_NLD[rows_N, position_N], normed_NLD[rows_N, position_N]
        x_ND = x_ND + self.ls_1(self.attn.pool(normed_NLD, token_ND, visible_NL))
        return x_ND + self.ls_2(self.mlp(self.ln_2(x_ND)))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, shape: TransformerShape) -> None:
        super().__init__()
        self.width = shape.width
        self.resblocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))

    def initialise_scaled(self, generator: Generator) -> None:
        """Draw the weights with the standard deviations of the published text tower.

        Layers whose output is added to the residual stream are scaled down by the number of blocks.
        """
        residual_std = self.width**-0.5 * (2 * len(self.resblocks)) ** -0.5
        for block in self.blocks():
            fill_normal(block.attn.in_proj_weight, self.width**-0.5, generator)
            fill_normal(block.attn.out_proj.weight, residual_std, generator)
            fill_normal(block.mlp.c_fc.weight, (2 * self.width) ** -0.5, generator)
            fill_normal(block.mlp.c_proj.weight, residual_std, generator)

    def forward(self, x_NLD: Tensor) -> Tensor:
        """Return all tokens after all blocks, with full attention: (N, L, D) -> (N, L, D)."""
        for block in self.blocks():
            x_NLD = block(x_NLD)
        return x_NLD

    def read(
        self, x_NLD: Tensor, position_N: Tensor, is_causal: bool = False, visible_NLL: Tensor | None = None
    ) -> Tensor:
        """Return one token of each sequence after all blocks: (N, L, D) -> (N, D).

        Args:
            position_N: int64, the position of the token.
            is_causal: whether each token attends only to itself and earlier tokens.
            visible_NLL: bool, which tokens (last axis) each token attends to, if neither all nor causal.
        """
        *blocks, last = self.blocks()
        visible = None if visible_NLL is None else visible_NLL[:, None]
        for block in blocks:
            x_NLD = block(x_NLD, is_causal, visible)
        if visible_NLL is not None:
            visible_NL = visible_NLL[torch.arange(x_NLD.shape[0], device=x_NLD.device), position_N]
        elif is_causal:
            visible_NL = torch.arange(x_NLD.shape[1], device=x_NLD.device) <= position_N[:, None]
        else:
            visible_NL = None
        return last.read(x_NLD, position_N, visible_NL)

    def blocks(self) -> list[Block]:
        """Return the blocks, first to last."""
        return cast(list[Block], list(self.resblocks))
