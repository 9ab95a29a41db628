import numpy as np
import pytest
from tests.search.files import write_embeddings
from tests.tiny_clip import tiny_clip

from wordsight.embed import open_embeddings
from wordsight.embed.embedding_files import EmbeddingRow
from wordsight.errors import DataError
from wordsight.search import ExactSearch, exact

NUM_ROWS, DIM = 900, 8


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, DIM)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(path, rows):
    """A file of embeddings as `wordsight embed` writes it."""
    write_embeddings(
        path, tiny_clip().fingerprint, [EmbeddingRow(f"{n}.jpg", f"{n:064x}", row) for n, row in enumerate(rows)]
    )
    return open_embeddings(path)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Rows of which every third occurs again, so that there are ties."""
    distinct = unit_rows(NUM_ROWS, 0)
    distinct[1::3] = distinct[::3]
    return distinct


@pytest.fixture(scope="module", params=["embeddings.parquet", "embeddings.npy"])
def stored(request, rows, tmp_path_factory):
    return write(tmp_path_factory.mktemp("stored") / request.param, rows)


def expected(rows, query, top):
    """Every similarity in float64, and a stable sort."""
    similarity = [sum(a * b for a, b in zip(row.tolist(), query.tolist(), strict=True)) for row in rows]
    return sorted(range(len(rows)), key=lambda n: (-similarity[n], n))[:top], similarity


@pytest.mark.parametrize(
    ("top", "block_bytes"),
    [(1, 32), (10, 32), (2, 224), (NUM_ROWS, 224), (10, 1 << 24), (NUM_ROWS + 5, 1 << 24)],
)
def test_results_are_those_of_a_stable_sort_whatever_the_size_of_the_blocks(
    stored, rows, top, block_bytes, monkeypatch
):
    monkeypatch.setattr(exact, "_BLOCK_BYTES", block_bytes)
    query = unit_rows(1, 7)[0]
    search = ExactSearch([stored], keep_copy=True)
    numbers, similarity = expected(rows, query, top)
    for _ in range(2):  # the second time in the copy
        matches = search.find(query, top)
        scores = [match.score for match in matches]
        np.testing.assert_allclose(scores, [similarity[n] for n in numbers], atol=1e-12)
        assert [match.number for match in matches] == numbers


def test_a_second_query_gives_bitwise_the_results_of_the_first(stored):
    search, query = ExactSearch([stored], keep_copy=True), unit_rows(1, 3)[0]
    assert search.find(query, 50) == search.find(query, 50)


def test_the_copy_rules_out_almost_all_rows(stored, monkeypatch):
    search, query = ExactSearch([stored], keep_copy=True), unit_rows(1, 3)[0]
    search.find(query, 5)
    read = []
    original = type(stored).embeddings
    monkeypatch.setattr(
        type(stored), "embeddings", lambda self, numbers: read.extend(numbers) or original(self, numbers)
    )
    search.find(unit_rows(1, 4)[0], 5)
    assert 5 <= len(read) < 100


def test_several_files_are_one_list(rows, tmp_path):
    files = [write(tmp_path / "a.npy", rows[:10]), write(tmp_path / "b.parquet", rows[10:40])]
    numbers, _ = expected(rows[:40], rows[12], 5)
    indices = [match.number + (10 if match.file else 0) for match in ExactSearch(files).find(rows[12], 5)]
    assert indices == numbers


def test_embeddings_that_are_not_finite_are_reported_with_their_number(tmp_path):
    rows = unit_rows(20, 0)
    rows[13, 2] = np.nan
    stored = write(tmp_path / "damaged.npy", rows)
    with pytest.raises(DataError, match=r"damaged\.npy: embedding 13 is not finite.*write it again"):
        ExactSearch([stored]).find(rows[0], 3)


def test_rows_of_zeros_have_an_exact_copy(tmp_path):
    rows = unit_rows(6, 0)
    rows[2] = 0
    search = ExactSearch([write(tmp_path / "zeros.npy", rows)], keep_copy=True)
    assert search.find(rows[0], 6) == search.find(rows[0], 6)


def test_embeddings_by_number_are_those_of_the_blocks(stored, rows):
    numbers = [899, 0, 17, 17, 512]
    assert np.array_equal(stored.embeddings(numbers), rows[numbers])
    assert stored.embeddings([]).shape == (0, DIM)
