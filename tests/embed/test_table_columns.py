"""Captions, labels and other columns of tables in files of embeddings."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.embed.test_job import unreadable_of
from tests.tiny_clip import png, tiny_clip

from wordsight.embed import open_embeddings, table_columns, writers
from wordsight.embed.job import embed_files
from wordsight.embed.table_columns import carried_columns
from wordsight.errors import DataError
from wordsight.image import ImageRef

PNG = png(0)
FOUR = [
    {"title": "a red cup", "price": 3, "in stock": True},
    {"title": "größe\n42", "price": 4, "in stock": None},
    {"title": "", "price": None, "in stock": False},
    {"title": "x" * 300, "price": -(2**63), "in stock": True},
]


def refs(columns, content=PNG):
    return [ImageRef(f"{n}.png", content.__bytes__, columns=values) for n, values in enumerate(columns)]


def stored_columns(out):
    """The columns as another program reads them, without our own."""
    if out.suffix == ".npy":
        sidecar = json.loads(out.with_name(f"{out.name}.json").read_text("utf-8"))["columns"]
        return [dict(zip(sidecar, values, strict=True)) for values in zip(*sidecar.values(), strict=True)]
    return pq.read_table(out).drop(["path", "sha256", "embedding"]).to_pylist()


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_numbers_texts_and_truth_values_keep_their_type(tmp_path, name):
    embed_files(tiny_clip(), refs(FOUR), tmp_path / name)
    assert stored_columns(tmp_path / name) == FOUR
    rows = open_embeddings(tmp_path / name).rows([2, 0])
    assert [row.columns for row in rows] == [FOUR[2], FOUR[0]]
    if name == "out.parquet":
        schema = pq.read_schema(tmp_path / name)
        assert schema.names == ["path", "sha256", "embedding", "title", "price", "in stock"]
        assert schema.types[3:] == [pa.string(), pa.int64(), pa.bool_()]


def test_captions_and_label_have_columns_of_their_own(tmp_path):
    image = ImageRef("a", png(0).__bytes__, captions=("one", "two"), names=("cat", "feline"), columns={"id": 7})
    embed_files(tiny_clip(), [image, image._replace(captions=("three",), names=())], tmp_path / "out.parquet")
    assert stored_columns(tmp_path / "out.parquet") == [
        {"captions": ["one", "two"], "label": "cat", "id": 7},
        {"captions": ["three"], "label": None, "id": 7},
    ]


@pytest.mark.parametrize(
    ("captions", "label", "columns", "kept"),
    [
        (("a",), "x", {"captions": " a ", "label": "x"}, {}),
        (("a", "b"), "7", {"captions": '["a","b"]', "label": 7}, {}),
        (("a",), "cat", {"captions": "b", "label": 0}, {"table_captions": "b", "table_label": 0}),
        ((), "", {"captions": "a", "label": "x"}, {"table_captions": "a", "table_label": "x"}),
    ],
)
def test_a_column_that_is_the_label_or_the_captions_is_not_repeated(captions, label, columns, kept):
    image = ImageRef("a", bytes, captions=captions, names=(label,) if label else (), columns=columns)
    own = {"captions": list(captions), "label": label} if label else {}
    assert carried_columns(image) == own | kept


def test_names_of_our_own_are_changed_and_stay_different():
    names = ["path", "table_path", "table_table_path", "sha256", "embedding", "error", "label", "captions", "table_x"]
    carried = carried_columns(ImageRef("a", bytes, columns={name: number for number, name in enumerate(names)}))
    assert list(carried.values()) == list(range(9))
    assert set(carried) == {f"table_{name}" for name in names[:8]} | {"table_x"}


def test_values_that_no_column_can_hold_are_texts_or_left_out():
    import datetime
    import decimal

    columns = {
        "date": datetime.date(2024, 1, 5),
        "amount": decimal.Decimal("1.50"),
        "large": 2**63,
        "bytes": b"x",
        "list": [1],
        "object": {"a": 1},
        "none": None,
        "undecodable \udcff": "\udcff",
    }
    assert carried_columns(ImageRef("a", bytes, columns=columns)) == {
        "date": "2024-01-05",
        "amount": "1.50",
        "large": "9223372036854775808",
        "undecodable \\udcff": "\\udcff",
    }


WIDER = {
    "later column": ([{"a": 1}, {"b": "x"}], [{"a": 1, "b": None}, {"a": None, "b": "x"}]),
    "integers, then numbers": ([{"a": 1}, {"a": 2.5}], [{"a": 1.0}, {"a": 2.5}]),
    "numbers, then integers": ([{"a": 2.5}, {"a": 2**60 + 1}], [{"a": 2.5}, {"a": float(2**60)}]),
    "numbers, then text": ([{"a": 1}, {"a": 2.5}, {"a": "x"}], [{"a": "1"}, {"a": "2.5"}, {"a": "x"}]),
    "text, then numbers": ([{"a": "x"}, {"a": 2.5}, {"a": True}], [{"a": "x"}, {"a": "2.5"}, {"a": "true"}]),
    "truth values, then integers": ([{"a": True}, {"a": 7}], [{"a": "true"}, {"a": "7"}]),
    "none at first": ([{}, {"a": None}, {"a": "x"}], [{"a": None}, {"a": None}, {"a": "x"}]),
    "a dot and no name": ([{"a.b": 1, "": 2}, {"embedding.x": 3}], None),
}


@pytest.mark.parametrize("case", WIDER)
@pytest.mark.parametrize("rows_per_group", [1, 10])
def test_a_value_that_does_not_fit_widens_its_column_wherever_it_occurs(tmp_path, monkeypatch, case, rows_per_group):
    monkeypatch.setattr(writers, "_ROWS_PER_GROUP", rows_per_group)
    columns, expected = WIDER[case]
    out = tmp_path / "out.parquet"
    summary = embed_files(tiny_clip(), refs(columns), out)
    names = list(dict.fromkeys(name for values in columns for name in values))
    expected = expected or [{name: values.get(name) for name in names} for values in columns]
    assert stored_columns(out) == expected
    assert summary.num_embeddings == len(columns)
    (embedding,) = tiny_clip().embed_images([png(0)])
    for block in open_embeddings(out).blocks(1):
        np.testing.assert_allclose(block[0], embedding, atol=1e-6)
    assert embed_files(tiny_clip(), refs(columns), out).num_computed == 0
    assert {path.name for path in tmp_path.iterdir()} == {"out.parquet"}


def test_large_values_end_a_row_group_early(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_MAX_GROUP_CHARACTERS", 1000)
    embed_files(tiny_clip(), refs([{"a": "x" * 400}] * 10), tmp_path / "out.parquet")
    assert [pq.read_metadata(tmp_path / "out.parquet").row_group(n).num_rows for n in range(4)] == [3, 3, 3, 1]


def test_too_many_columns_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_columns, "MAX_COLUMNS", 5)
    with pytest.raises(DataError, match="more than 5 different columns; drop some from the tables"):
        embed_files(tiny_clip(), refs([{str(n): n} for n in range(6)]), tmp_path / "out.parquet")


def test_unreadable_images_keep_their_columns(tmp_path):
    images = [*refs(FOUR[:1]), *refs(FOUR[1:2], content=b"hello")]
    embed_files(tiny_clip(), images, tmp_path / "out.parquet")
    embed_files(tiny_clip(), images, tmp_path / "kept.parquet", keep_unreadable=True)
    embed_files(tiny_clip(), images, tmp_path / "out.npy")
    kept = {name: value for name, value in FOUR[1].items() if value is not None}
    assert [line["columns"] for line in unreadable_of(tmp_path / "out.parquet")] == [kept]
    assert json.loads((tmp_path / "out.npy.json").read_text("utf-8"))["unreadable"][0]["columns"] == kept
    rows = pq.read_table(tmp_path / "kept.parquet").drop(["path", "sha256", "embedding", "error"]).to_pylist()
    assert rows == FOUR[:2]


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_changed_columns_are_written_without_embedding_again(tmp_path, name):
    embed_files(tiny_clip(), refs([{"price": 1}]), tmp_path / name)
    assert embed_files(tiny_clip(), refs([{"price": 2, "sold": True}]), tmp_path / name).num_computed == 0
    assert stored_columns(tmp_path / name) == [{"price": 2, "sold": True}]
