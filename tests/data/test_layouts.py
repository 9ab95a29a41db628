"""Layouts of datasets that people have: each is read as its authors mean it, or refused helpfully."""

import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from wordsight.data.inputs import count_images, detect_input, iter_images
from wordsight.data.pack import pack
from wordsight.data.records import InputOptions, Record, open_source
from wordsight.data.shard_reader import open_shards
from wordsight.errors import DataError, ImageError

Images = Callable[..., bytes]
Tars = Callable[..., Path]
MakeSource = Callable[[dict[str, bytes | str]], Path]


def write_files(root: Path, files: dict[str, bytes | str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def parquet_bytes(columns: dict[str, list[object]], metadata: dict[str, str] | None = None) -> bytes:
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(pyarrow.table(columns).replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


def texts_of(source: Path, **options: object) -> dict[str, object]:
    records: list[Record] = list(open_source(source, InputOptions(**options)).records)  # type: ignore[arg-type]
    return {record.file: record.problem or record.texts.captions or record.texts.names for record in records}


@pytest.fixture(params=["directory", "tar"])
def as_source(request: pytest.FixtureRequest, tmp_path: Path) -> MakeSource:
    """A function that writes files to a directory, or to a tar file of that directory."""

    def make(files: dict[str, bytes | str]) -> Path:
        directory = write_files(tmp_path / "set", files)
        if request.param == "directory":
            return directory
        with tarfile.open(tmp_path / "set.tar", "w") as tar:
            tar.add(directory, "set")
        return tmp_path / "set.tar"

    return make


# --- Hugging Face's imagefolder ---

ROWS = [("1.png", "a red boat"), ("2.png", "two dogs")]
METADATA: dict[str, bytes | str] = {
    "metadata.jsonl": "".join(json.dumps({"file_name": file, "text": text}) + "\n" for file, text in ROWS),
    "metadata.csv": "file_name,caption\n" + "".join(f"{file},{text}\n" for file, text in ROWS),
    "metadata.parquet": parquet_bytes({"file_name": ["1.png", "2.png"], "text": ["a red boat", "two dogs"]}),
}


@pytest.mark.parametrize("name", METADATA)
def test_the_metadata_of_an_imagefolder_is_read_in_every_split(name: str, as_source: MakeSource, image: Images) -> None:
    files = {f"{split}/{file}": image() for split in ("train", "test") for file, _ in ROWS}
    source = as_source({**files, f"train/{name}": METADATA[name], f"test/{name}": METADATA[name]})
    expected = {f"{split}/{file}": (text,) for split in ("train", "test") for file, text in ROWS}
    assert texts_of(source) == expected
    assert [record.read() for record in open_source(source).records] == [image()] * 4


def test_an_image_without_a_row_is_listed(as_source: MakeSource, image: Images) -> None:
    source = as_source({"train/1.png": image(), "train/x.png": image(), "train/metadata.csv": METADATA["metadata.csv"]})
    assert texts_of(source) == {
        "1.png": ("a red boat",),
        "2.png": "metadata.csv row 3: no such image",
        "x.png": "no text: not in metadata.csv",
    }


def test_labels_of_an_imagefolder_that_are_numbers_need_names(
    as_source: MakeSource, image: Images, tmp_path: Path
) -> None:
    source = as_source({"1.png": image(), "metadata.csv": "file_name,label\n1.png,0\n"})
    assert "label 0 is a number without a name" in str(texts_of(source)["1.png"])
    (tmp_path / "names.json").write_text('["cat"]')
    assert texts_of(source, names=tmp_path / "names.json") == {"1.png": ("cat",)}


def test_columns_of_metadata_can_be_named(as_source: MakeSource, image: Images) -> None:
    source = as_source({"1.png": image(), "metadata.csv": "file_name,words\n1.png,a boat\n"})
    with pytest.raises(DataError, match=r"metadata\.csv: no column looks like a text or a label; use --text-column"):
        open_source(source)
    assert texts_of(source, text_columns=("words",)) == {"1.png": ("a boat",)}


# --- COCO ---


def coco(images: dict[int, str], annotations: list[tuple[int, object]], key: str = "caption") -> str:
    return json.dumps(
        {
            "info": {"year": 2017},
            "images": [{"id": number, "file_name": file, "height": 3} for number, file in images.items()],
            "annotations": [
                {"id": n, "image_id": image, key: value, "bbox": [1, 2, 3, 4]}
                for n, (image, value) in enumerate(annotations)
            ],
            "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}],
        }
    )


def test_captions_of_coco_belong_to_the_images_of_their_split(as_source: MakeSource, image: Images) -> None:
    files: dict[str, bytes | str] = {
        "annotations/captions_train2017.json": coco({9: "1.jpg"}, [(9, "a boat"), (9, "a red boat")]),
        "annotations/captions_val2017.json": coco({9: "1.jpg", 7: "2.jpg"}, [(9, "a dog"), (7, " ")]),
        "annotations/instances_train2017.json": coco({9: "1.jpg"}, [(9, 18)], "category_id"),
        "train2017/1.jpg": image(0),
        "val2017/1.jpg": image(1),
        "val2017/2.jpg": image(2),
        "val2017/3.jpg": image(3),
    }
    texts = texts_of(as_source(files))
    assert texts["train2017/1.jpg"] == ("a boat", "a red boat")
    assert texts["val2017/1.jpg"] == ("a dog",)
    assert "captions: empty text" in str(texts["val2017/2.jpg"])
    assert "no text: not in COCO captions" in str(texts["val2017/3.jpg"])


def test_instances_of_coco_give_class_names(as_source: MakeSource, image: Images) -> None:
    names = coco({1: "1.jpg", 2: "2.jpg", 3: "3.jpg"}, [(1, 18), (1, 18), (2, 1), (2, 18)], "category_id")
    files = {f"images/{number}.jpg": image(number) for number in (1, 2, 3)}
    texts = texts_of(as_source({"annotations/instances_default.json": names, **files}))
    assert (texts["images/1.jpg"], texts["images/2.jpg"]) == (("dog",), ("person", "dog"))
    assert "neither a caption nor an object" in str(texts["images/3.jpg"])


def test_instances_of_one_class_per_image_are_labels(tmp_path: Path, image: Images) -> None:
    names = coco({1: "1.jpg", 2: "2.jpg"}, [(1, 18), (2, 1)], "category_id")
    files: dict[str, bytes | str] = {"train/_annotations.coco.json": names}
    files |= {f"train/{number}.jpg": image() for number in (1, 2)}
    records = list(open_source(write_files(tmp_path, files)).records)
    assert [record.texts.names for record in records] == [("dog",), ("person",)]


def test_captions_in_karpathys_files_are_read(as_source: MakeSource, image: Images) -> None:
    split = {"images": [{"filename": "1.jpg", "filepath": "val", "sentences": [{"raw": "a boat"}]}], "dataset": "coco"}
    assert texts_of(as_source({"dataset_coco.json": json.dumps(split), "val/1.jpg": image()})) == {
        "val/1.jpg": ("a boat",)
    }


# --- Flickr8k and Flickr30k ---


def test_kaggles_captions_are_found_next_to_the_directory_of_images(as_source: MakeSource, image: Images) -> None:
    captions = 'image,caption\n1.jpg,A child .\n1.jpg,"A child , climbing ."\n2.jpg,Two dogs .\n'
    source = as_source({"captions.txt": captions, "Images/1.jpg": image(), "Images/2.jpg": image()})
    assert texts_of(source) == {
        "Images/1.jpg": ("A child .", "A child , climbing ."),
        "Images/2.jpg": ("Two dogs .",),
    }


def test_token_files_of_flickr_are_read(as_source: MakeSource, image: Images) -> None:
    files: dict[str, bytes | str] = {
        "Flickr8k_text/Flickr8k.token.txt": '1.jpg#0\tA "child" .\n1.jpg#1\t"Two\n2.jpg.1#0\tlost\n',
        "Flickr8k_text/Flickr8k.lemma.token.txt": "1.jpg#0\ta child be\n",
        "Flickr8k_text/Flickr_8k.trainImages.txt": "1.jpg\n",
        "Flicker8k_Dataset/1.jpg": image(),
    }
    texts = texts_of(as_source(files))
    assert texts["Flicker8k_Dataset/1.jpg"] == ('A "child" .', '"Two')
    assert texts["2.jpg.1"] == "Flickr8k.token.txt row 3: no such image"


def test_pipes_separate_the_columns_of_flickr30k(as_source: MakeSource, image: Images) -> None:
    results = "image_name| comment_number| comment\n1.jpg| 0| Two men .\n1.jpg| 1   A dog runs .\n"
    source = as_source({"results.csv": results, "flickr30k_images/1.jpg": image()})
    assert texts_of(source) == {
        "flickr30k_images/1.jpg": ("Two men .",),
        "results.csv row 3": texts_of(source)["results.csv row 3"],
    }
    assert "row 3: 2 values, but the header has 3 columns" in str(texts_of(source)["results.csv row 3"])


# --- text files next to the images ---


@pytest.mark.parametrize("name", ["a.txt", "a.TXT", "a.caption", "a.captions", "a.png.txt", "a.PNG.caption", "a.cls"])
def test_every_usual_text_file_next_to_an_image_is_read(name: str, as_source: MakeSource, image: Images) -> None:
    suffix = "PNG" if "PNG" in name else "png"
    assert texts_of(as_source({f"photos2021/a.{suffix}": image(), f"photos2021/{name}": "\ufeffa red boat\n"})) == {
        f"photos2021/a.{suffix}": ("a red boat",)
    }


def test_class_files_with_numbers_need_names(as_source: MakeSource, image: Images, tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"a.jpg": image(), "a.cls": "1", "b.jpg": image(), "b.cls": "dog"}
    source = as_source(files)
    assert "label 1 is a number without a name" in str(texts_of(source)["a.jpg"])
    assert texts_of(source)["b.jpg"] == ("dog",)
    (tmp_path / "names.json").write_text('["cat", "bird"]')
    assert texts_of(source, names=tmp_path / "names.json")["a.jpg"] == ("bird",)


def test_boxes_are_not_captions(as_source: MakeSource, image: Images) -> None:
    source = as_source(
        {"a.jpg": image(), "a.txt": "0 0.5 .5 0.1 1\n12 0.25 0.5 0.1 0.1\n", "b.jpg": image(), "b.txt": "42"}
    )
    assert texts_of(source) == {"a.jpg": "its .txt has boxes (YOLO), not a caption", "b.jpg": ("42",)}


def test_a_member_that_is_stored_twice_is_listed(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    tar = write_tar(tmp_path / "s.tar", [("a.jpg", image(0)), ("a.jpg", image(1)), ("a.txt", b"x")])
    records = list(open_source(tar).records)
    assert (records[0].read(), records[1].problem) == (image(1), "a.jpg: stored more than once; the last one is used")


# --- texts are never dropped silently ---


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("train/a.jpg", "train/notes.txt"), "train/notes.txt would not be read"),
        (("boats/a.jpg", "boats/a.md"), "every image would get the label 'boats', and boats/a.md would not be read"),
        (("boats/a.jpg", "boats/a.tags"), "boats/a.tags would not be read"),
        (("boats/a.jpg", "boats/b.jpg", "list.csv"), "every image would get the label 'boats', and list.csv would not"),
        (("train/a.jpg", "test/b.jpg"), r"its directories \(test, train\) look like splits, not classes"),
        (("images/train/a.jpg", "labels/train/a.txt"), "labels/train/a.txt would not be read"),
        (("JPEGImages/a.jpg", "Annotations/a.xml"), "Annotations/a.xml would not be read"),
        (("images/cat/1.jpg", "images/dog/2.jpg", "text/1.txt", "text/2.txt"), "text files in other directories"),
        (("a.jpg", "all.csv"), "all.csv would not be read"),
        (("s1/image.jpg", "s1/caption.txt", "s2/image.jpg", "s2/caption.txt"), "give each the name of its image"),
    ],
)
def test_unread_text_files_are_an_error_that_names_them(
    files: tuple[str, ...], message: str, as_source: MakeSource, image: Images
) -> None:
    source = as_source({name: image() if name.endswith("jpg") else "some text" for name in files})
    with pytest.raises(DataError, match=message) as caught:
        open_source(source)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("extra", [{}, {"README.txt": "x", "LICENSE.txt": "y", "cat/SOURCE.txt": "z"}])
def test_directories_of_classes_are_still_read(extra: dict[str, str], as_source: MakeSource, image: Images) -> None:
    files = {"cat/1.jpg": image(), "cat/2.jpg": image()}
    assert texts_of(as_source({**files, **extra})) == {"cat/1.jpg": ("cat",), "cat/2.jpg": ("cat",)}


def test_directories_whose_names_are_numbers_need_names(as_source: MakeSource, image: Images, tmp_path: Path) -> None:
    source = as_source({"0/1.jpg": image(), "1/2.jpg": image()})
    assert all("is a number without a name" in str(reason) for reason in texts_of(source).values())
    (tmp_path / "names.json").write_text('["zero", "one"]')
    assert set(texts_of(source, names=tmp_path / "names.json").values()) == {("zero",), ("one",)}


# --- img2dataset and Parquet files of images ---


def test_the_files_of_img2dataset_are_read(as_source: MakeSource, image: Images) -> None:
    entry = {"url": "https://x.org/1.jpg", "caption": "a boat", "status": "success", "key": "000000000", "width": 2}
    files: dict[str, bytes | str] = {
        "00000/000000000.jpg": image(0),
        "00000/000000000.txt": "a boat",
        "00000/000000000.json": json.dumps(entry),
        "00000/000000001.jpg": image(1),
        "00000/000000001.json": json.dumps({**entry, "caption": None}),
        "00000.parquet": parquet_bytes({"url": ["https://x.org/1.jpg"], "caption": ["a boat"]}),
        "00000_stats.json": "{}",
    }
    assert texts_of(as_source(files)) == {
        "00000/000000000.jpg": ("a boat",),
        "00000/000000001.jpg": "no text next to it",
    }


def test_a_directory_of_parquet_files_of_images_is_one_source(tmp_path: Path, image: Images) -> None:
    tables = {
        "00000.parquet": {"key": ["0", "1"], "caption": ["a boat", "gone"], "jpg": [image(0), None]},
        "00001.parquet": {"key": ["2"], "caption": ["two dogs"], "jpg": [image(1)]},
    }
    files: dict[str, bytes | str] = {name: parquet_bytes(columns) for name, columns in tables.items()}
    source = write_files(tmp_path / "set", {**files, "00000_stats.json": "{}"})
    assert detect_input(source) == "tables"
    assert texts_of(source) == {
        "00000/row-000000000": ("a boat",),
        "00000/row-000000001": "00000.parquet row 2: no image in jpg",
        "00001/row-000000000": ("two dogs",),
    }
    assert [record.read() for record in open_source(source).records][::2] == [image(0), image(1)]
    refs = list(iter_images([source]))
    assert (refs[0].read(), refs[2].read(), count_images([source])) == (image(0), image(1), 3)


def test_a_table_of_addresses_is_refused_helpfully(tmp_path: Path) -> None:
    source = write_files(tmp_path / "set", {"0.parquet": parquet_bytes({"url": ["x"], "caption": ["y"]})})
    with pytest.raises(DataError, match="its images are web addresses: fetch them first"):
        open_source(source)


def test_class_names_in_the_schema_of_a_hugging_face_dataset_are_used(tmp_path: Path, image: Images) -> None:
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"image": [{"bytes": image(), "path": "a.jpg"}], "label": [1]}
    (tmp_path / "0.parquet").write_bytes(parquet_bytes(columns, metadata))
    (tmp_path / "1.parquet").write_bytes(parquet_bytes(columns))
    assert texts_of(tmp_path / "0.parquet") == {"row-000000000": ("dog",)}
    assert "label 1 is a number without a name" in str(texts_of(tmp_path / "1.parquet")["row-000000000"])


