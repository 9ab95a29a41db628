"""The transformer of both towers, with the names of the published weights (`resblocks.0.attn.in_proj_weight`).

Pre-norm blocks of attention and a two-layer perceptron. A tower reads one token at its end, so the last block
computes that token alone: its keys and values see every token, the query, the output projection and the perceptron
see one. The result is the same and a sixth of a six-layer tower is saved.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.model.config import Activation

QUICK_GELU_SLOPE = 1.702


class Attention(nn.Module):
    """Multi-head self-attention; query, key and value come of one matrix, in this order."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x_NLD: Tensor, is_causal: bool) -> Tensor:
        """(N, L, D) -> (N, L, D)."""
        n, length, width = x_NLD.shape
        projected = F.linear(x_NLD, self.in_proj_weight, self.in_proj_bias)
        query, key, value = projected.view(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        return self.out_proj(mixed.transpose(1, 2).reshape(n, length, width))

    def pool(self, x_NLD: Tensor, token_ND: Tensor, visible_NL: Tensor | None) -> Tensor:
        """What one token a sequence takes from the others: (N, L, D), (N, D) -> (N, D)."""
        n, length, width = x_NLD.shape
        weights = self.in_proj_weight.split([width, 2 * width])
        biases = self.in_proj_bias.split([width, 2 * width])
        query = F.linear(token_ND, weights[0], biases[0]).view(n, self.heads, 1, -1)
        projected = F.linear(x_NLD, weights[1], biases[1])
        key, value = projected.view(n, length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        mask = None if visible_NL is None else visible_NL[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out_proj(mixed.reshape(n, width))


class Perceptron(nn.Module):
    """Four times as wide inside, with the activation between."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        hidden = self.c_fc(x)
        hidden = F.gelu(hidden) if self.activation == "gelu" else hidden * torch.sigmoid(QUICK_GELU_SLOPE * hidden)
        return self.c_proj(hidden)


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
        """Row `position_N` of a causal `forward`, or row 0 of one that is not: (N, L, D) -> (N, D)."""
        normed = self.ln_1(x_NLD)
        if position_N is None:
            token, visible, x_ND = normed[:, 0], None, x_NLD[:, 0]
        else:
            rows = torch.arange(len(x_NLD), device=x_NLD.device)
            token, x_ND = normed[rows, position_N], x_NLD[rows, position_N]
            visible = torch.arange(x_NLD.shape[1], device=x_NLD.device) <= position_N[:, None]
        x_ND = x_ND + self.attn.pool(normed, token, visible)
        return x_ND + self.mlp(self.ln_2(x_ND))


class Transformer(nn.Module):
    """A stack of blocks."""

    def __init__(self, width: int, heads: int, layers: int, activation: Activation) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))

    def forward(self, x_NLD: Tensor, position_N: Tensor | None = None) -> Tensor:
        """One token of each sequence after all blocks: (N, L, D) -> (N, D).

        With `position_N` (int64) attention is causal and the token is the one there; without, every token sees all
        and the token is the first.
        """
        *blocks, last = self.resblocks
        for block in blocks:
            x_NLD = block(x_NLD, position_N is not None)
        return last.pool(x_NLD, position_N)
