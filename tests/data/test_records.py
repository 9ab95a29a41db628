"""Every layout that `wordsight shards` recognises, in a directory and in a tar file, and the errors for others."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wordsight.data.records import InputOptions, Record, open_source
from wordsight.errors import DataError

Images = Callable[..., bytes]


def write_files(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def rows(*values: object) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


def texts_by_file(records: list[Record]) -> dict[str, object]:
    return {record.file: record.problem or record.texts.captions or record.texts.names for record in records}


@pytest.fixture(params=["directory", "tar"])
def as_source(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[dict[str, bytes | str]], Path]:
    """A function that writes files to a directory, or to a tar file of that directory like `tar cf`."""

    def make(files: dict[str, bytes | str]) -> Path:
        directory = write_files(tmp_path / "things", files)
        if request.param == "directory":
            return directory
        with tarfile.open(tmp_path / "things.tar", "w") as tar:
            tar.add(directory, "things")
        return tmp_path / "things.tar"

    return make


MakeSource = Callable[[dict[str, bytes | str]], Path]


def test_captions_of_one_image_are_merged_and_unusable_rows_have_reasons(as_source: MakeSource, image: Images) -> None:
    listing = rows(
        {"file": "a.jpg", "captions": ["one", " two "]},
        {"file": "b/c.PNG", "captions": "three"},
        {"file": "gone.jpg", "captions": ["x"]},
        {"file": "a.jpg", "captions": ["three"]},
        {"file": "e.jpg", "captions": ["", " "]},
        {"file": "n.jpg", "captions": [3]},
        {"captions": ["no file"]},
        [1, 2],
    )
    images = {name: image() for name in ("a.jpg", "b/c.PNG", "d.jpg", "e.jpg", "n.jpg")}
    source = open_source(as_source({"captions.jsonl": listing + "{broken\n", "SOURCE.txt": "hello", **images}))
    records = list(source.records)
    assert (source.layout, source.count) == ("captions.jsonl", len(records))
    assert texts_by_file(records) == {
        "a.jpg": ("one", "two", "three"),
        "b/c.PNG": ("three",),
        "gone.jpg": "captions.jsonl row 3: no such image",
        "e.jpg": "captions.jsonl row 5: captions: empty text",
        "n.jpg": "captions.jsonl row 6: captions has a value of type int among its texts",
        "captions.jsonl row 7": "captions.jsonl row 7: no image",
        "captions.jsonl row 8": "captions.jsonl row 8: not a JSON object",
        "captions.jsonl row 9": records[7].problem,
        "d.jpg": "no text: not in captions.jsonl",
    }
    assert "row 9: not JSON" in records[7].problem
    assert records[0].read() == image()


def test_a_pairs_listing_in_a_subdirectory_is_read(as_source: MakeSource, image: Images) -> None:
    listing = rows({"file": "a.png", "texts": ["bell", "ring, sound"], "licence": "MIT"})
    source = open_source(as_source({"inner/pairs.jsonl": listing, "inner/a.png": image()}))
    (record,) = source.records
    assert record.texts.captions == ("bell", "ring, sound")
    assert record.read() == image()


def test_labels_are_numbers_or_names_and_a_names_file_replaces_them(
    as_source: MakeSource, image: Images, tmp_path: Path
) -> None:
    listing = rows(
        {"file": "a.jpg", "label": 1, "wnid": "n02"},
        {"file": "b.jpg", "label": "zebra", "wnid": "n09"},
        {"file": "c.jpg", "label": 7},
        {"file": "d.jpg", "label": True},
        {"file": "e.jpg"},
    )
    images = {f"{name}.jpg": image() for name in "abcde"}
    source = as_source({"labels.jsonl": listing, "classes.json": '["cat", "dog"]', **images})
    texts = texts_by_file(list(open_source(source).records))
    assert (texts["a.jpg"], texts["b.jpg"]) == (("dog",), ("zebra",))
    assert "label 7 is out of range; expected 0 to 1" in str(texts["c.jpg"])
    assert "the label is a bool" in str(texts["d.jpg"])
    assert "the label is missing" in str(texts["e.jpg"])
    names = tmp_path / "names.json"
    for content in ({"n02": ["dog", "hound"]}, {"1": ["dog", "hound"]}):
        names.write_text(json.dumps(content))
        assert texts_by_file(list(open_source(source, InputOptions(names=names)).records))["a.jpg"] == ("dog", "hound")


def test_labels_that_are_numbers_without_names_have_a_helpful_reason(as_source: MakeSource, image: Images) -> None:
    source = as_source({"labels.jsonl": rows({"file": "a.jpg", "label": 0}), "a.jpg": image()})
    assert "put classes.json next to labels.jsonl, or use --names FILE" in next(open_source(source).records).problem


def test_text_files_next_to_the_images_contain_their_captions(as_source: MakeSource, image: Images) -> None:
    files: dict[str, bytes | str] = {f"{name}.jpg": image() for name in "abcd"}
    files |= {"a.txt": "one\n\ntwo\n", "b.json": '{"caption": "three"}', "c.json": '{"width": 3}', "c.txt": "four"}
    source = open_source(as_source(files))
    assert source.layout == "texts next to the images"
    assert texts_by_file(list(source.records)) == {
        "a.jpg": ("one", "two"),
        "b.jpg": ("three",),
        "c.jpg": ("four",),
        "d.jpg": "no text next to it",
    }


def test_the_directory_of_an_image_names_its_class(as_source: MakeSource, image: Images, tmp_path: Path) -> None:
    source = as_source({"red_fox/1.jpg": image(), "n01/2.jpg": image(), "x.jpg": image()})
    texts = texts_by_file(list(open_source(source).records))
    assert texts == {
        "red_fox/1.jpg": ("red fox",),
        "n01/2.jpg": ("n01",),
        "x.jpg": "no text: it is not in the directory of a class",
    }
    names = tmp_path / "names.json"
    names.write_text('{"n01": ["tench", "Tinca tinca"], "red_fox": "fox"}')
    texts = texts_by_file(list(open_source(source, InputOptions(names=names)).records))
    assert (texts["n01/2.jpg"], texts["red_fox/1.jpg"]) == (("tench", "Tinca tinca"), ("fox",))
    names.write_text('{"n1": ["tench"]}')
    assert (
        "no names for 'n01'; did you mean 'n1'"
        in texts_by_file(list(open_source(source, InputOptions(names=names)).records))["n01/2.jpg"]
    )  # type: ignore[operator]


def test_members_that_point_outside_the_archive_are_not_read(
    tmp_path: Path, image: Images, write_tar: Callable[..., Path]
) -> None:
    (tmp_path / "secret.jpg").write_bytes(image(1))
    listing = rows({"file": "../secret.jpg", "captions": ["x"]}, {"file": "/etc/passwd", "captions": ["x"]})
    members = [("captions.jsonl", listing.encode()), ("../secret.jpg", image()), ("/etc/passwd", b"p")]
    records = list(open_source(write_tar(tmp_path / "inner" / "t.tar", members)).records)
    for record in records:
        with pytest.raises(DataError, match="points outside the archive"):
            record.read()
    with tarfile.open(tmp_path / "link.tar", "w") as tar:
        for name in ("cats/a.jpg", "dogs/b.jpg"):
            information = tarfile.TarInfo(name)
            information.type, information.linkname = tarfile.SYMTYPE, str(tmp_path / "secret.jpg")
            tar.addfile(information)
    for record in open_source(tmp_path / "link.tar").records:
        with pytest.raises(DataError, match="a symbolic link"):
            record.read()


def test_a_directory_of_shards_is_a_source(make_shards: Callable[..., Path]) -> None:
    source = open_source(make_shards("set", [2, 1]))
    assert source.layout == "WebDataset shards"
    assert texts_by_file(list(source.records))["set0002"] == ("image 2", "number 2")


@pytest.mark.parametrize(
    ("files", "name", "message"),
    [
        ({"a.txt": "x"}, "", "no images in it"),
        ({"a.jpg": "x"}, "", "1 image and no texts; expected captions.jsonl"),
        ({"a.jpg": "x"}, "a.jpg", "expected a directory, a .tar file or a table"),
        ({"things": "x"}, "thing", "no such file or directory; did you mean 'things'"),
        ({"a.tar": b"\x1f\x8b" + b"x" * 2000}, "a.tar", "compressed; unpack it"),
        ({"a.tar": "hello" * 500}, "a.tar", "not a tar file"),
        ({"labels.jsonl": "{}", "classes.json": "3", "a.jpg": "x"}, "", "expected a list of class names"),
    ],
)
def test_unrecognised_sources_are_one_line_errors(
    files: dict[str, bytes | str], name: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        open_source(write_files(tmp_path / "in", files) / name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_column_options_need_a_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only tables have columns"):
        open_source(write_files(tmp_path / "in", {"a.jpg": "x"}), InputOptions(text_columns=("a",)))
