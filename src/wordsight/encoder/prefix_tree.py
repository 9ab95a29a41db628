"""Text encoding with a prefix tree: common prefixes are computed once, and padding is not computed at all.

In a causal text tower the state of a token depends only on the tokens before it. Texts therefore form a tree, in which
texts with a common prefix ("a photo of a", which all prompts of a template share) share its nodes, and each node is
computed once. All layers except attention work on the flat list of nodes. Attention gathers the path of each text
through the tree, which costs little compared with the other layers as long as texts are short.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wordsight.encoder.batch_sizes import batch_sizes
from wordsight.model import CLIP
from wordsight.model.text import text_position
from wordsight.model.transformer import Block


@dataclass(frozen=True)
class PrefixTree:
    """N texts as a tree of T nodes, numbered in the order of the sorted texts.

    Attributes:
        rows: (N,) int64, index of each text in the input.
        ids: (T,) int64, token id of each node.
        depth: (T,) int64, position of each node in its texts.
        path: (N, L) int64, node at each position of a text; arbitrary after its end.
        ends: (N,) int64, position of the token that the model reads.
        first: (T,) int64, first index of each node in the flattened `path`.
    """

    rows: Tensor
    ids: Tensor
    depth: Tensor
    path: Tensor
    ends: Tensor
    first: Tensor


def sort_texts(ids_NL: NDArray[np.int32], ends_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort texts such that those with a common prefix are adjacent.

    Args:
        ids_NL: token ids.
        ends_N: position of the token that the model reads.

    Returns:
        The order, (N,), and the number of tokens that each sorted text shares with the previous one, (N,). Of two
        equal texts, the second shares all tokens but the one that is read, so that each text has its own node to read.
    """
    order_N = np.lexsort(ids_NL.T[::-1])
    sorted_NL, ends_N = ids_NL[order_N], ends_N[order_N]
    differs_NL = sorted_NL[1:] != sorted_NL[:-1]
    shared_N = np.where(differs_NL.any(axis=1), differs_NL.argmax(axis=1), ids_NL.shape[1])
    shared_N = np.minimum(shared_N, np.minimum(ends_N[1:], ends_N[:-1]))
    return order_N, np.concatenate([[0], shared_N])


def build_trees(ids_NL: Tensor, ends_N: Tensor, max_nodes: int, shares: bool = True) -> Iterator[PrefixTree]:
    """Arrange texts in trees of at most `max_nodes` nodes each, or of one longer text.

    Args:
        ids_NL: int32 token ids, on the CPU.
        ends_N: int64, position of the token that the model reads.
        max_nodes: number of nodes that are computed together.
        shares: False gives every text its own nodes, for comparison.
    """
    ids, ends = ids_NL.numpy(), ends_N.numpy()
    order, shared = sort_texts(ids, ends)
    if not shares:
        order, shared = np.argsort(ends, kind="stable"), np.zeros_like(shared)
    ids, ends = ids[order], ends[order]
    new_nodes = ends + 1 - shared
    begin = 0
    while begin < len(order):
        counts = np.cumsum(new_nodes[begin:]) + shared[begin]
        end = begin + max(1, int(np.searchsorted(counts, max_nodes, side="right")))
        length = int(ends[begin:end].max()) + 1
        starts = shared[begin:end].copy()
        starts[0] = 0
        yield _tree(order[begin:end], ids[begin:end, :length], ends[begin:end], starts)
        begin = end


def _tree(
    rows: NDArray[np.int64], ids_NL: NDArray[np.int32], ends_N: NDArray[np.int64], shared_N: NDArray[np.int64]
) -> PrefixTree:
    position_L = np.arange(ids_NL.shape[1])
    is_new_NL = (position_L >= shared_N[:, None]) & (position_L <= ends_N[:, None])
    node_NL = np.cumsum(is_new_NL).reshape(is_new_NL.shape) - 1
    # a position without a new node is shared with the text above, whose node is the last new one in this column
    path_NL = np.maximum.accumulate(np.where(is_new_NL, node_NL, 0), axis=0)
    first_T = np.flatnonzero(is_new_NL)
    arrays = (rows, ids_NL[is_new_NL], first_T % len(position_L), path_NL, ends_N, first_T)
    return PrefixTree(*(torch.from_numpy(np.ascontiguousarray(array, np.int64)) for array in arrays))


def encode_texts(model: CLIP, ids_NL: Tensor, shares: bool = True) -> Tensor:
    """Compute `model.encode_text` with prefix trees: (N, L) int32 on the CPU -> (N, E) on the model's device.

    Args:
        model: its text tower is causal and is read at the end-of-text token.
        ids_NL: token ids.
        shares: False gives every text its own nodes, for comparison.
    """
    device = model.positional_embedding.device
    ends_N = text_position(ids_NL, model.config.text)
    x_ND = torch.empty(len(ids_NL), model.config.text.width, device=device, dtype=model.positional_embedding.dtype)
    for tree in build_trees(ids_NL, ends_N, batch_sizes(device.type).nodes, shares):
        x_ND[tree.rows.to(device)] = _read_ends(model, tree)
    return model.project_text(x_ND)


def _read_ends(model: CLIP, tree: PrefixTree) -> Tensor:
    """Return the state of the token that is read, after all blocks, for each text: (N, D)."""
    device = model.positional_embedding.device
    ids, depth, path, first = (tensor.to(device) for tensor in (tree.ids, tree.depth, tree.path, tree.first))
    x_TD = model.token_embedding(ids) + model.positional_embedding[depth]
    *blocks, last = model.transformer.blocks()
    for block in blocks:
        x_TD = _apply_block(block, x_TD, path, first)
    return _read_block(last, x_TD, path, tree.ends.to(device))


def _apply_block(block: Block, x_TD: Tensor, path_NL: Tensor, first_T: Tensor) -> Tensor:
    """Compute a causal `Block.forward` on the nodes of a tree: (T, D) -> (T, D)."""
    attention = block.attn
    projected_TE = attention.project(block.ln_1(x_TD))
    n, length = path_NL.shape
    query, key, value = projected_TE[path_NL].view(n, length, 3, attention.heads, -1).permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    mixed_TD = mixed.transpose(1, 2).reshape(n * length, -1)[first_T]
    x_TD = x_TD + block.ls_1(attention.out_proj(mixed_TD))
    return x_TD + block.ls_2(block.mlp(block.ln_2(x_TD)))


def _read_block(block: Block, x_TD: Tensor, path_NL: Tensor, ends_N: Tensor) -> Tensor:
    """Compute `Block.read` on the nodes of a tree: (T, D) -> (N, D).

    All nodes have keys and values, but only the tokens that are read have queries.
    """
    attention = block.attn
    n, length = path_NL.shape
    width = x_TD.shape[1]
    end_nodes_N = path_NL[torch.arange(n, device=path_NL.device), ends_N]
    normed_TD = block.ln_1(x_TD)
    query = attention.project_query(normed_TD[end_nodes_N]).view(n, attention.heads, 1, -1)
    key, value = (
        attention.project_keys_values(normed_TD)[path_NL].view(n, length, 2, attention.heads, -1).permute(2, 0, 3, 1, 4)
    )
    is_visible = (torch.arange(length, device=path_NL.device) <= ends_N[:, None])[:, None, None]
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=is_visible)
    x_ND = x_TD[end_nodes_N] + block.ls_1(attention.out_proj(mixed.reshape(n, width)))
    return x_ND + block.ls_2(block.mlp(block.ln_2(x_ND)))
