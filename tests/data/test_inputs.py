"""Input paths: the detection of their kind, and the images in directories, tables and shards."""

import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.tiny_clip import write_images

from wordsight.data import inputs
from wordsight.data import walk as module
from wordsight.data.inputs import count_image_files, count_images, detect_input, find_image_files, iter_images
from wordsight.data.records import open_source
from wordsight.data.sample import Sample
from wordsight.data.shard_writer import writing_shards
from wordsight.errors import DataError, ImageError
from wordsight.image import is_image_file

Images = Callable[..., bytes]
Tars = Callable[..., Path]


def touch(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a.jpg", True),
        ("a.b.JPEG", True),
        ("cats/1.hif", True),
        ("./d.1/x.tiff", True),
        ("jpg", False),
        (".jpg", False),
        (".a.jpg", False),
        ("cats/._1.png", False),
        ("a.jpg/x", False),
        ("a.txt", False),
        ("a.", False),
        ("", False),
    ],
)
def test_image_files_are_detected_by_suffix_unless_hidden(name: str, expected: bool) -> None:
    assert is_image_file(name) is expected


def test_the_kind_of_an_input_follows_from_its_content_or_suffix(
    tmp_path: Path, image: Images, write_tar: Tars
) -> None:
    members = [("a.jpg", image()), ("a.txt", b"a cat")]
    write_tar(tmp_path / "tars" / "000000.tar", members)
    write_tar(tmp_path / "images-and-tars" / "000000.tar", members)
    touch(tmp_path, "images-and-tars/below/a.jpg", "images/a.jpg", "foreign/manifest.json", "foreign/a.jpg")
    touch(tmp_path, "a.CSV", "a.jsonl", "a.jpg", "notes.txt", "film.mp4", "named.mp4/a.jpg", "named.tar/a.jpg")
    write_tar(tmp_path / "nested" / "below" / "000000.tar", members)
    with writing_shards(tmp_path / "packed") as writer:
        writer.add(Sample(key="a", image=image(), captions=("a cat",)))
        writer.finish()
    touch(tmp_path, "packed/extra.jpg")
    assert {path.name: detect_input(path) for path in tmp_path.iterdir() if path.name != "user-cache"} == {
        "tars": "shards",
        "packed": "shards",
        "images-and-tars": "directory",
        "images": "directory",
        "foreign": "directory",
        "nested": "directory",
        "named.mp4": "directory",
        "named.tar": "directory",
        "a.CSV": "table",
        "a.jsonl": "table",
        "film.mp4": "video",
        "a.jpg": "file",
        "notes.txt": "file",
    }


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("https://example.org/000000.tar", "shards"),
        ("missing/{000000..000003}.tar", "shards"),
        ("missing.tar", "tar"),
        ("missing.TAR", "tar"),
        ("missing.mkv", "video"),
        ("missing.csv", "file"),
        ("missing.jpg", "file"),
        ("missing", "file"),
    ],
)
def test_the_kind_of_a_missing_or_remote_input_follows_from_its_name(path: str, kind: str) -> None:
    assert detect_input(path) == kind


@pytest.mark.parametrize("kind", ["directory", "tar", "range"])
def test_images_in_shards_of_other_programs_need_no_text(
    kind: str, tmp_path: Path, image: Images, write_tar: Tars
) -> None:
    members = [("a.jpg", image(0)), ("a.cls", b"3"), ("b.jpg", image(1)), ("c.jpg", image(2)), ("c.txt", b"")]
    tar = write_tar(tmp_path / "set" / "000000.tar", members)
    path = {"directory": tar.parent, "tar": tar, "range": tar.with_name("{000000..000000}.tar")}[kind]
    refs = list(iter_images([path]))
    assert [ref.name for ref in refs] == [f"{tar} {row}" for row in range(3)]
    assert [pickle.loads(pickle.dumps(ref.read))() for ref in refs] == [image(number) for number in range(3)]
    assert count_images([path]) == 3


