"""Token ids are compared with those of open_clip's tokenizer, on captions and on texts that are hard to tokenize."""

import gzip
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.parity.peers import has_open_clip, open_clip
from tests.text.nasty import HARD, nasty_texts
from wordsight.text import Tokenizer, clip_tokenizer, tokenize
from wordsight.text.byte_pairs import BytePairEncoder, clip_encoder

pytestmark = pytest.mark.skipif(not has_open_clip(), reason="needs open_clip (requirements-peers.txt)")


@pytest.fixture(scope="module")
def peer() -> Any:
    return open_clip().tokenizer.SimpleTokenizer()


def captions(directory: Path, count: int) -> list[str]:
    with tarfile.open(directory / "flickr8k-train.tar") as archive:
        file = archive.extractfile("flickr8k-train/captions.jsonl")
        assert file is not None
        return [caption for line in file for caption in json.loads(line)["captions"]][:count]


def test_merges_are_those_published():
    path = Path(open_clip().tokenizer.default_bpe())
    lines = gzip.decompress(path.read_bytes()).decode().split("\n")[1:48_895]
    symbols, (left, right) = clip_encoder()._symbols, clip_encoder().merges
    assert [f"{symbols[one]} {symbols[other]}" for one, other in zip(left, right, strict=True)] == lines


def test_the_vocabulary_equals_open_clips(peer: Any):
    assert peer.encoder == clip_encoder()._id_of_symbol


def test_ids_of_20000_captions_equal_open_clips(peer: Any, shared_data: Path):
    texts = captions(shared_data, 20_000)
    assert len(texts) == 20_000
    assert np.array_equal(tokenize(texts), peer(texts).numpy())


def test_the_corpus_has_at_least_60_hard_texts():
    assert len(HARD) >= 60


@pytest.mark.parametrize("name", HARD)
def test_ids_of_a_hard_text_equal_open_clips(peer: Any, name: str):
    text = HARD[name]
    assert clip_tokenizer().encode(text) == peer.encode(text)
    assert np.array_equal(tokenize(text), peer(text).numpy())
    assert np.array_equal(tokenize(text, context_length=8), peer(text, context_length=8).numpy())


def test_ids_of_random_texts_equal_open_clips(peer: Any):
    for text in nasty_texts(seed=3, count=4000):
        assert clip_tokenizer().encode(text) == peer.encode(text), ascii(text)


def test_ids_of_every_basic_multilingual_plane_character_equal_open_clips(peer: Any):
    for start in range(0, 0x10000, 64):
        text = "".join(f"x{chr(code)}'{chr(code)}s1 {chr(code)} " for code in range(start, start + 64))
        assert clip_tokenizer().encode(text) == peer.encode(text), hex(start)


def test_decoded_texts_equal_open_clips(peer: Any):
    generator = random.Random(4)
    for _ in range(2000):
        ids = generator.choices(range(49_408), k=generator.randint(0, 20)) + generator.choices(
            range(512), k=generator.randint(0, 5)
        )
        assert clip_tokenizer().decode(ids) == peer.decode(ids)
    for text in HARD.values():
        ids = peer.encode(text)
        assert clip_tokenizer().decode(ids) == peer.decode(ids)


def test_negative_control_two_swapped_merges_change_ids(peer: Any):
    swapped = clip_encoder().merges.copy()
    swapped[:, [0, 1]] = swapped[:, [1, 0]]
    texts = list(HARD.values())
    assert np.array_equal(Tokenizer(encoder=BytePairEncoder(clip_encoder().merges))(texts), peer(texts).numpy())
    assert not np.array_equal(Tokenizer(encoder=BytePairEncoder(swapped))(texts), peer(texts).numpy())
