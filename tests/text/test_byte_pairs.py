"""Byte-pair encoding compared with its definition, and the published merges."""

import random
import time

import numpy as np
import pytest

from wordsight.text import byte_pairs
from wordsight.text.byte_pairs import END_OF_WORD, BytePairEncoder, clip_encoder


def merged_by_definition(ids: list[int], merges: list[tuple[int, int]]) -> list[int]:
    """Apply every merge in the order of the list, from left to right (Sennrich et al. 2016)."""
    for index, pair in enumerate(merges):
        position = 0
        while position < len(ids) - 1:
            if (ids[position], ids[position + 1]) == pair:
                ids = [*ids[:position], 512 + index, *ids[position + 2 :]]
            position += 1
    return ids


@pytest.fixture(scope="module")
def merges() -> np.ndarray:
    return clip_encoder().merges


def test_the_parts_of_a_merge_have_lower_ids_than_its_result(merges: np.ndarray):
    assert merges.shape == (2, 48_894)
    assert (merges < 512 + np.arange(merges.shape[1])).all()


def test_all_symbols_are_distinct():
    symbols = clip_encoder()._symbols
    assert len(symbols) == len(set(symbols)) == 49_408


def test_both_merge_algorithms_agree_with_the_definition():
    generator = random.Random(5)
    few = [(0, 0), (512, 0), (0, 1), (1, 2), (514, 2), (512, 512), (2, 1), (515, 513), (1, 1), (517, 0), (514, 514)]
    merged = {left << 16 | right: 512 + index for index, (left, right) in enumerate(few)}
    for _ in range(3000):
        ids = generator.choices((0, 1, 2), k=generator.randint(1, 20))
        expected = merged_by_definition(ids, few)
        assert byte_pairs._merge_short(ids.copy(), merged) == expected
        assert byte_pairs._merge_long(ids.copy(), merged) == expected


def test_both_merge_algorithms_agree_for_the_published_merges():
    encoder, generator = clip_encoder(), random.Random(6)
    for _ in range(1000):
        ids = generator.choices(range(512), k=generator.randint(1, 3)) + generator.choices(
            range(64, 94), k=generator.randint(1, 60)
        )
        expected = byte_pairs._merge_short(ids.copy(), encoder._merged)
        assert byte_pairs._merge_long(ids.copy(), encoder._merged) == expected


def test_looking_up_a_whole_word_equals_merging_it():
    encoder = clip_encoder()
    words = [(id, symbol) for id, symbol in enumerate(encoder._symbols) if symbol.endswith(END_OF_WORD)]
    assert len(words) == 34_483
    for id, symbol in words:
        ids = [encoder._id_of_symbol[character] for character in symbol.removesuffix(END_OF_WORD)]
        ids[-1] += 256
        assert byte_pairs._merge_short(ids, encoder._merged) == [id]


def test_swapping_two_merges_changes_ids(merges: np.ndarray):
    swapped = merges.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]  # "i n" and "t h"
    text = ["thin things in there"]
    assert BytePairEncoder(merges).pack(text) == clip_encoder().pack(text)
    assert BytePairEncoder(swapped).pack(text) != clip_encoder().pack(text)


def test_the_cache_of_words_is_bounded(merges: np.ndarray, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(byte_pairs, "_MAX_CACHED_WORDS", 50)
    encoder = BytePairEncoder(merges)
    texts = [f"{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxyz'[i // 100]} cat" for i in range(600)]
    assert encoder.pack(texts) == clip_encoder().pack(texts)
    assert len(encoder._word_cache) <= 50
    before = set(encoder._word_cache)
    encoder.pack(["x" * 10_000])
    assert set(encoder._word_cache) == before


def test_a_word_of_200000_letters_takes_seconds():
    generator = random.Random(7)
    word = "".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=200_000))
    start = time.process_time()
    clip_encoder().pack([word])
    assert time.process_time() - start < 20
