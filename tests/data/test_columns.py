"""Tables of one's own: the choice of columns, paths below other directories, captions with labels, other columns."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from wordsight.data import InputOptions, open_shards, open_source, pack, parquet
from wordsight.data.carried import MAX_CARRIED_CHARACTERS, MAX_CARRIED_COLUMNS, carried_values
from wordsight.data.columns import choose_columns
from wordsight.data.inputs import count_images, iter_images, iter_labelled
from wordsight.data.tables import Table
from wordsight.errors import DataError, ImageError

Images = Callable[..., bytes]
PRODUCTS = "sku,photo,title,category,price\nA-1,a.jpg,red shoe,shoes,9.5\nA-2,b.jpg,blue mug,mugs,4\n"


@pytest.fixture
def shop(tmp_path: Path, image: Images, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with `products.csv` and the images of its two rows; another one is the working directory."""
    directory = tmp_path / "shop"
    directory.mkdir()
    (directory / "products.csv").write_text(PRODUCTS)
    for number, name in enumerate(["a.jpg", "b.jpg"]):
        (directory / name).write_bytes(image(number))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return directory


def columns_of(tmp_path: Path, header: str, **options: Any) -> tuple[str, tuple[str, ...], str | None]:
    row = ",".join("x" * len(header.split(",")))
    (tmp_path / "t.csv").write_text(f"{header}\n{row}\n")
    columns = choose_columns(Table(tmp_path / "t.csv"), InputOptions(**options))
    return columns.image, columns.texts, columns.label


@pytest.mark.parametrize(
    ("header", "options", "expected"),
    [
        ("photo,title,category", {}, ("photo", ("title",), "category")),
        ("photo,title,category", {"label_column": "category"}, ("photo", ("title",), "category")),
        ("photo,title,kind", {"label_column": "kind"}, ("photo", ("title",), "kind")),
        ("photo,title,kind", {"text_columns": ("kind",)}, ("photo", ("kind",), None)),
        ("photo,title,label", {"text_columns": ("label",)}, ("photo", ("label",), None)),
        ("photo,name,category", {}, ("photo", ("name",), "category")),
        ("photo,name", {}, ("photo", (), "name")),
        ("photo,name,title", {}, ("photo", ("title",), None)),
        ("photo,name,kind", {"label_column": "kind"}, ("photo", ("name",), "kind")),
        ("file,caption", {}, ("file", ("caption",), None)),
    ],
)
def test_texts_and_label_are_chosen_together(
    header: str, options: dict[str, Any], expected: tuple[str, tuple[str, ...], str | None], tmp_path: Path
) -> None:
    assert columns_of(tmp_path, header, **options) == expected


def test_rows_keep_captions_label_and_other_columns(shop: Path, image: Images) -> None:
    refs = list(iter_images([shop / "products.csv"]))
    assert [(ref.name, ref.captions, ref.names) for ref in refs] == [
        ("a.jpg", ("red shoe",), ("shoes",)),
        ("b.jpg", ("blue mug",), ("mugs",)),
    ]
    assert refs[1].columns == {"sku": "A-2", "title": "blue mug", "category": "mugs", "price": "4"}
    assert [pickle.loads(pickle.dumps(ref)).read() for ref in refs] == [image(0), image(1)]


def test_shards_keep_captions_label_and_other_columns(shop: Path, tmp_path: Path, image: Images) -> None:
    summary = pack(open_source(shop / "products.csv"), tmp_path / "out")
    assert (summary.samples, summary.both) == (2, 2)
    sample = open_shards(tmp_path / "out").sample(1)
    assert (sample.captions, sample.names) == (("blue mug",), ("mugs",))
    assert sample.columns == {"sku": "A-2", "price": "4"}
    (_, ref) = iter_images([tmp_path / "out"])
    assert (ref.captions, ref.names, ref.columns, ref.read()) == (
        ("blue mug",),
        ("mugs",),
        {"sku": "A-2", "price": "4"},
        image(1),
    )
    pack(open_source(tmp_path / "out"), tmp_path / "again")
    assert (tmp_path / "again" / "000000.tar").read_bytes() == (tmp_path / "out" / "000000.tar").read_bytes()


def test_a_row_needs_only_one_of_caption_and_label(shop: Path) -> None:
    (shop / "t.csv").write_text("photo,title,category\na.jpg,,shoes\nb.jpg,blue mug,\n")
    for options in (InputOptions(), InputOptions(label_column="category")):
        records = open_source(shop / "t.csv", options).records
        assert [(record.texts.captions, record.texts.names) for record in records] == [
            ((), ("shoes",)),
            (("blue mug",), ()),
        ]