def test_a_sample_without_an_image_is_an_image_error(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    refs = list(iter_images([write_tar(tmp_path / "s.tar", [("a.txt", b"x"), ("b.jpg", image())])]))
    with pytest.raises(ImageError, match=r"s\.tar: a: no image: text only"):
        refs[0].read()
    assert refs[1].read() == image()


def test_inputs_of_all_kinds_form_one_stream(
    tmp_path: Path, image: Images, make_shards: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "images/b.jpg", "images/a.jpg")
    (tmp_path / "table.jsonl").write_text(json.dumps({"file": "images/a.jpg"}) + "\n")
    shards = make_shards("set", [1, 1])
    paths = [tmp_path / "images", tmp_path / "table.jsonl", shards, "missing.jpg"]
    expected = [str(tmp_path / "images" / "a.jpg"), str(tmp_path / "images" / "b.jpg"), "images/a.jpg"]
    expected += [f"{shards / '000000.tar'} 0", f"{shards / '000001.tar'} 0", "missing.jpg"]
    assert [ref.name for ref in iter_images(paths)] == expected
    assert count_images([paths[0], *paths[2:]]) == 5
    assert count_images(paths) == 6
    monkeypatch.setattr(inputs, "MAX_COUNTED_BYTES", 5)
    assert count_images(paths) is None


def test_nested_shards_are_an_error_that_names_one(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    write_tar(tmp_path / "nested" / "train" / "000000.tar", [("a.jpg", image()), ("a.txt", b"a cat")])
    with pytest.raises(DataError, match=r"no images in it .*; it contains train/000000\.tar: name the directory of"):
        open_source(tmp_path / "nested")


def test_a_range_of_shards_is_a_source(make_shards: Callable[..., Path]) -> None:
    source = open_source(make_shards("set", [1, 2, 1]) / "{000000..000001}.tar")
    assert (source.layout, len(list(source.records))) == ("WebDataset shards", 3)


def test_images_are_found_in_order_below_directories_and_files_are_unchanged(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/z.png", "a/notes.txt", "a.webp", ".hidden.jpg", ".git/x.jpg", "._b.jpg", "jpg")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    paths = list(find_image_files([tmp_path, tmp_path / "a" / "notes.txt", "missing.jpg"]))
    assert paths == [*(tmp_path / name for name in ("a.webp", "b.JPG", "a/z.png", "a/notes.txt")), Path("missing.jpg")]


@pytest.mark.parametrize("find", [lambda paths: list(find_image_files(paths)), count_image_files])
def test_a_directory_without_images_is_an_error(tmp_path: Path, find: Callable[..., object]) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(DataError, match="no images in this directory or below"):
        find([tmp_path])


def test_image_files_are_a_stream(tmp_path: Path) -> None:
    write_images(tmp_path / "full", 1)
    (tmp_path / "empty").mkdir()
    paths = find_image_files([tmp_path / "full", tmp_path / "empty"])
    assert next(paths).name == "000.png"


def test_names_are_sorted_although_few_are_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NAMES", 4)
    names = [f"{number * 7 % 101:03d}.png" for number in range(101)]
    touch(tmp_path, *names, *(f"below/{number}.jpg" for number in range(8)), "z.txt", "below/deep/x.gif")
    expected = [*sorted(names), *(f"below/{number}.jpg" for number in range(8)), "below/deep/x.gif"]
    assert list(find_image_files([tmp_path])) == [tmp_path / name for name in expected]
    assert count_image_files([tmp_path, "missing.jpg"]) == len(expected) + 1


def test_a_directory_of_many_names_is_not_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MAX_NAMES", 100)
    touch(tmp_path, *(f"{number}.png" for number in range(5000)))
    peaks = {}
    for name, work in [
        ("find_image_files", lambda: next(find_image_files([tmp_path]))),
        ("iterdir", lambda: list(tmp_path.iterdir())),
    ]:
        tracemalloc.start()
        work()
        peaks[name] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks["find_image_files"] < peaks["iterdir"] / 5
