"""Splits of shards: sizes, equal images, labels that occur once, manifests, errors."""

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from wordsight.data import PackOptions, PackSummary, Split, open_shards, open_source, pack, parse_split
from wordsight.data.manifest import ManifestSplit, read_manifest
from wordsight.data.split import Splitter
from wordsight.errors import ConfigError, DataError, OutputError

Images = Callable[..., bytes]


def numbered(number: int, label: str = "") -> tuple[bytes, str]:
    return hashlib.sha256(number.to_bytes(4, "little")).digest(), label


def parts_of(images: list[tuple[bytes, str]], split: Split) -> list[str]:
    splitter = Splitter(split)
    return [splitter.part_of(*image) for image in images]


@pytest.fixture
def table(tmp_path: Path, image: Images) -> Path:
    """A table of 40 images of four labels, with a label that occurs once, and a copy of each of the first ten."""
    rows = []
    for number in range(40):
        (tmp_path / f"{number}.jpg").write_bytes(image(number))
        rows.append(f"{number}.jpg,title {number},{'lamp' if number == 39 else 'abcd'[number % 4]}")
    for number in range(10):
        (tmp_path / f"copy-{number}.jpg").write_bytes(image(number))
        rows.append(f"copy-{number}.jpg,copy {number},{'abcd'[number % 4]}")
    (tmp_path / "t.csv").write_text("image,title,category\n" + "\n".join(rows) + "\n")
    return tmp_path / "t.csv"


def packed(table: Path, out: Path, split: str = "0.7/0.3", seed: int = 0) -> PackSummary:
    return pack(open_source(table), out, PackOptions(split=parse_split(split, seed)))


def test_shares_are_those_asked_for_within_chance() -> None:
    images = [numbered(number) for number in range(2000)]
    shares = (0.8, 0.15, 0.05)
    parts = parts_of(images, Split(shares))
    for name, share in zip(("train", "val", "test"), shares, strict=True):
        deviation = math.sqrt(len(images) * share * (1 - share))
        assert abs(parts.count(name) - share * len(images)) < 4 * deviation


def test_draws_depend_on_the_seed_and_on_the_image_alone() -> None:
    images = [numbered(number) for number in range(300)]
    parts = parts_of(images, Split((0.5, 0.5)))
    assert parts_of(images[::-1], Split((0.5, 0.5)))[::-1] == parts
    assert parts_of(images[100:], Split((0.5, 0.5))) == parts[100:]
    other = parts_of(images, Split((0.5, 0.5), seed=1))
    assert 100 < sum(one == two for one, two in zip(parts, other, strict=True)) < 200


def test_a_larger_share_only_adds_images() -> None:
    images = [numbered(number) for number in range(500)]
    small, large = (parts_of(images, Split((share, 1 - share))) for share in (0.5, 0.6))
    assert all(two == "train" for one, two in zip(small, large, strict=True) if one == "train")


def test_the_draw_is_one_of_philox() -> None:
    """Computed here from SHA-256 and NumPy's Philox, so that the split can be reproduced by other programs."""
    images = [numbered(number) for number in range(50)]
    expected = []
    for digest, _ in images:
        low, high = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
        generator = np.random.Philox(key=np.array([7, 4], np.uint64), counter=np.array([0, 0, low, high], np.uint64))
        expected.append("train" if np.random.Generator(generator).random() < 0.7 else "val")
    assert parts_of(images, Split((0.7, 0.3), seed=7)) == expected


def test_the_first_image_of_each_label_is_in_train() -> None:
    images = [numbered(number, f"label {number // 3}") for number in range(600)]
    splitter = Splitter(Split((0.1, 0.9)))
    parts = [splitter.part_of(*image) for image in images]
    assert parts[::3] == ["train"] * 200
    assert parts.count("val") > 300
    assert splitter.notes() == []


def test_labels_that_occur_once_are_in_train_and_stated() -> None:
    images = [numbered(number, "common") for number in range(20)]
    images += [numbered(100 + number, f"rare {number}") for number in range(4)]
    splitter = Splitter(Split((0.1, 0.9)))
    assert [splitter.part_of(*image) for image in images][20:] == ["train"] * 4
    assert splitter.notes() == ["4 labels with a single image, in train: 'rare 0', 'rare 1', 'rare 2' and 1 more"]


def test_equal_images_with_different_labels_stay_together_and_the_missing_label_is_stated() -> None:
    split = Split((0.1, 0.9))
    images = [numbered(number, "common") for number in range(20)]
    number = next(number for number, part in enumerate(parts_of(images, split)) if part == "val")
    splitter = Splitter(split)
    parts = [splitter.part_of(*image) for image in [*images, numbered(number, "other")]]
    assert parts[-1] == parts[number] == "val"
    assert splitter.notes() == ["1 label without an image in train: 'other'"]


