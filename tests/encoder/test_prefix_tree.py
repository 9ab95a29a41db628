"""A text tower that shares prefixes has the output of the plain one, and computes each shared prefix once."""

import numpy as np
import pytest
import torch
from tests.tiny_clip import tiny_clip

from wordsight.encoder.prefix_tree import PrefixTree, build_trees, encode_texts, sort_texts

#     start a  photo of a  cat end
IDS = [
    [90, 1, 2, 3, 1, 4, 99, 0],
    [90, 1, 2, 3, 1, 5, 99, 0],
    [90, 1, 2, 3, 1, 5, 6, 99],
    [90, 7, 99, 0, 0, 0, 0, 0],
    [90, 99, 0, 0, 0, 0, 0, 0],
    [90, 1, 2, 3, 1, 5, 99, 0],
]


def trees(shares: bool = True, max_nodes: int = 1000) -> list[PrefixTree]:
    ids = torch.tensor(IDS, dtype=torch.int32)
    return list(build_trees(ids, ids.argmax(1), max_nodes, shares))


def texts_of(tree: PrefixTree) -> dict[int, list[int]]:
    """The tokens of each text, collected along its path."""
    paths = [path[: end + 1] for path, end in zip(tree.path, tree.ends.tolist(), strict=True)]
    return {row: tree.ids[path].tolist() for row, path in zip(tree.rows.tolist(), paths, strict=True)}


@pytest.mark.parametrize("max_nodes", [1, 3, 12, 1000])
@pytest.mark.parametrize("shares", [True, False])
def test_the_paths_of_a_tree_are_the_texts(shares: bool, max_nodes: int) -> None:
    texts: dict[int, list[int]] = {}
    for tree in trees(shares, max_nodes):
        assert len(tree.ids) <= max(max_nodes, 8)
        texts |= texts_of(tree)
        length = tree.path.shape[1]
        assert torch.equal(tree.path.flatten()[tree.first], torch.arange(len(tree.ids)))
        assert torch.equal(tree.first % length, tree.depth)
    assert texts == {row: ids[: ids.index(99) + 1] for row, ids in enumerate(IDS)}


def test_a_shared_prefix_is_one_path_and_each_text_has_its_own_end() -> None:
    (tree,) = trees()
    # start; a photo of a; cat, end; 5, end, end (the same text twice); 6, end; 7, end; end
    assert len(tree.ids) == 1 + 4 + 2 + 3 + 2 + 2 + 1
    ends = tree.path[torch.arange(6), tree.ends]
    assert len(set(ends.tolist())) == 6
    (unshared,) = trees(shares=False)
    assert len(unshared.ids) == sum(ids.index(99) + 1 for ids in IDS)


def test_adjacent_texts_share_their_common_prefix_before_either_end() -> None:
    ids = np.array(IDS)
    order, shared = sort_texts(ids, ids.argmax(1))
    assert order.tolist() == [0, 2, 1, 5, 3, 4]
    assert shared.tolist() == [0, 5, 6, 6, 1, 1]


@pytest.mark.parametrize("shares", [True, False])
def test_the_output_is_that_of_the_plain_text_tower(shares: bool) -> None:
    clip = tiny_clip()
    templates = ["a photo of a {}.", "a photo of the {}.", "{}", "a {} in the sun"]
    names = ["cat", "dog", "black cat", "black dog", "cat", "x" * 200, ""]
    ids = torch.from_numpy(clip.tokenize([template.format(name) for template in templates for name in names]))
    with torch.inference_mode():
        plain, shared = clip.model.encode_text(ids.long()), encode_texts(clip.model, ids, shares)
        torch.testing.assert_close(shared, plain, rtol=0, atol=1e-6)
        assert (plain - plain.roll(1, 0)).abs().max() > 0.1


def test_no_texts_have_no_rows() -> None:
    clip = tiny_clip()
    with torch.inference_mode():
        assert encode_texts(clip.model, torch.zeros(0, 12, dtype=torch.int32)).shape == (0, 8)


def test_an_embedding_does_not_depend_on_the_rest_of_its_batch() -> None:
    clip = tiny_clip()
    texts = [f"a photo of a {word} number {number}" for word in ("cat", "dog", "bird") for number in range(40)]
    together = clip.embed_texts(texts)
    alone = np.concatenate([clip.embed_texts([text]) for text in texts])
    shuffled = np.random.Generator(np.random.Philox(key=3)).permutation(len(texts))
    assert np.abs(together - alone).max() < 1e-6
    assert np.abs(clip.embed_texts([texts[row] for row in shuffled]) - together[shuffled]).max() < 1e-6
