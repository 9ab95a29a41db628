"""A classifier of many texts is computed once, whatever else is asked; a damaged file is computed anew."""

from pathlib import Path

import numpy as np
import pytest
from tests.tiny_clip import tiny_clip

from wordsight.encoder import DualEncoder
from wordsight.zeroshot import TEMPLATES, ZeroShotClassifier

NAMES = [f"kind {number}" for number in range(13)]  # in the 80 templates: 1,040 texts


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path))
    return tmp_path / "classifiers"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call embedded."""
    calls: list[int] = []
    embed = DualEncoder.embed_texts

    def counted(self: DualEncoder, texts: list[str]) -> np.ndarray:
        calls.append(len(texts))
        return embed(self, texts)

    monkeypatch.setattr(DualEncoder, "embed_texts", counted)
    return calls


def test_it_is_computed_once_and_comes_back_in_equal_bits(directory: Path, asked: list[int]) -> None:
    first = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    again = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    assert asked == [1040]
    assert np.array_equal(first, again)
    assert not again.flags.writeable
    assert len(list(directory.iterdir())) == 1


def test_other_labels_templates_or_weights_are_computed(directory: Path, asked: list[int]) -> None:
    ZeroShotClassifier(tiny_clip(), NAMES, "imagenet")
    ZeroShotClassifier(tiny_clip(), [*NAMES[1:], "another"], "imagenet")
    ZeroShotClassifier(tiny_clip(), NAMES[::-1], "imagenet")
    ZeroShotClassifier(tiny_clip(), NAMES, [*TEMPLATES["imagenet"][1:], "{}"])
    ZeroShotClassifier(tiny_clip(seed=1), NAMES, "imagenet")
    assert asked == [1040] * 5
    assert len(list(directory.iterdir())) == 5


def test_few_texts_and_a_cache_that_is_off_leave_no_file(directory: Path, asked: list[int]) -> None:
    ZeroShotClassifier(tiny_clip(), NAMES, "photo")
    ZeroShotClassifier(tiny_clip(), NAMES, "imagenet", cache=False)
    assert asked == [13, 1040]
    assert not directory.exists()


@pytest.mark.parametrize("content", [b"", b"no array", b"\x93NUMPY\x01\x00", None])
def test_a_damaged_file_is_made_anew(directory: Path, content: bytes | None) -> None:
    first = ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights
    (file,) = directory.iterdir()
    if content is None:
        np.save(file, np.zeros_like(first))  # the shape is right, the numbers are not
    else:
        file.write_bytes(content)
    assert np.array_equal(ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights, first)
    assert np.array_equal(np.load(file), first)


def test_where_nothing_can_be_kept_the_classifier_is_there_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "file"))
    assert ZeroShotClassifier(tiny_clip(), NAMES, "imagenet").weights.shape == (13, 8)