def test_paths_in_an_image_column_of_hugging_face_are_read(tmp_path: Path, image: Images) -> None:
    images = [{"bytes": image(0), "path": None}, {"bytes": None, "path": "b.jpg"}]
    (tmp_path / "t.parquet").write_bytes(parquet_bytes({"image": images, "text": ["x", "y"]}))
    (tmp_path / "b.jpg").write_bytes(image(1))
    assert [record.read() for record in open_source(tmp_path / "t.parquet").records] == [image(0), image(1)]
    assert [ref.read() for ref in iter_images([tmp_path / "t.parquet"])] == [image(0), image(1)]


# --- shards of other programs ---


def test_members_in_any_order_with_dots_in_their_names_are_samples(
    tmp_path: Path, image: Images, write_tar: Tars
) -> None:
    members = [("photo.v0.txt", b"dog 0"), ("s.jpg", image(0)), ("photo.v1.jpg", image(1)), ("d.1/k.txt", b"k")]
    members += [("photo.v0.jpg", image(2)), ("photo.v1.txt", b"dog 1"), ("s.txt", b"cat"), ("d.1/k.jpg", image(3))]
    shards = open_shards(write_tar(tmp_path / "s.tar", members))
    samples = {sample.key: sample for sample in map(shards.sample, range(len(shards)))}
    assert {key: sample.captions for key, sample in samples.items()} == {
        "photo.v0": ("dog 0",),
        "s": ("cat",),
        "photo.v1": ("dog 1",),
        "d.1/k": ("k",),
    }
    assert (samples["photo.v0"].image, samples["photo.v1"].image) == (image(2), image(1))
    directory = write_tar(tmp_path / "f" / "0.tar", members).parent
    pack(open_source(directory), tmp_path / "out")
    packed = open_shards(tmp_path / "out")
    assert sorted(packed.sample(n).key for n in range(len(packed))) == ["d.1/k", "photo_v0", "photo_v1", "s"]


