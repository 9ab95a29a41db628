import hashlib
import json
import resource

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import tiny_clip, write_pictures

from wordsight.errors import ConfigError, DataError, OutputError
from wordsight.infer.embed_files import embed_files


@pytest.fixture
def paths(tmp_path):
    """Seventy readable pictures with two broken ones among them."""
    paths = write_pictures(tmp_path / "photos", 72)
    paths[3].write_bytes(b"hello")
    paths[70].unlink()
    return paths


def readable(paths):
    return [path for number, path in enumerate(paths) if number not in (3, 70)]


def test_parquet_has_a_row_for_every_picture_with_vector_or_reason(tmp_path, paths):
    clip = tiny_clip()
    done = embed_files(clip, paths, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["path", "vector", "error"]
    assert table["path"].to_pylist() == [str(path) for path in paths]
    rows = table.to_pylist()
    assert [number for number, row in enumerate(rows) if row["vector"] is None] == [3, 70]
    assert "not a picture" in rows[3]["error"]
    assert rows[0]["error"] is None
    vectors = np.array([row["vector"] for row in rows if row["vector"]], np.float32)
    np.testing.assert_allclose(vectors, clip.embed_images(readable(paths)), atol=1e-5)
    assert done.vectors == 70
    assert [broken.path for broken in done.broken] == [str(paths[3]), str(paths[70])]


def test_parquet_carries_the_fingerprint(tmp_path, paths):
    clip = tiny_clip()
    embed_files(clip, paths[:1], tmp_path / "out.parquet")
    stored = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"wordsight.fingerprint"])
    assert stored["weights"] == clip.fingerprint.weights
    assert stored["policy"] == "viewer"
    assert stored["preprocessing"]["size_px"] == 16


def test_numpy_has_the_readable_ones_and_a_sidecar_that_says_which(tmp_path, paths):
    clip = tiny_clip()
    embed_files(clip, paths, tmp_path / "out.npy")
    vectors = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, clip.embed_images(readable(paths)), atol=1e-5)
    sidecar = json.loads((tmp_path / "out.npy.json").read_text())
    assert sidecar["paths"] == [str(path) for path in readable(paths)]
    assert [broken["path"] for broken in sidecar["broken"]] == [str(paths[3]), str(paths[70])]
    assert "no such file" in sidecar["broken"][1]["reason"]
    assert sidecar["fingerprint"]["weights"] == clip.fingerprint.weights
    assert sidecar["vectors_sha256"] == hashlib.sha256((tmp_path / "out.npy").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_paths_stream_and_progress_is_told(tmp_path, paths, name):
    told = []
    embed_files(tiny_clip(), iter(paths), tmp_path / name, told.append)
    assert told == list(range(1, 73))


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_nothing_is_written_where_nothing_could_be_read(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"none of 1 pictures could be read; the first: .*a.jpg: not a picture"):
        embed_files(tiny_clip(), [tmp_path / "a.jpg"], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_another_kind_of_file_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"ends in .parquet or .npy"):
        embed_files(tiny_clip(), iter([]), tmp_path / "out.csv")


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_full_disk_leaves_the_former_file(tmp_path, paths, name):
    (tmp_path / name).write_bytes(b"former")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            embed_files(tiny_clip(), paths, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_bytes() == b"former"
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "photos"]


def test_a_name_that_is_not_utf8_is_written_as_escapes(tmp_path):
    path = write_pictures(tmp_path / "photos", 1)[0]
    strange = path.with_name("caf\udce9.png")
    path.rename(strange)
    embed_files(tiny_clip(), [strange], tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["path"].to_pylist() == [str(path.parent / "caf\\udce9.png")]