def test_numbers_in_a_guessed_label_column_do_not_cost_the_captions(shop: Path) -> None:
    (shop / "t.csv").write_text("photo,title,label\na.jpg,red shoe,3\n")
    (record,) = open_source(shop / "t.csv").records
    assert (record.texts.captions, record.texts.names, record.problem) == (("red shoe",), (), "")
    (record,) = open_source(shop / "t.csv", InputOptions(label_column="label")).records
    assert "label 3 is a number without a name" in record.problem
    with pytest.raises(DataError, match=r"t.csv row 2: label 3 is a number without a name"):
        next(iter_images([shop / "t.csv"], options=InputOptions(label_column="label")))
    (shop / "names.json").write_text('["a", "b", "c", "sandals"]')
    (ref,) = iter_images([shop / "t.csv"], options=InputOptions(names=shop / "names.json"))
    assert ref.names == ("sandals",)


def test_rows_of_one_image_are_one_labelled_image(shop: Path) -> None:
    (shop / "t.csv").write_text("image,caption,category\na.jpg,one,shoes\na.jpg,two,shoes\nb.jpg,three,mugs\n")
    refs = list(iter_labelled(shop / "t.csv"))
    assert [(ref.name, ref.captions, ref.names) for ref in refs] == [
        ("a.jpg", ("one", "two"), ("shoes",)),
        ("b.jpg", ("three",), ("mugs",)),
    ]


def test_a_guessed_label_that_differs_between_the_rows_of_an_image_is_dropped(shop: Path) -> None:
    (shop / "t.csv").write_text("image,caption,category\na.jpg,one,shoes\na.jpg,two,boots\na.jpg,three,shoes\n")
    (ref,) = iter_labelled(shop / "t.csv")
    assert (ref.captions, ref.names) == (("one", "two", "three"), ())
    (ref,) = iter_labelled(shop / "t.csv", InputOptions(label_column="category"))
    with pytest.raises(ImageError, match="labelled 'shoes' here and 'boots' in another row"):
        ref.read()


def test_labelled_images_of_a_directory_have_the_names_that_iter_images_gives(shop: Path, image: Images) -> None:
    for name in ("cats/1.jpg", "egyptian_cats/2.jpg"):
        (shop / "classes" / name).parent.mkdir(parents=True)
        (shop / "classes" / name).write_bytes(image(5))
    labelled = list(iter_labelled(shop / "classes"))
    assert [ref.names for ref in labelled] == [("cats",), ("egyptian cats",)]
    assert [ref.name for ref in labelled] == [ref.name for ref in iter_images([shop / "classes"])]
    assert labelled[0].read() == image(5)


# --- paths ---


def test_paths_are_relative_to_the_table_then_to_the_working_directory(shop: Path, image: Images) -> None:
    Path("a.jpg").write_bytes(image(7))
    Path("c.jpg").write_bytes(image(8))
    (shop / "t.csv").write_text("photo,title\na.jpg,x\nc.jpg,y\n")
    expected = [image(0), image(8)]
    assert [ref.read() for ref in iter_images([shop / "t.csv"])] == expected
    assert [record.read() for record in open_source(shop / "t.csv").records] == expected


def test_image_root_replaces_both_directories(shop: Path, image: Images) -> None:
    root = shop.parent / "photos"
    root.mkdir()
    (root / "a.jpg").write_bytes(image(9))
    options = InputOptions(image_root=root)
    first, second = iter_images([shop / "products.csv"], options=options)
    assert first.read() == image(9)
    with pytest.raises(ImageError, match=r"photos/b.jpg: no such file"):
        second.read()
    assert next(iter(open_source(shop / "products.csv", options).records)).read() == image(9)


def test_paths_of_windows_are_understood(shop: Path, image: Images) -> None:
    (shop / "sub").mkdir()
    (shop / "sub" / "x.jpg").write_bytes(image(3))
    (shop / "t.csv").write_text("photo,title\nsub\\x.jpg,x\n")
    (ref,) = iter_images([shop / "t.csv"])
    assert ref.read() == image(3)


