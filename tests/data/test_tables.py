"""Tables of four formats: guessed and given columns, the rows of one image, and files that claim too much."""

import contextlib
import io
import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.csv
import pyarrow.parquet
import pytest

from wordsight.data.inputs import iter_images
from wordsight.data.records import InputOptions, Record, open_source
from wordsight.data.tables import Columns, Table
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
    source = open_source(table, InputOptions(image_column="where", text_columns=("t1", "t2")))
    assert texts_by_file(list(source.records)) == {"a.jpg": ("one", "two"), "b.jpg": ("three",)}


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_are_used_if_there_is_no_text(suffix: str, tmp_path: Path) -> None:
    table = write_table(tmp_path / f"t.{suffix}", {"path": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    assert texts_by_file(list(open_source(table).records)) == {"a.jpg": ("cat",), "b.jpg": ("dog",)}


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_that_are_numbers_get_their_names_from_a_list(suffix: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text('["cat", "dog"]')
    table = write_table(tmp_path / f"t.{suffix}", {"path": ["a.jpg", "b.jpg"], "label": [1, 0]})
    source = open_source(table, InputOptions(names=tmp_path / "classes.json"))
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
        (
            {"path": ["a"], "x": ["b"]},
            {},
            'use --text-column or --label-column; the columns are: path (text, e.g. "a"), x (',
        ),
        ({"path": ["a"], "x": ["b"]}, {"text_columns": ("y",)}, "no column 'y'"),
        ({"path": ["a"], "caption": ["b"]}, {"text_columns": ("captoin",)}, "did you mean 'caption'"),
    ],
)
def test_errors_about_missing_columns_list_the_existing_ones(
    columns: dict[str, list[str]], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for suffix in FORMATS:
        with pytest.raises(DataError, match="the columns are: ") as caught:
            open_source(write_table(tmp_path / f"t.{suffix}", columns), InputOptions(**options))
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


# --- separators, quotes, line ends and encodings of text tables ---


@pytest.mark.parametrize("separator", [",", "\t", ";", "|", " | "])
@pytest.mark.parametrize("header", [("filepath", "title"), ("Image Path", "alt, text"), ("where", "caption")])
def test_the_separator_is_detected_from_the_header(separator: str, header: tuple[str, str], tmp_path: Path) -> None:
    if "," in header[1] and separator == ",":
        header = (header[0], '"alt, text"')
    (tmp_path / "t.csv").write_text(separator.join(header) + "\n" + separator.join(("a.png", "a boat")) + "\n")
    given = InputOptions(image_column=header[0], text_columns=(header[1].strip('"'),))
    assert texts_by_file(list(open_source(tmp_path / "t.csv", given).records)) == {"a.png": ("a boat",)}


def test_quotation_marks_are_ordinary_in_tsv(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('path\tcaption\na.png\t"the big one\nb.png\ta 5" nail\nc.png\t"all"\n')
    assert texts_by_file(list(open_source(tmp_path / "t.tsv").records)) == {
        "a.png": ('"the big one',),
        "b.png": ('a 5" nail',),
        "c.png": ('"all"',),
    }


@pytest.mark.parametrize(
    "rows",
    [
        'a.png,"unclosed\nb.png,a boat\n',
        'a.png,x\nb.png,"unclosed\nc.png,"fine"\n',
        'a.png,x\nb.png,"unclosed\nc.png,"one, two"\n',
        'a.png,x\n\nb.png,"unclosed',
    ],
)
def test_an_unclosed_quotation_mark_is_an_error_that_names_its_row(rows: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,caption\n" + rows)
    number = 2 + rows[: rows.index('"')].count("\n")
    with pytest.raises(
        DataError, match=rf"t\.csv: not a readable csv table: row {number}: a quotation mark is not closed"
    ):
        open_source(tmp_path / "t.csv")
    with pytest.raises(DataError, match=f"row {number}: a quotation mark"):
        list(iter_images([tmp_path / "t.csv"]))


def test_quoted_fields_follow_rfc_4180(tmp_path: Path) -> None:
    lines = ['a.png,"one, ""two""\r\nthree"', 'b.png,a 5" nail', '"c.png","big" dog', 'd.png,""', "e.png,x,"]
    (tmp_path / "t.csv").write_bytes("\r\n".join(["path,caption", *lines]).encode())
    texts = texts_by_file(list(open_source(tmp_path / "t.csv").records))
    assert texts["a.png"] == ('one, "two"\nthree',)
    assert (texts["b.png"], texts["c.png"], texts["e.png"]) == (('a 5" nail',), ("big dog",), ("x",))
    assert texts["d.png"] == "t.csv row 6: caption: empty text"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_line_ends_and_byte_order_marks_make_no_difference(
    end: str, encoding: str, suffix: str, tmp_path: Path
) -> None:
    rows = ["path\tcaption", "", "a.png\té", "  ", "b.png\tx"]
    (tmp_path / f"t.{suffix}").write_bytes(end.join(rows).encode(encoding))
    records = list(open_source(tmp_path / f"t.{suffix}").records)
    assert texts_by_file(records) == {"a.png": ("é",), "b.png": ("x",)}
    assert [row.name for row in Table(tmp_path / f"t.{suffix}").rows(Columns(image="path"))] == [
        f"t.{suffix} row 3",
        f"t.{suffix} row 5",
    ]


def test_a_bad_row_does_not_affect_the_others(tmp_path: Path) -> None:
    rows = [b"a.png,one,two", b"b.png", b"c.png,\xff\xfe", b"d.png,fine", b"e\0.png,x", b"f.png," + b"x" * (1 << 24)]
    (tmp_path / "t.csv").write_bytes(b"\n".join([b"path,caption", *rows]))
    assert texts_by_file(list(open_source(tmp_path / "t.csv").records)) == {
        "t.csv row 2": "t.csv row 2: 3 values, but the header has 2 columns",
        "t.csv row 3": "t.csv row 3: 1 values, but the header has 2 columns",
        "t.csv row 4": "t.csv row 4: not UTF-8",
        "d.png": ("fine",),
        "e\0.png": ("x",),
        "t.csv row 7": "t.csv row 7: more than 16,777,216 characters",
    }


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_class_that_is_a_number_is_refused_in_every_table(suffix: str, tmp_path: Path) -> None:
    table = write_table(tmp_path / f"t.{suffix}", {"path": ["a.png", "b.png"], "label": ["0", "-1.0"]})
    assert [record.problem.partition(";")[0] for record in open_source(table).records] == [
        f"t.{suffix} row {row}: label {label} is a number without a name"
        for row, label in zip((1, 2) if suffix in ("parquet", "jsonl") else (2, 3), ("0", "-1.0"), strict=True)
    ]


@pytest.mark.parametrize("label", ["9" * 5000, "-1", "2", "1.5", 2, -1])
def test_numbers_that_are_no_class_are_out_of_range(label: object, tmp_path: Path) -> None:
    (tmp_path / "names.json").write_text('["cat", "dog"]')
    (tmp_path / "t.jsonl").write_text(json.dumps({"path": "a.png", "label": label}))
    (record,) = open_source(tmp_path / "t.jsonl", InputOptions(names=tmp_path / "names.json")).records
    assert "is out of range; expected 0 to 1" in record.problem


def test_columns_with_the_same_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,caption,caption\na.png,x,y\n")
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"])] * 3, names=["path", "caption", "caption"])
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        with pytest.raises(DataError, match="2 columns are called 'caption'; rename them"):
            open_source(tmp_path / name)


@pytest.mark.parametrize("content", ["", "\n \n", "path,caption\n", "path,caption\n\n"])
def test_a_table_without_rows_is_an_error(content: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(content)
    for read in (open_source, lambda path: list(iter_images([path]))):
        with pytest.raises(DataError, match=r"t\.csv: (no rows|not a readable csv table: empty)$"):
            read(tmp_path / "t.csv")


def test_blank_lines_before_the_header_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n\npath,caption\na.png,x; ,\n")
    assert texts_by_file(list(open_source(tmp_path / "t.csv").records)) == {"a.png": ("x;",)}


def test_a_table_without_a_header_is_refused_helpfully(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a.png,a boat\nb.png,two dogs\n")
    with pytest.raises(DataError, match="its first line looks like a row: add a line with the names of the columns"):
        open_source(tmp_path / "t.csv")


def test_paths_are_normalised_and_byte_order_marks_of_json_are_skipped(tmp_path: Path, image: Images) -> None:
    (tmp_path / "b.png").write_bytes(image())
    rows = '{"file": "./b.png", "captions": ["x"]}\n{"file": "c/../b.png", "captions": ["y"]}\n'
    (tmp_path / "captions.jsonl").write_text("\ufeff" + rows)
    assert texts_by_file(list(open_source(tmp_path).records)) == {"b.png": ("x", "y")}


# --- files that claim more than they contain ---

LIMITED = """
import re, sys
from pathlib import Path
from wordsight.data.records import open_source
from wordsight.data.inputs import iter_images
from wordsight.errors import DataError
import pyarrow.parquet
for read in (lambda path: open_source(path).records, lambda path: iter_images([path])):
    try:
        print(sum(1 for _ in read(Path(sys.argv[1]))))
    except DataError as error:
        print(error)
peak_kb = int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])
assert peak_kb < 1_000_000, peak_kb
"""


def read_with_limited_memory(path: Path) -> list[str]:
    """Count the records and the images of a table in a process that may use 1 GB."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux")
    process = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, timeout=100, check=False
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.splitlines()


def dictionary(values: list[str], count: int) -> pyarrow.DictionaryArray:
    return pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * count, pyarrow.int32()), values)


@pytest.mark.parametrize("compression", ["snappy", "gzip", "zstd", "brotli"])
def test_a_parquet_page_that_is_a_bomb_is_refused(compression: str, tmp_path: Path) -> None:
    columns = {"path": ["a.png"] * 500, "caption": dictionary(["x" * 100_000_000], 500)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet", compression=compression)
    assert (tmp_path / "t.parquet").stat().st_size < 5_000_000
    captions, images = read_with_limited_memory(tmp_path / "t.parquet")
    assert "column caption: the page at byte" in captions
    assert "column caption: the page at byte" in images


def test_large_values_are_not_repeated_in_memory(tmp_path: Path) -> None:
    columns = {"path": ["a.png"] * 500, "caption": dictionary(["x" * 60_000_000], 500)}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "t.parquet")
    assert read_with_limited_memory(tmp_path / "t.parquet") == ["500", "500"]
    offsets = pyarrow.array(range(0, 51_000, 1000), pyarrow.int32())
    columns["caption"] = pyarrow.ListArray.from_arrays(offsets, dictionary(["x" * 1_000_000], 50_000))
    pyarrow.parquet.write_table(pyarrow.table({**columns, "path": ["a.png"] * 50}), tmp_path / "lists.parquet")
    assert read_with_limited_memory(tmp_path / "lists.parquet") == ["50", "50"]
    record = next(open_source(tmp_path / "lists.parquet").records)
    assert record.problem == "lists.parquet row 1: caption: more than 1,048,576 characters"


def test_a_parquet_file_of_repeated_rows_is_refused(tmp_path: Path) -> None:
    writer = pyarrow.parquet.ParquetWriter(
        tmp_path / "t.parquet", pyarrow.schema({"path": "string", "caption": "string"})
    )
    block = pyarrow.table({"path": ["a.png"] * 1_000_000, "caption": ["x"] * 1_000_000})
    with writer:
        for _ in range(3):
            writer.write_table(block)
    with pytest.raises(DataError, match="3,000,000 values in a file of"):
        open_source(tmp_path / "t.parquet")


def test_pages_of_images_do_not_count_as_bombs(tmp_path: Path, image: Images) -> None:
    images = [image(number) * 2000 for number in range(100)]
    table = pyarrow.table({"image": images, "text": ["x"] * 100})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", compression="none", use_dictionary=False)
    assert [record.read() for record in open_source(tmp_path / "t.parquet").records] == images


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "gzip", "zstd", "lz4", "brotli"])
def test_rows_equal_those_of_pyarrow(version: str, compression: str, tmp_path: Path) -> None:
    columns = {
        "path": [f"{number}.png" for number in range(3000)],
        "captions": [[f"{number % 70} é", "x"][: number % 3] if number % 7 else None for number in range(3000)],
    }
    table = pyarrow.table(columns)
    pyarrow.parquet.write_table(
        table, tmp_path / "t.parquet", compression=compression, data_page_version=version, row_group_size=700
    )
    rows = Table(tmp_path / "t.parquet").rows(Columns(image="path", texts=("captions",)))
    assert [row.values for row in rows] == table.to_pylist()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[{"a": "x"}]], "column 'caption' is a list<element: struct<a: string>>; expected texts"),
        ([{"a": "x", "b": 1}], "column 'caption' has the fields a, b; expected bytes and path"),
    ],
)
def test_nested_columns_are_refused_helpfully(value: list[object], message: str, tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"path": ["a.png"], "caption": value}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        open_source(tmp_path / "t.parquet")
    assert message in str(caught.value)


def test_changed_bytes_in_a_parquet_file_raise_nothing_but_data_errors(tmp_path: Path) -> None:
    table = pyarrow.table({"path": ["a.png", "b.png"] * 50, "captions": [["x"], ["y", "z"]] * 50})
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file)
    generator = random.Random(3)
    for _ in range(400):
        content = bytearray(file.getvalue())
        for _ in range(3):
            content[generator.randrange(4, len(content))] = generator.randrange(256)
        (tmp_path / "t.parquet").write_bytes(content)
        with contextlib.suppress(DataError):
            list(open_source(tmp_path / "t.parquet").records)


@pytest.mark.slow
def test_a_huge_line_of_json_is_one_bad_row(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")  # a table of which no path exists is an error
    with (tmp_path / "t.jsonl").open("wb") as table:
        table.write(b'{"path": "a.png", "text": "x"}\n{"path": "')
        table.seek(1_500_000_000)  # NULs that take no space on disk
        table.write(b'"}\n' + b"[" * 100_000 + b'\n{"path": "b.png", "text": "z"}\n')
    assert read_with_limited_memory(tmp_path / "t.jsonl") == ["4", "4"]
    texts = texts_by_file(list(open_source(tmp_path / "t.jsonl").records))
    assert (texts["a.png"], texts["b.png"]) == (("x",), ("z",))
    assert texts["t.jsonl row 2"] == "t.jsonl row 2: more than 16,777,216 bytes"
    assert str(texts["t.jsonl row 3"]).startswith("t.jsonl row 3: not JSON")


def test_a_million_columns_are_refused_in_a_short_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(",".join(f"c{number}" for number in range(1_000_000)) + "\n")
    (tmp_path / "u.csv").write_text(",".join(f"c{number}" for number in range(9_000)) + "\n")
    for name in ("t.csv", "u.csv"):
        with pytest.raises(DataError) as caught:
            open_source(tmp_path / name)
        assert len(str(caught.value)) < 600
