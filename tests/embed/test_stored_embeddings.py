"""Reading files of embeddings in blocks and by row, in every version and encoding."""

import json
import shutil

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.golden.make import DIRECTORY
from tests.tiny_clip import tiny_clip, write_images

from wordsight.data.inputs import file_image
from wordsight.embed import StoredRow, open_embeddings
from wordsight.embed.job import embed_files
from wordsight.embed.parquet_values import plain_segments, row_groups
from wordsight.errors import DataError

N, E = 50, 8


def fixed_size_list(is_nullable=False):
    return pa.list_(pa.field("element", pa.float32(), nullable=is_nullable), E)


ENCODINGS = {
    "as written": {"compression": {"embedding.list.element": "none"}, "use_dictionary": False},
    "compressed": {"use_dictionary": False},
    "dictionary": {"compression": "none"},
    "split bytes": {
        "compression": "none",
        "use_dictionary": False,
        "use_byte_stream_split": ["embedding.list.element"],
    },
    "pages of a few values": {
        "compression": "none",
        "use_dictionary": False,
        "data_page_size": 20,
        "write_batch_size": 4,
    },
    "version 2 of pages": {"compression": "none", "use_dictionary": False, "data_page_version": "2.0"},
}


@pytest.fixture
def embeddings():
    rows_NE = np.random.default_rng(0).standard_normal((N, E), np.float32)
    return rows_NE / np.linalg.norm(rows_NE, axis=1, keepdims=True)


def write_parquet(path, embeddings, encoding, kind=None):
    """A file of 50 rows in groups of 16."""
    metadata = {b"wordsight.fingerprint": msgspec.json.encode(tiny_clip().fingerprint)}
    columns = {
        "path": pa.array([f"{number}.png" for number in range(N)]),
        "sha256": pa.array([f"{number:064x}" for number in range(N)]),
        "price": pa.array([number / 2 for number in range(N)]),
        "embedding": pa.array(list(embeddings), kind or fixed_size_list()),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path, row_group_size=16, **encoding)
    return path


def all_blocks(stored, max_rows):
    blocks = [block.copy() for block in stored.blocks(max_rows)]
    assert [len(block) for block in blocks[:-1]] == [max_rows] * (len(blocks) - 1)
    return np.concatenate(blocks)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", [fixed_size_list(), fixed_size_list(is_nullable=True), pa.list_(pa.float32())])
def test_blocks_are_the_rows_in_order_in_every_encoding(tmp_path, embeddings, encoding, kind):
    stored = open_embeddings(write_parquet(tmp_path / "x.parquet", embeddings, ENCODINGS[encoding], kind))
    assert (stored.num_embeddings, stored.fingerprint) == (N, tiny_clip().fingerprint)
    for max_rows in (1, 7, 16, 50, 1000):
        np.testing.assert_array_equal(all_blocks(stored, max_rows), embeddings)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_only_plain_pages_are_read_without_decoding(tmp_path, embeddings, encoding):
    with write_parquet(tmp_path / "x.parquet", embeddings, ENCODINGS[encoding]).open("rb") as file:
        segments = plain_segments(file, row_groups(file), 3, E)
    if encoding != "as written":
        assert segments is None
        return
    assert [segment.num_rows for segment in segments] == [16, 16, 16, 2]
    content = (tmp_path / "x.parquet").read_bytes()
    assert content[segments[1].offset :].startswith(embeddings[16:32].tobytes())


def test_rows_have_the_order_of_their_numbers_and_the_columns_of_the_table(tmp_path, embeddings):
    stored = open_embeddings(write_parquet(tmp_path / "x.parquet", embeddings, ENCODINGS["as written"]))
    rows = stored.rows([49, 0, 17, 16, 0])
    assert rows == [StoredRow(f"{n}.png", f"{n:064x}", {"price": n / 2}) for n in (49, 0, 17, 16, 0)]
    assert stored.rows([]) == []