def test_equal_images_are_on_one_side_and_nothing_is_lost(table: Path, tmp_path: Path) -> None:
    summary = packed(table, tmp_path / "out")
    parts = {part.name: open_shards(tmp_path / "out" / part.name) for part in summary.parts}
    images = {name: {shards.sample(n).image for n in range(len(shards))} for name, shards in parts.items()}
    keys = [shards.sample(n).key for shards in parts.values() for n in range(len(shards))]
    assert list(parts) == ["train", "val"]
    assert images["train"] & images["val"] == set()
    assert len(images["train"] | images["val"]) == 40
    assert len(keys) == len(set(keys)) == summary.samples == 50
    assert summary.notes == ("1 label with a single image, in train: 'lamp'",)
    assert len(images["val"]) > 5


def test_the_size_of_the_packed_images_does_not_change_the_parts(table: Path, tmp_path: Path) -> None:
    def keys(size_px: int | None) -> list[str]:
        options = PackOptions(split=parse_split("0.5/0.5"), size_px=size_px)
        pack(open_source(table), tmp_path / "out", options)
        shards = open_shards(tmp_path / "out" / "val")
        return [shards.sample(number).key for number in range(len(shards))]

    assert keys(None) == keys(8)


def test_each_part_is_complete_and_records_the_split(table: Path, tmp_path: Path) -> None:
    packed(table, tmp_path / "out", "0.6/0.2/0.2", seed=3)
    shares = {"train": 0.6, "val": 0.2, "test": 0.2}
    for name in shares:
        manifest = read_manifest(tmp_path / "out" / name / "manifest.json")
        assert manifest is not None
        assert manifest.is_intact()
        assert manifest.split == ManifestSplit(name, shares, 3)
    pack(open_source(table), tmp_path / "whole")
    assert b"split" not in (tmp_path / "whole" / "manifest.json").read_bytes()


def test_a_split_is_reproduced_and_replaces_what_this_command_wrote(table: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"

    def contents() -> dict[str, bytes]:
        files = (path for path in out.rglob("*") if path.is_file() and path.suffix != ".index")
        return {str(path.relative_to(out)): path.read_bytes() for path in files}

    packed(table, out)
    first = contents()
    packed(table, out, "0.6/0.2/0.2")
    assert (out / "test").is_dir()
    pack(open_source(table), out)
    assert sorted(contents()) == ["000000.tar", "manifest.json", "skipped.jsonl"]
    packed(table, out)
    assert contents() == first


def test_shards_that_were_written_separately_are_not_replaced(table: Path, tmp_path: Path) -> None:
    pack(open_source(table), tmp_path / "out" / "train")
    for split in (Split((0.5, 0.5)), None):
        with pytest.raises(OutputError, match="contains 'train', which is not one of our shards"):
            pack(open_source(table), tmp_path / "out", PackOptions(split=split))
    packed(table, tmp_path / "other")
    (tmp_path / "other" / "val" / "notes.txt").touch()
    with pytest.raises(OutputError, match=r"contains .val/notes\.txt"):
        packed(table, tmp_path / "other")
    assert len(open_shards(tmp_path / "other" / "train")) > 20


def test_images_that_cannot_be_packed_are_listed_in_train(table: Path, tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(b"junk")
    assert packed(table, tmp_path / "out").skipped == 1
    assert "not an image" in (tmp_path / "out" / "train" / "skipped.jsonl").read_text()
    assert (tmp_path / "out" / "val" / "skipped.jsonl").read_text() == ""


def test_an_empty_part_is_refused_before_anything_is_written(table: Path, tmp_path: Path) -> None:
    packed(table, tmp_path / "out")
    before = (tmp_path / "out" / "train" / "manifest.json").read_bytes()
    with pytest.raises(DataError, match=r"a split into 0.999/0.001: val would be empty, with 50 samples in all"):
        packed(table, tmp_path / "out", "0.999/0.001")
    assert (tmp_path / "out" / "train" / "manifest.json").read_bytes() == before
    with pytest.raises(DataError, match="val would be empty"):
        packed(table, tmp_path / "new", "0.999/0.001")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.9/0.2", "a split into 0.9/0.2: the sum is 1.1; expected shares between 0 and 1 whose sum is 1"),
        ("90/10", "a split into 90/10: the sum is 100; expected"),
        ("1/0", "a split into 1/0: the sum is 1; expected shares between 0 and 1"),
        ("1.5/-0.5", "expected shares between 0 and 1"),
        ("nan/0.5", "expected shares between 0 and 1"),
        ("1", "a split into 1: expected two or three shares"),
        ("0.4/0.2/0.2/0.2", "expected two or three shares"),
        ("0,9/0,1", "a split into '0,9/0,1': expected shares with the sum 1"),
        ("", "a split into '': expected shares"),
    ],
)
def test_shares_that_are_no_split_are_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_split(text)
    assert message in str(caught.value)


def test_thirds_are_a_split() -> None:
    assert parse_split("0.3333333/0.3333333/0.3333334").shares[2] == 0.3333334
