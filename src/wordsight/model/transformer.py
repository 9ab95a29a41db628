"""The transformer of both towers, with the names of the published weights (`resblocks.0.attn.in_proj_weight`).

Pre-norm blocks of attention and a two-layer perceptron. A tower reads one token at its end, so the last block
computes that token alone: its keys and values see every token; its query, output projection and perceptron see one.
The result is the same, and most of a block is saved.
"""

import math
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import Activation
from wordsight.model.initialise import fill_normal, fill_uniform

QUICK_GELU_SLOPE = 1.702


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come of one matrix, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def initialise(self, generator: Generator) -> None:
        """As torch's MultiheadAttention, which the published code uses: Xavier over all three, biases 0."""
        rows, columns = self.in_proj_weight.shape
        fill_uniform(self.in_proj_weight, math.sqrt(6 / (rows + columns)), generator)
        nn.init.zeros_(self.in_proj_bias)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x_NLD: Tensor, is_causal: bool) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        n, length, width = x_NLD.shape
        projected = F.linear(x_NLD, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.view(n, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(n, length, width))

    def pool(self, x_NLD: Tensor, token_ND: Tensor, visible_NL: Tensor | None) -> Tensor:
        """What one token a sequence takes from those it sees (bool; None: all): (N, L, D), (N, D) -> (N, D)."""
        n, length, width = x_NLD.shape
        query_weight, pair_weight = self.in_proj_weight.split([width, 2 * width])
        query_bias, pair_bias = self.in_proj_bias.split([width, 2 * width])
        query = F.linear(token_ND, query_weight, query_bias).view(n, self.heads, 1, width // self.heads)
        projected = F.linear(x_NLD, pair_weight, pair_bias)
        key, value = projected.view(n, length, 2, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mask = None if visible_NL is None else visible_NL[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.reshape(n, width))


class Perceptron(nn.Module):
    """Two layers, four times as wide between, where the activation is."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D).

        quick_gelu(h) = h sigmoid(1.702 h) = silu(1.702 h) / 1.702. In training both factors go into the weights,
        which are smaller than a batch of activations and then kept once, not three times, for the way back.
        """
        if self.activation == "gelu":
            return self.c_proj(F.gelu(self.c_fc(x)))
        if torch.is_grad_enabled():
            hidden = F.linear(x, QUICK_GELU_SLOPE * self.c_fc.weight, QUICK_GELU_SLOPE * self.c_fc.bias)
            return F.linear(F.silu(hidden), self.c_proj.weight / QUICK_GELU_SLOPE, self.c_proj.bias)
        return self.c_proj(F.silu(QUICK_GELU_SLOPE * self.c_fc(x)) / QUICK_GELU_SLOPE)


class Block(nn.Module):
    """Attention and perceptron, each behind its normalisation and added to what came in."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = Perceptron(width, activation)

    def forward(self, x_NLD: Tensor, is_causal: bool) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        x_NLD = x_NLD + self.attn(self.ln_1(x_NLD), is_causal)
        return x_NLD + self.mlp(self.ln_2(x_NLD))

    def pool(self, x_NLD: Tensor, position_N: Tensor | None) -> Tensor:
        """Row `position_N` of a causal `forward`, or row 0 of one that is not (None): (N, L, D) -> (N, D)."""
        normed_NLD = self.ln_1(x_NLD)
        if position_N is None:
            x_ND, token_ND, visible_NL = x_NLD[:, 0], normed_NLD[:, 0], None
        else:
            rows_N = torch.arange(x_NLD.shape[0], device=x_NLD.device)
            x_ND, token_ND = x_NLD[rows_N, position_N], normed_NLD[rows_N, position_N]
            visible_NL = torch.arange(x_NLD.shape[1], device=x_NLD.device) <= position_N[:, None]
        x_ND = x_ND + self.attn.pool(normed_NLD, token_ND, visible_NL)
        return x_ND + self.mlp(self.ln_2(x_ND))


class Transformer(nn.Module):
    """A stack of blocks that is read at one token."""

    def __init__(self, width: int, heads: int, layers: int, activation: Activation) -> None:
        super().__init__()
        self.width = width
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def initialise_scaled(self, generator: Generator) -> None:
        """The published text tower's deviations: narrower where blocks add to the residual, by their number."""
        into_residual = self.width**-0.5 * (2 * len(self.resblocks)) ** -0.5
        for block in self._blocks():
            fill_normal(block.attn.in_proj_weight, self.width**-0.5, generator)
            fill_normal(block.attn.out_proj.weight, into_residual, generator)
            fill_normal(block.mlp.c_fc.weight, (2 * self.width) ** -0.5, generator)
            fill_normal(block.mlp.c_proj.weight, into_residual, generator)

    def forward(self, x_NLD: Tensor, position_N: Tensor | None = None) -> Tensor:
        """One token of each sequence after all blocks: (N, L, D) -> (N, D).

        With `position_N` (int64) attention is causal and the token is the one there; without, every token sees all
        and the token is the first.
        """
        *blocks, last = self._blocks()
        for block in blocks:
            x_NLD = block(x_NLD, position_N is not None)
        return last.pool(x_NLD, position_N)

    def _blocks(self) -> list[Block]:
        return cast(list[Block], list(self.resblocks))