def test_parts_of_one_sample_are_joined(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    shards = open_shards(write_tar(tmp_path / "s.tar", [("0.input.jpg", image()), ("0.outputs.txt", b"cat")]))
    assert [(sample.key, sample.captions) for sample in map(shards.sample, range(len(shards)))] == [("0", ("cat",))]


def test_parts_of_one_sample_are_joined_in_directories_too(as_source: MakeSource, image: Images) -> None:
    files: dict[str, bytes | str] = {
        "0.input.jpg": image(),
        "0.outputs.txt": "cat",
        "1.a.jpg": image(),
        "1.b.jpg": image(),
    }
    texts = texts_of(as_source({**files, "1.c.txt": "dog"}))
    assert texts == {"0.input.jpg": ("cat",), "1.a.jpg": "no text next to it", "1.b.jpg": "no text next to it"}


def test_skipped_members_are_listed(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    members = [("a.jpg", image(0)), ("a.txt", b"cat"), ("a.mask.png", image(1)), ("a.boxes.json", b"{}")]
    tar = write_tar(tmp_path / "f" / "0.tar", [*members, ("README", b"x")])
    refs = list(iter_images([tar]))
    assert count_images([tar]) == len(refs) == 3
    for ref, name in zip(refs[1:], ("a.mask.png", "a.boxes.json"), strict=True):
        with pytest.raises(ImageError, match=f"{name}: not read: it belongs to a sample"):
            ref.read()
    pack(open_source(tar.parent), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert [row["shard"] for row in rows] == [f"{tar}: a.mask.png", f"{tar}: a.boxes.json"]


def test_class_members_of_shards_are_labels(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    members = [("a.jpg", image()), ("a.cls", b"1\n"), ("b.jpg", image(1)), ("b.cls", b"dog"), ("c.jpg", image(2))]
    directory = write_tar(tmp_path / "f" / "0.tar", members).parent
    texts = texts_of(directory)
    assert "label 1 is a number without a name" in str(texts["a"])
    assert (texts["b"], "no text" in str(texts["c"])) == (("dog",), True)
    (tmp_path / "names.json").write_text('["cat", "bird"]')
    assert texts_of(directory, names=tmp_path / "names.json")["a"] == ("bird",)
    assert [ref.read() for ref in iter_images([directory])] == [image(), image(1), image(2)]


def test_shards_can_be_named_by_braces_with_commas(make_shards: Callable[..., Path]) -> None:
    directory = make_shards("set", [1, 2, 3])
    pattern = str(directory / "{000000,000002}.tar")
    assert (detect_input(pattern), len(open_shards(pattern)), count_images([pattern])) == ("shards", 4, 4)


# --- directories and names that cannot be read ---


def test_names_that_are_not_utf8_are_rows_like_others(tmp_path: Path, image: Images) -> None:
    directory = write_files(
        tmp_path / "in", {"ok.jpg": image(), "ok.txt": "x", "new\nline.jpg": image(1), "new\nline.txt": "y"}
    )
    try:
        (tmp_path / "in" / "\udcffx.jpg").write_bytes(image(2))
    except OSError:
        pytest.skip("the file system has only UTF-8 names")
    (tmp_path / "in" / "\udcffx.txt").write_text("z")
    (tmp_path / "in" / "\udcffbroken.jpg").write_bytes(b"junk")
    summary = pack(open_source(directory), tmp_path / "out")
    assert (summary.samples, summary.skipped) == (3, 1)
    assert json.loads((tmp_path / "out" / "skipped.jsonl").read_text())["shard"] == "\\udcffbroken.jpg"
    names = [ref.name for ref in iter_images([directory])]
    assert [name.encode() and name.rpartition("/")[2] for name in names] == [
        "new\nline.jpg",
        "ok.jpg",
        "\\udcffbroken.jpg",
        "\\udcffx.jpg",
    ]
    for ref in iter_images(["missing/\udcff.jpg", "x" * 300 + ".jpg", "a\0b.jpg"]):
        with pytest.raises(ImageError) as caught:
            ref.read()
        assert str(caught.value).encode()


@pytest.mark.parametrize("name", ["x" * 300, "x" * 300 + ".csv", "x" * 300 + ".mp4", "a\0b", "\udcff", "link", "loop"])
def test_paths_that_cannot_be_opened_are_one_line_errors(name: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    for function in (open_source, open_shards):
        with pytest.raises(DataError) as caught:
            function(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert len(list(iter_images([tmp_path / name]))) == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize("name", ["p.tar", "p.csv", "p.jpg", "p.mp4", "p.jsonl", "captions.txt"])
@pytest.mark.timeout(20)
def test_pipes_are_never_opened(name: str, tmp_path: Path, image: Images) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError):
        open_source(tmp_path / name)
    with pytest.raises(DataError):
        open_shards(tmp_path / name)
    with pytest.raises((DataError, ImageError), match="not a regular file"):
        next(iter_images([tmp_path / name])).read()
    directory = write_files(tmp_path / "in", {"a.jpg": image(), "a.txt": "x"})
    os.mkfifo(directory / "b.jpg")
    os.mkfifo(directory / "b.txt")
    assert texts_of(directory) == {"a.jpg": ("x",), "b.jpg": "not a regular file"}


def test_broken_links_and_loops_are_listed(tmp_path: Path, image: Images) -> None:
    directory = write_files(tmp_path / "in", {"a.jpg": image(), "a.txt": "x", "b.txt": "y", "c.txt": "z"})
    (directory / "b.jpg").symlink_to("nowhere.jpg")
    (directory / "c.jpg").symlink_to("c.jpg")
    (directory / "again").symlink_to(directory)
    summary = pack(open_source(directory), tmp_path / "out")
    assert (summary.samples, [broken.shard for broken in summary.first_skipped]) == (1, ["b.jpg", "c.jpg"])
    assert "a broken link" in summary.first_skipped[0].reason


def test_a_directory_that_cannot_be_listed_is_a_row_with_its_reason(tmp_path: Path, image: Images) -> None:
    directory = write_files(tmp_path / "in", {"ok/a.jpg": image(), "ok/a.txt": "x", "secret/b.jpg": image()})
    for mode, reason in ((0o000, "cannot be listed: Permission denied"), (0o600, "Permission denied")):
        (directory / "secret").chmod(mode)
        if os.access(directory / "secret" / "b.jpg", os.R_OK):
            pytest.skip("the superuser may read every directory")
        try:
            texts = texts_of(directory)
            assert texts.pop("ok/a.jpg") == ("x",)
            refs = {ref.name.rpartition("/")[2]: ref for ref in iter_images([directory])}
            with pytest.raises(ImageError, match="Permission denied"):
                refs.popitem()[1].read()
            with pytest.raises(DataError, match="Permission denied"):
                open_source(directory / "secret" / "b.jpg")
        finally:
            (directory / "secret").chmod(0o755)
        assert reason in str(texts) or "no text next to it" in str(texts)