@pytest.mark.parametrize("name", ["embeddings.npy", "embeddings.parquet"])
def test_files_of_the_first_version_are_read(name):
    expected = json.loads((DIRECTORY / "expected.json").read_text())["image_embeddings"]
    stored = open_embeddings(DIRECTORY / name)
    np.testing.assert_allclose(all_blocks(stored, 4), expected, atol=1e-5)
    names = [row.path.rpartition("/")[2] for row in stored.rows(range(6))]
    assert names == sorted(path.name for path in (DIRECTORY / "images").iterdir())


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_rows_without_an_embedding_are_left_out(tmp_path, name):
    paths = write_images(tmp_path / "photos", 20)
    for number in (0, 7, 19):
        paths[number].write_bytes(b"hello")
    readable = [path for number, path in enumerate(paths) if number not in (0, 7, 19)]
    embed_files(tiny_clip(), map(file_image, paths), tmp_path / name)
    stored = open_embeddings(tmp_path / name)
    assert stored.num_embeddings == 17
    np.testing.assert_allclose(all_blocks(stored, 3), tiny_clip().embed_images(readable), atol=1e-5)
    assert [row.path for row in stored.rows(range(17))] == [str(path) for path in readable]


def test_a_file_of_another_model_is_refused_and_both_fingerprints_are_named(tmp_path, embeddings):
    stored = open_embeddings(write_parquet(tmp_path / "x.parquet", embeddings, {}))
    stored.require_fingerprint(tiny_clip().fingerprint)
    other = tiny_clip(seed=1).fingerprint
    with pytest.raises(DataError, match=r"x.parquet: holds embeddings of .*; use the model") as error:
        stored.require_fingerprint(other)
    assert str(other) in str(error.value)
    assert str(stored.fingerprint) in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.parquet", None, r"a.parquet: no such file; write it with 'wordsight embed IMAGES --out a.parquet'"),
        ("a.npy", None, r"a.npy: no such file"),
        ("a.csv", b"x", r"a.csv: not a file of embeddings; expected a name that ends in .parquet or .npy"),
        ("a.parquet", b"hello", r"a.parquet: not a file of embeddings \(.*\); write one with 'wordsight embed"),
        ("a.npy", b"hello", r"a.npy: not a file of embeddings \(.*\); write one with"),
    ],
)
def test_another_file_is_refused_in_one_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as error:
        open_embeddings(tmp_path / name)
    assert "\n" not in str(error.value)


def test_a_table_and_an_array_without_a_fingerprint_are_refused(tmp_path):
    pq.write_table(pa.table({"path": ["a"]}), tmp_path / "a.parquet")
    np.save(tmp_path / "a.npy", np.eye(8, dtype=np.float32))
    with pytest.raises(DataError, match=r"a.parquet: not a file of embeddings \(no fingerprint"):
        open_embeddings(tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.npy: not a file of embeddings \(.*a.npy.json: no such file"):
        open_embeddings(tmp_path / "a.npy")


@pytest.mark.parametrize("change", [lambda content: content[:-4], lambda content: content + b"0000"])
def test_an_array_of_another_size_than_stated_is_refused(tmp_path, change):
    for name in ("embeddings.npy", "embeddings.npy.json"):
        shutil.copy(DIRECTORY / name, tmp_path)
    path = tmp_path / "embeddings.npy"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=r"embeddings.npy: not a file of embeddings \(.* bytes"):
        open_embeddings(path)


@pytest.mark.parametrize("encoding", ["as written", "compressed"])
def test_a_file_that_is_truncated_while_it_is_read_is_an_error(tmp_path, embeddings, encoding):
    path = write_parquet(tmp_path / "x.parquet", embeddings, ENCODINGS[encoding])
    stored = open_embeddings(path)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"x.parquet: damaged \(.*\); write it again"):
        all_blocks(stored, 7)
    with pytest.raises(DataError, match=r"x.parquet: damaged"):
        stored.rows([3])


def test_lists_of_another_length_are_refused(tmp_path, embeddings):
    rows = [list(row) for row in embeddings]
    rows[3], rows[4] = rows[3][:-1], rows[4] + [0.0]
    metadata = {b"wordsight.fingerprint": msgspec.json.encode(tiny_clip().fingerprint)}
    table = pa.table({"path": ["a"] * N, "sha256": ["b"] * N, "embedding": pa.array(rows, pa.list_(pa.float32()))})
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"x.parquet: damaged \(expected embeddings of 8 float32 components\)"):
        all_blocks(open_embeddings(tmp_path / "x.parquet"), 10)
