"""Classifier weights are computed once and cached on disk; a damaged cache file is computed again."""

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import tiny_clip

from wordsight.encoder import DualEncoder
from wordsight.zeroshot import TEMPLATES, ZeroShotClassifier

# the model's context of 12 ids is too short for the longest templates
pytestmark = pytest.mark.filterwarnings("ignore:.* longer than the model's context")

NAMES = [f"kind {number}" for number in range(13)]  # 1,040 texts with the 80 ImageNet templates


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    return tmp_path / "classifiers"


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of texts embedded by each call."""
    sizes: list[int] = []
    embed = DualEncoder.embed_texts

    def embed_and_count(self: DualEncoder, texts: list[str]) -> np.ndarray:
        sizes.append(len(texts))
        return embed(self, texts)

    monkeypatch.setattr(DualEncoder, "embed_texts", embed_and_count)
    return sizes


def test_weights_are_computed_once_and_loaded_bitwise_equal(directory: Path, batch_sizes: list[int]) -> None:
    first = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    second = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    assert batch_sizes == [1040]
    assert np.array_equal(first, second)
    assert not second.flags.writeable
    assert len(list(directory.iterdir())) == 1


def test_other_labels_templates_or_model_weights_miss_the_cache(directory: Path, batch_sizes: list[int]) -> None:
    ZeroShotClassifier(tiny_clip(), NAMES, "imagenet")
    ZeroShotClassifier(tiny_clip(), [*NAMES[1:], "another"], "imagenet")
    ZeroShotClassifier(tiny_clip(), NAMES[::-1], "imagenet")
    ZeroShotClassifier(tiny_clip(), NAMES, [*TEMPLATES["imagenet"][1:], "{}"])
    ZeroShotClassifier(tiny_clip(seed=1), NAMES, "imagenet")
    assert batch_sizes == [1040] * 5
    assert len(list(directory.iterdir())) == 5


def test_few_texts_and_a_disabled_cache_write_no_file(directory: Path, batch_sizes: list[int]) -> None:
    ZeroShotClassifier(tiny_clip(), NAMES, "photo")
    ZeroShotClassifier(tiny_clip(), NAMES, "imagenet", cache=False)
    assert batch_sizes == [13, 1040]
    assert not directory.exists()


def array_that_claims_40_tb() -> bytes:
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000000, 1), }".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode()


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00", array_that_claims_40_tb(), None])
def test_a_damaged_cache_file_is_computed_again(directory: Path, content: bytes | None) -> None:
    first = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    (file,) = directory.iterdir()
    if content is None:
        np.save(file, np.zeros_like(first))  # the right shape, but not of unit length
    else:
        file.write_bytes(content)
    assert np.array_equal(ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights, first)
    assert np.array_equal(np.load(file), first)


def test_an_unwritable_cache_does_not_prevent_building_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "file"))
    assert ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights.shape == (13, 8)


def saved(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "change",
    [
        lambda content, weights: saved(weights[::-1]),
        lambda content, weights: saved(weights[::-1]) + content[-32:],
        lambda content, weights: content[:128] + weights[::-1].tobytes() + content[-32:],
        lambda content, weights: saved(weights),
        lambda content, weights: content[:-1],
        lambda content, weights: content + b"x",
        lambda content, weights: saved(weights.astype(np.float64)) + content[-32:],
        lambda content, weights: saved(weights.T.copy().T) + content[-32:],
    ],
)
def test_a_cache_file_without_the_hash_of_its_contents_is_computed_again(
    directory: Path, batch_sizes: list[int], change: Callable[[bytes, np.ndarray], bytes]
) -> None:
    first = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    (file,) = directory.iterdir()
    content = file.read_bytes()
    file.write_bytes(change(content, first))
    assert np.array_equal(ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights, first)
    assert batch_sizes == [1040, 1040]
    assert file.read_bytes() == content
