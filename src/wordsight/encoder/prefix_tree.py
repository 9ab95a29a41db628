"""Texts through a causal tower with no position computed twice, and none that is padding.

In a causal tower a token's state depends on the tokens before it alone. So texts form a tree: those that begin alike
share the nodes of their common beginning ("a photo of a", which every label of a template has), and a node is computed
once. Everything but attention works on the flat list of nodes; attention gathers each text's path through the tree,
which is little work beside the rest as long as texts are short.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wordsight.model import CLIP
from wordsight.model.text import text_position
from wordsight.model.transformer import Block

NODES_AT_ONCE = 2048


@dataclass(frozen=True)
class PrefixTree:
    """N texts as T nodes; the nodes lie in the order of the sorted texts.

    Attributes:
        rows: (N,) int64, which of the given texts each row is.
        ids: (T,) int64, the token of each node.
        depth: (T,) int64, its place in the text.
        path: (N, L) int64, the node at each place of a text; behind its end any node.
        ends: (N,) int64, the place that is read.
        first: (T,) int64, where in the flattened `path` each node is met first.
    """

    rows: Tensor
    ids: Tensor
    depth: Tensor
    path: Tensor
    ends: Tensor
    first: Tensor


def sort_texts(ids_NL: NDArray[np.int32], ends_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order in which texts that begin alike are neighbours, and how many tokens each shares with the one before it.

    Of two equal texts the second shares all but the token that is read, so that each has a node of its own.
    """
    order_N = np.lexsort(ids_NL.T[::-1])
    sorted_NL, ends_N = ids_NL[order_N], ends_N[order_N]
    differs_NL = sorted_NL[1:] != sorted_NL[:-1]
    shared_N = np.where(differs_NL.any(axis=1), differs_NL.argmax(axis=1), ids_NL.shape[1])
    shared_N = np.minimum(shared_N, np.minimum(ends_N[1:], ends_N[:-1]))
    return order_N, np.concatenate([[0], shared_N])


def build_trees(
    ids_NL: Tensor, ends_N: Tensor, shares: bool = True, most_nodes: int = NODES_AT_ONCE
) -> Iterator[PrefixTree]:
    """Texts in trees of at most `most_nodes` nodes, or one text; `shares` False gives each text nodes of its own."""
    ids, ends = ids_NL.numpy(), ends_N.numpy()
    order, shared = sort_texts(ids, ends)
    if not shares:
        order, shared = np.argsort(ends, kind="stable"), np.zeros_like(shared)
    ids, ends = ids[order], ends[order]
    new_nodes = ends + 1 - shared
    begin = 0
    while begin < len(order):
        counts = np.cumsum(new_nodes[begin:]) + shared[begin]
        end = begin + max(1, int(np.searchsorted(counts, most_nodes, side="right")))
        length = int(ends[begin:end].max()) + 1
        starts = shared[begin:end].copy()
        starts[0] = 0
        yield _tree(order[begin:end], ids[begin:end, :length], ends[begin:end], starts)
        begin = end


def _tree(
    rows: NDArray[np.int64], ids_NL: NDArray[np.int32], ends_N: NDArray[np.int64], shared_N: NDArray[np.int64]
) -> PrefixTree:
    place_L = np.arange(ids_NL.shape[1])
    is_new_NL = (place_L >= shared_N[:, None]) & (place_L <= ends_N[:, None])
    number_NL = np.cumsum(is_new_NL).reshape(is_new_NL.shape) - 1
    # a text shares with the one before it what it has not new, so the last new node above is its own
    path_NL = np.maximum.accumulate(np.where(is_new_NL, number_NL, 0), axis=0)
    first_T = np.flatnonzero(is_new_NL)
    tensors = (rows, ids_NL[is_new_NL], first_T % len(place_L), path_NL, ends_N, first_T)
    return PrefixTree(*(torch.from_numpy(np.ascontiguousarray(one, np.int64)) for one in tensors))


def encode_texts(model: CLIP, ids_NL: Tensor, shares: bool = True) -> Tensor:
    """`model.encode_text` for a tower that is causal and read at the end of text: (N, L) -> (N, E), on its device."""
    device = model.positional_embedding.device
    ends_N = text_position(ids_NL, model.config.text)
    x_ND = torch.empty(len(ids_NL), model.config.text.width, device=device, dtype=model.positional_embedding.dtype)
    for tree in build_trees(ids_NL, ends_N, shares):
        x_ND[tree.rows.to(device)] = _read_ends(model, tree)
    return model.project_text(x_ND)


def _read_ends(model: CLIP, tree: PrefixTree) -> Tensor:
    """The state of the read token of each text after all blocks: (N, D)."""
    device = model.positional_embedding.device
    ids, depth, path, first = (one.to(device) for one in (tree.ids, tree.depth, tree.path, tree.first))
    x_TD = model.token_embedding(ids) + model.positional_embedding[depth]
    *blocks, last = model.transformer.blocks()
    for block in blocks:
        x_TD = _through(block, x_TD, path, first)
    return _read(last, x_TD, path, tree.ends.to(device))


def _through(block: Block, x_TD: Tensor, path_NL: Tensor, first_T: Tensor) -> Tensor:
    """`Block.forward`, causal, on the nodes of a tree."""
    attention = block.attn
    projected_TE = attention.project(block.ln_1(x_TD))
    n, length = path_NL.shape
    query, key, value = projected_TE[path_NL].view(n, length, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    mixed_TD = mixed.transpose(1, 2).reshape(n * length, -1)[first_T]
    x_TD = x_TD + block.ls_1(attention.out_proj(mixed_TD))
    return x_TD + block.ls_2(block.mlp(block.ln_2(x_TD)))


def _read(block: Block, x_TD: Tensor, path_NL: Tensor, ends_N: Tensor) -> Tensor:
    """`Block.read` on the nodes of a tree: all give keys and values, the texts' ends alone ask: (T, D) -> (N, D)."""
    attention = block.attn
    n, length = path_NL.shape
    width = x_TD.shape[1]
    end_nodes_N = path_NL[torch.arange(n, device=path_NL.device), ends_N]
    normed_TD = block.ln_1(x_TD)
    query = attention.project_query(normed_TD[end_nodes_N]).view(n, attention.heads, 1, -1)
    key, value = (
        attention.project_pairs(normed_TD)[path_NL].view(n, length, 2, attention.heads, -1).permute(2, 0, 3, 1, 4)
    )
    is_seen = (torch.arange(length, device=path_NL.device) <= ends_N[:, None])[:, None, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=is_seen)
    x_ND = x_TD[end_nodes_N] + block.ls_1(attention.out_proj(mixed.reshape(n, width)))
    return x_ND + block.ls_2(block.mlp(block.ln_2(x_ND)))
