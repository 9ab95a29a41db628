"""Packing: original bytes, broken images, unique keys, selection, and the real archives."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from PIL import Image

from wordsight.data.pack import PackOptions, key_of, pack, read_keys
from wordsight.data.records import InputOptions, open_source
from wordsight.data.shard_reader import open_shards
from wordsight.errors import DataError, OutputError

Images = Callable[..., bytes]


def write_source(root: Path, images: dict[str, bytes], captions: dict[str, object] | None = None) -> Path:
    root.mkdir(parents=True)
    for name, content in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    captions = captions if captions is not None else {name: [f"text of {name}"] for name in images}
    lines = [json.dumps({"file": name, "captions": texts}) + "\n" for name, texts in captions.items()]
    (root / "captions.jsonl").write_text("".join(lines))
    return root


def test_original_bytes_are_kept_and_broken_images_are_listed(tmp_path: Path, image: Images) -> None:
    images = {
        "a.JPG": image(1),
        "b.png": image(2, file_format="PNG"),
        "liar.jpg": image(3, file_format="WEBP"),
        "cut.jpg": image(4, (300, 200))[:700],
        "empty.jpg": b"",
        "text.jpg": b"hello",
    }
    summary = pack(open_source(write_source(tmp_path / "in", images)), tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    samples = {sample.key: sample for sample in map(shards.sample, range(len(shards)))}
    assert {key: sample.image for key, sample in samples.items()} == {
        "a": images["a.JPG"],
        "b": images["b.png"],
        "liar": images["liar.jpg"],
    }
    assert samples["a"].captions == ("text of a.JPG",)
    assert (summary.samples, summary.skipped, summary.shards) == (3, 3, 1)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == ["cut", "empty", "text"]
    assert all(line["shard"] == f"{line['key']}.jpg" and line["reason"] for line in lines)
    assert not any(line["reason"].startswith(line["shard"]) for line in lines)


def test_larger_images_are_reduced_and_smaller_ones_kept(tmp_path: Path, image: Images) -> None:
    images = {
        "wide.png": image(1, (120, 40), "PNG"),
        "tall.jpg": image(2, (50, 111)),
        "small.png": image(3, (30, 9), "PNG"),
    }
    pack(open_source(write_source(tmp_path / "in", images)), tmp_path / "out", PackOptions(size_px=32))
    shards = open_shards(tmp_path / "out")
    packed = {sample.key: sample.image for sample in map(shards.sample, range(3))}
    opened = {key: Image.open(io.BytesIO(content)) for key, content in packed.items()}
    assert {key: (image.size, image.format) for key, image in opened.items()} == {
        "wide": ((96, 32), "JPEG"),
        "tall": ((32, 71), "JPEG"),
        "small": ((30, 9), "PNG"),
    }
    assert packed["small"] == images["small.png"]


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("a/b.jpg", "a/b"),
        ("a.b.c.jpg", "a_b_c"),
        ("./x//y.png", "x/y"),
        ("v1.2/y.png", "v1.2/y"),
        ("../secret/a.jpg", "a"),
        ("/home/me/a.jpg", "a"),
        (".jpg", "_jpg"),
        ("..", "_"),
        ("", "_"),
        ("a\nb\udcff.jpg", "a_b_"),
        ("row-000000001", "row-000000001"),
    ],
)
def test_keys_are_usable_member_names(file: str, key: str) -> None:
    assert key_of(file) == key


def test_files_with_the_same_stem_get_different_keys(tmp_path: Path, image: Images) -> None:
    images = {
        "a.jpg": image(1),
        "a.png": image(2, file_format="PNG"),
        "a_2.jpg": image(3),
        "a.webp": image(4, file_format="WEBP"),
    }
    pack(open_source(write_source(tmp_path / "in", images)), tmp_path / "out")
    shards = open_shards(tmp_path / "out")
    captions = {shards.sample(number).key: shards.sample(number).captions[0] for number in range(4)}
    assert sorted(captions) == ["a", "a_2", "a_2_2", "a_3"]
    assert sorted(captions.values()) == sorted(f"text of {name}" for name in images)


def test_exclude_and_only_divide_a_source(tmp_path: Path, image: Images) -> None:
    directory = write_source(tmp_path / "in", {f"p{number}.jpg": image(number) for number in range(6)})
    held = tmp_path / "held.txt"
    held.write_text("p1\np4.jpg\n\nnot-there\n")
    keys = read_keys(held)
    rest = pack(open_source(directory), tmp_path / "rest", PackOptions(exclude=keys))
    out = pack(open_source(directory), tmp_path / "held", PackOptions(only=keys))
    assert (rest.samples, rest.left_out, rest.not_found) == (4, 2, 1)
    assert (out.samples, out.left_out, out.not_found) == (2, 4, 1)
    names = [
        {s.sample(i).key for i in range(len(s))}
        for s in (open_shards(tmp_path / "rest"), open_shards(tmp_path / "held"))
    ]
    assert names == [{"p0", "p2", "p3", "p5"}, {"p1", "p4"}]


@pytest.mark.parametrize("content", [b"", b"\n", b"[]", b"[1]", b"[", b"\xff"])
def test_files_without_keys_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "keys").write_bytes(content)
    with pytest.raises(DataError, match=str(tmp_path / "keys")):
        read_keys(tmp_path / "keys")


def test_packing_is_deterministic(tmp_path: Path, image: Images) -> None:
    directory = write_source(tmp_path / "in", {f"{number}.jpg": image(number, (90, 80)) for number in range(30)})
    for name in ("one", "two"):
        pack(open_source(directory), tmp_path / name, PackOptions(size_px=32, max_samples=7))
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert len(one) == 5 + 2


def test_a_source_without_usable_images_is_a_one_line_error_and_leaves_nothing(tmp_path: Path) -> None:
    directory = write_source(tmp_path / "in", {"a.jpg": b"junk", "b.jpg": b"junk"})
    with pytest.raises(DataError, match="no sample could be packed, 2 skipped; the first: a: "):
        pack(open_source(directory), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match="size 0 px"):
        pack(open_source(directory), tmp_path / "out", PackOptions(size_px=0))


def test_another_directory_is_refused_before_any_work(tmp_path: Path, image: Images) -> None:
    directory = write_source(tmp_path / "in", {"a.jpg": image()})
    with pytest.raises(OutputError, match="not one of our shards"):
        pack(open_source(directory), directory)
    assert sorted(path.name for path in directory.iterdir()) == ["a.jpg", "captions.jsonl"]


def test_shards_can_be_packed_again_without_some_samples(make_shards: Callable[..., Path], tmp_path: Path) -> None:
    pack(open_source(make_shards("set", [3, 2])), tmp_path / "out", PackOptions(exclude=frozenset({"set0001"})))
    shards = open_shards(tmp_path / "out")
    assert [shards.sample(number).key for number in range(4)] == ["set0000", "set0002", "set0003", "set0004"]


def test_progress_counts_every_record(tmp_path: Path, image: Images) -> None:
    images = {f"{number}.jpg": image(number) for number in range(9)} | {"x.jpg": b"junk"}
    directory = write_source(tmp_path / "in", images)
    counts: list[int] = []
    pack(open_source(directory), tmp_path / "out", PackOptions(exclude=frozenset({"3"})), counts.append)
    assert counts[-1] == 10
    assert counts == sorted(counts)


@pytest.mark.parametrize(
    ("archive", "names", "samples", "texts"),
    [
        ("flickr8k-val", None, 1000, 5),
        ("illus-circle-flags", None, 255, 2),
        ("mnist", None, 2000, 1),
        ("tiny-imagenet-eval", "tiny-imagenet-names.json", 5000, 0),
    ],
)
def test_the_real_archives_can_be_packed_completely(
    archive: str, names: str | None, samples: int, texts: int, shared_data: Path, tmp_path: Path
) -> None:
    options = InputOptions(names=shared_data / names if names else None)
    source = open_source(shared_data / f"{archive}.tar", options)
    records = list(source.records)
    assert (len(records), {record.problem for record in records}) == (samples, {""})
    counts = {len(record.texts.captions) + len(record.texts.names) for record in records}
    assert counts == {texts} if texts else len(counts) > 1
    part = open_source(shared_data / f"{archive}.tar", options)
    keys = frozenset(record.file for record in records[:20])
    assert pack(part, tmp_path / "out", PackOptions(only=keys)).samples == 20


@pytest.mark.parametrize("layout", ["captions", "classes"])
def test_names_that_are_not_utf8_end_no_run(tmp_path: Path, image: Images, layout: str) -> None:
    source = tmp_path / "source"
    names = ["\udcffx", "a\nb", "a\tb", "c\x1b[31m", "é" * 120, "d"]
    for number, name in enumerate(names):
        directory = source if layout == "captions" else source / f"{name}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.jpg").write_bytes(image(number))
        (directory / f"{name}\udcfe.jpg").write_bytes(b"broken")
        if layout == "captions":
            for stem in (name, f"{name}\udcfe"):
                (directory / f"{stem}.txt").write_text("a caption")
    summary = pack(open_source(source), tmp_path / "out")
    assert (summary.samples, summary.skipped) == (len(names), len(names))
    msgspec.json.encode(summary)
    lines = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text("utf-8").splitlines()]
    assert len(lines) == len(names)
    assert all("\\udcfe.jpg" in line["shard"] for line in lines)
    shards = open_shards(tmp_path / "out")
    labels = {shards.sample(number).names[:1] for number in range(len(shards))}
    assert labels == ({()} if layout == "captions" else {(name.replace("\udcff", "\\udcff"),) for name in names})
