"""Tables of four formats: guessed and given columns, and the rows of one image."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from wordsight.data.records import Record, SourceOptions, open_source
from wordsight.errors import DataError

Images = Callable[..., bytes]


def write_table(path: Path, columns: dict[str, list[Any]]) -> Path:
    table = pyarrow.table(columns)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        options = pyarrow.csv.WriteOptions(delimiter="\t" if path.suffix == ".tsv" else ",")
        pyarrow.csv.write_csv(table, path, options)
    return path


def texts_by_file(records: list[Record]) -> dict[str, object]:
    return {record.file: record.problem or record.texts.captions or record.texts.names for record in records}


FORMATS = ["csv", "tsv", "parquet", "jsonl"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_are_guessed_and_rows_of_one_image_are_merged(suffix: str, tmp_path: Path, image: Images) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(image())
    columns = {
        "id": ["1", "2", "3"],
        "Image": ["a.jpg", "b.jpg", "a.jpg"],
        "caption": ['one, "quoted"\nline', "42", "three"],
    }
    source = open_source(write_table(tmp_path / f"t.{suffix}", columns))
    assert source.layout == f"{suffix} table, columns Image + caption"
    records = list(source.records)
    assert texts_by_file(records) == {"a.jpg": ('one, "quoted"\nline', "three"), "b.jpg": ("42",)}
    assert records[0].read() == image()


@pytest.mark.parametrize("suffix", FORMATS)
def test_several_text_columns_can_be_given(suffix: str, tmp_path: Path) -> None:
    columns = {"where": ["a.jpg", "b.jpg"], "t1": ["one", ""], "t2": ["two", "three"]}
    table = write_table(tmp_path / f"t.{suffix}", columns)
    source = open_source(table, SourceOptions(image_column="where", text_columns=("t1", "t2")))
    assert texts_by_file(list(source.records)) == {"a.jpg": ("one", "two"), "b.jpg": ("three",)}


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_are_used_if_there_is_no_text(suffix: str, tmp_path: Path) -> None:
    table = write_table(tmp_path / f"t.{suffix}", {"path": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    assert texts_by_file(list(open_source(table).records)) == {"a.jpg": ("cat",), "b.jpg": ("dog",)}


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_that_are_numbers_get_their_names_from_a_list(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    table = write_table(tmp_path / f"t.{suffix}", {"path": ["a.jpg", "b.jpg"], "label": [1, 0]})
    source = open_source(table, SourceOptions(names=tmp_path / "classes.json"))
    assert texts_by_file(list(source.records)) == {"a.jpg": ("dog",), "b.jpg": ("cat",)}


def test_an_image_with_two_labels_is_refused(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", {"path": ["a.jpg", "a.jpg"], "label": ["cat", "dog"]})
    (record,) = open_source(table).records
    assert record.problem == "t.csv row 2: labelled 'cat' here and 'dog' in another row"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_parquet_table_can_contain_images(wrapped: bool, tmp_path: Path, image: Images) -> None:
    values = [image(0), image(1), None]
    images = [{"bytes": value, "path": None} for value in values] if wrapped else values
    table = write_table(tmp_path / "t.parquet", {"image": images, "texts": [["one", "two"], ["three"], ["four"]]})
    records = list(open_source(table).records)
    assert [record.read() for record in records] == [image(0), image(1), b""]
    assert [record.texts.captions for record in records] == [("one", "two"), ("three",), ("four",)]
    assert records[2].problem == "t.parquet row 3: no image in image"


def test_paths_can_point_outside_the_tables_directory_and_addresses_are_not_fetched(
    tmp_path: Path, image: Images
) -> None:
    (tmp_path / "a.jpg").write_bytes(image())
    (tmp_path / "in").mkdir()
    columns = {"path": ["../a.jpg", "https://x.org/b.jpg", "none.jpg", "a\0b"], "text": ["x"] * 4}
    records = list(open_source(write_table(tmp_path / "in" / "t.jsonl", columns)).records)
    assert records[0].read() == image()
    expected = ("fetch the images first", "no such file", "no such file|null")
    for record, message in zip(records[1:], expected, strict=True):
        with pytest.raises(DataError, match=message):
            record.read()


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        (
            {"x": ["a"], "caption": ["b"]},
            {},
            "no column looks like an image; name it with --image-column; the columns",
        ),
        ({"path": ["a"], "x": ["b"]}, {}, "use --text-column or --label-column; the columns are: path, x"),
        ({"path": ["a"], "x": ["b"]}, {"text_columns": ("y",)}, "no column 'y'"),
        ({"path": ["a"], "caption": ["b"]}, {"text_columns": ("captoin",)}, "did you mean 'caption'"),
    ],
)
def test_errors_about_missing_columns_list_the_existing_ones(
    columns: dict[str, list[str]], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for suffix in FORMATS:
        with pytest.raises(DataError, match="the columns are: ") as caught:
            open_source(write_table(tmp_path / f"t.{suffix}", columns), SourceOptions(**options))
        assert message in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.parquet", b"PAR1 no"),
        ("t.csv", b"path,caption\na.jpg,one,two,three\n"),
        ("t.csv", b"path,caption\na.jpg,\xff\xfe\n"),
        ("t.csv", b"\xff\xfepath"),
        ("t.csv", b""),
        ("t.csv", b"path,caption\n"),
        ("t.jsonl", b""),
        ("t.jsonl", b"\xff\xff\n[]\n"),
    ],
)
def test_damaged_tables_are_one_line_errors(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        list(open_source(tmp_path / name).records)
    assert "\n" not in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


def test_a_caption_of_ten_megabytes_does_not_affect_other_rows(tmp_path: Path) -> None:
    columns = {"path": ["a.jpg", "b.jpg"], "text": ["x" * 10_000_000, "fine"]}
    records = list(open_source(write_table(tmp_path / "t.csv", columns)).records)
    assert "more than 1,048,576 characters" in records[0].problem
    assert records[1].texts.captions == ("fine",)