@pytest.mark.parametrize("root", [None, "photos"])
def test_paths_that_lead_nowhere_are_listed_with_the_directories_that_were_tried(shop: Path, root: str | None) -> None:
    rows = "".join(f"{number}.jpg,x\n" for number in range(5))
    (shop / "t.csv").write_text(f"photo,title\n{rows}")
    options = InputOptions(image_root=Path(root) if root else None)
    tried = f"{shop} and {Path.cwd()}" if root is None else f"{Path.cwd()}/photos \\(no such directory\\)"
    message = (
        rf"t.csv: no path in column 'photo' is a file: '0.jpg', '1.jpg', '2.jpg' \(5 tried, in {tried}\); name the"
    )
    for read in (
        lambda: next(iter_images([shop / "t.csv"], options=options)),
        lambda: count_images([shop / "t.csv"], options),
        lambda: iter_labelled(shop / "t.csv", options),
        lambda: pack(open_source(shop / "t.csv", options), shop / "out"),
    ):
        with pytest.raises(DataError, match=message):
            read()
    assert not (shop / "out").exists()


def test_only_the_first_thousand_paths_are_tried(shop: Path) -> None:
    rows = "".join(f"{number}.jpg,x\n" for number in range(1500))
    (shop / "t.csv").write_text(f"photo,title\n{rows}")
    with pytest.raises(DataError, match="1,000 tried"):
        next(iter_images([shop / "t.csv"]))
    (shop / "t.csv").write_text(f"photo,title\n{rows[:3000]}\na.jpg,x\n{rows}")
    assert len(list(iter_images([shop / "t.csv"]))) > 1500


def test_web_addresses_are_named_as_such(shop: Path) -> None:
    (shop / "t.csv").write_text("image,title\nhttps://a.org/1.jpg,x\n")
    with pytest.raises(DataError, match=r"are web addresses \('https://a.org/1.jpg'\); fetch them first"):
        next(iter_images([shop / "t.csv"]))
    (shop / "t.csv").write_text("image,title\na.jpg,x\nhttps://a.org/1.jpg,x\n")
    with pytest.raises(ImageError, match=r"^https://a.org/1.jpg: a web address; fetch the images first"):
        list(iter_images([shop / "t.csv"]))[1].read()


# --- columns that are named otherwise ---


def test_unusual_columns_are_listed_with_what_they_hold(shop: Path) -> None:
    (shop / "t.csv").write_text("sku,photo_url,size,note\nA-1,a.jpg,4.5,\n")
    message = (
        r"t.csv: no column looks like an image; name it with --image-column; the columns are: sku \(text, e.g. \"A-1\""
        r"\), photo_url \(text, e.g. \"a.jpg\"\), size \(number, e.g. 4.5\), note \(empty\); did you mean 'photo_url'\?"
    )
    for read in (open_source, lambda path: next(iter_images([path])), lambda path: count_images([path])):
        with pytest.raises(DataError, match=message):
            read(shop / "t.csv")


def test_the_nearest_name_is_suggested_if_no_column_holds_images(shop: Path) -> None:
    (shop / "t.csv").write_text("pfoto,x\n1,2\n")
    with pytest.raises(DataError, match=r"did you mean 'pfoto'\?$"):
        open_source(shop / "t.csv")
    (shop / "t.csv").write_text("photo,tittle,x\na.jpg,2,3\n")
    with pytest.raises(DataError, match=r"use --text-column or --label-column; .*; did you mean 'tittle'\?$"):
        open_source(shop / "t.csv")


def test_columns_of_a_parquet_file_are_described_by_their_types(shop: Path, image: Images) -> None:
    columns = {"picture_bytes": [image(0)], "n": [3], "ok": [True], "tags": [["a", "b"]], "size": [{"w": 1}]}
    pyarrow.parquet.write_table(pyarrow.table(columns), shop / "t.parquet")
    message = (
        r"picture_bytes \(bytes\), n \(number, e.g. 3\), ok \(true or false\), tags \(list\), size; did you mean "
        r"'picture_bytes'\?"
    )
    with pytest.raises(DataError, match=message):
        open_source(shop / "t.parquet")


def test_options_of_tables_are_refused_for_other_inputs(shop: Path) -> None:
    for options, reason in [
        (InputOptions(label_column="x"), "only tables have columns to choose"),
        (InputOptions(image_root=shop), "--image-root is for the paths in a table"),
    ]:
        for read in (iter_images, count_images):
            with pytest.raises(DataError, match=f"a.jpg: not a table .*{reason}"):
                list(read([shop / "a.jpg"], options=options))  # type: ignore[operator]
        with pytest.raises(DataError, match=f"shop: not a table .*{reason}"):
            open_source(shop, options)


# --- other columns ---


def test_values_of_other_columns_are_plain_and_bounded() -> None:
    values = {"a": 1, "b": 2.5, "c": True, "d": None, "e": ["x", 1], "f": {"k": "é"}, "g": 1 << 70, "h": "\udcff"}
    assert carried_values(values, values) == {
        "a": 1,
        "b": 2.5,
        "c": True,
        "d": None,
        "e": '["x",1]',
        "f": '{"k":"é"}',
        "g": str(1 << 70),
        "h": "\\udcff",
    }
    long = carried_values({"a": "x" * (MAX_CARRIED_CHARACTERS - 10), "b": "y" * 100, "c": "z"}, "abc")
    assert (len(long["a"]), long["b"], long["c"]) == (MAX_CARRIED_CHARACTERS - 10, "y" * 10 + "...", "...")
    many = {str(number): number for number in range(MAX_CARRIED_COLUMNS + 1)}
    assert list(carried_values(many, many)) == list(many)[:-1]


def test_other_columns_of_parquet_keep_their_types(shop: Path) -> None:
    columns = {"photo": ["a.jpg"], "n": [3], "price": [2.5], "tags": [["a"]], "blob": [b"x"], "size": [{"w": 1}]}
    pyarrow.parquet.write_table(pyarrow.table(columns), shop / "t.parquet")
    (ref,) = iter_images([shop / "t.parquet"])
    assert ref.columns == {"n": 3, "price": 2.5, "tags": '["a"]'}
    assert count_images([shop / "t.parquet"]) == 1


def test_an_other_column_that_needs_too_much_memory_is_left_out(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_DENSE_PAGE_BYTES", 1000)
    junk = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 3, pyarrow.int32()), pyarrow.array(["x" * 100_000]))
    table = pyarrow.table({"photo": ["a.jpg"] * 3, "n": [1, 2, 3], "junk": junk})
    pyarrow.parquet.write_table(table, shop / "t.parquet", compression="zstd")
    assert [ref.columns["n"] for ref in iter_images([shop / "t.parquet"])] == [1, 2, 3]
    assert [ref.columns["junk"] for ref in iter_images([shop / "t.parquet"])] == [None] * 3


def test_bytes_that_are_not_text_in_another_column_do_not_cost_the_row(shop: Path) -> None:
    (shop / "t.csv").write_bytes(b"photo,title,note\na.jpg,x,\xff\n")
    (ref,) = iter_images([shop / "t.csv"])
    assert ref.columns == {"title": "x", "note": "\\udcff"}
    ref.read()


def test_other_columns_of_a_listing_are_kept(shop: Path) -> None:
    (shop / "captions.jsonl").write_text(json.dumps({"file": "a.jpg", "captions": ["x"], "licence": "CC0"}) + "\n")
    first = next(iter_labelled(shop))
    assert (first.name, first.captions, first.columns) == (str(shop / "a.jpg"), ("x",), {"licence": "CC0"})


def test_columns_in_shards_of_others_are_bounded(tmp_path: Path, image: Images, write_tar: Callable[..., Path]) -> None:
    values = {"caption": "x", "label": 3, "columns": {"a": [1], "b": "y" * MAX_CARRIED_CHARACTERS}}
    shards = write_tar(tmp_path / "s" / "0.tar", [("a.jpg", image()), ("a.json", json.dumps(values).encode())])
    sample = open_shards(shards).sample(0)
    assert (sample.captions, sample.names, sample.columns["a"]) == (("x",), (), "[1]")
    assert len(sample.columns["b"]) == MAX_CARRIED_CHARACTERS
    values["columns"] = "text"  # type: ignore[assignment]
    shards = write_tar(tmp_path / "t" / "0.tar", [("a.jpg", image()), ("a.json", json.dumps(values).encode())])
    assert open_shards(shards).sample(0).columns == {}


def test_caption_and_class_of_other_programs_are_both_read(
    tmp_path: Path, image: Images, write_tar: Callable[..., Path]
) -> None:
    members = [("a.jpg", image()), ("a.txt", b"a red shoe"), ("a.cls", b"shoes"), ("b.jpg", image()), ("b.txt", b"b")]
    shards = open_shards(write_tar(tmp_path / "s" / "0.tar", [*members, ("b.cls", b"7")]))
    assert [(shards.sample(n).captions, shards.sample(n).names) for n in (0, 1)] == [
        (("a red shoe",), ("shoes",)),
        (("b",), ()),
    ]
