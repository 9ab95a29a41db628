"""Files of embeddings: contents, errors, and resuming."""

import hashlib
import json
import resource
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import png, tiny_clip, write_images

from wordsight.data import PackOptions, open_source, pack
from wordsight.data.inputs import count_images, file_image, iter_images
from wordsight.embed import job
from wordsight.errors import ConfigError, DataError, OutputError
from wordsight.files import lock


def embed_files(clip, paths, out, *more):
    return job.embed_files(clip, map(file_image, paths), out, *more)


@pytest.fixture
def paths(tmp_path):
    """Seventy readable images and two unreadable ones among them."""
    paths = write_images(tmp_path / "photos", 72)
    paths[3].write_bytes(b"hello")
    paths[70].unlink()
    return paths


def readable(paths):
    return [path for number, path in enumerate(paths) if number not in (3, 70)]


def test_parquet_has_a_row_with_embedding_or_error_for_every_image(tmp_path, paths):
    clip = tiny_clip()
    summary = embed_files(clip, paths, tmp_path / "out.parquet")
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["path", "sha256", "embedding", "error"]
    assert table["path"].to_pylist() == [str(path) for path in paths]
    rows = table.to_pylist()
    assert [number for number, row in enumerate(rows) if row["embedding"] is None] == [3, 70]
    assert "003.png: not an image" in rows[3]["error"]
    assert rows[0]["error"] is None
    embeddings = np.array([row["embedding"] for row in rows if row["embedding"]], np.float32)
    np.testing.assert_allclose(embeddings, clip.embed_images(readable(paths)), atol=1e-5)
    assert [row["sha256"] for row in rows[:3]] == [hashlib.sha256(p.read_bytes()).hexdigest() for p in paths[:3]]
    assert (summary.num_embeddings, summary.num_computed) == (70, 70)
    assert [image.path for image in summary.unreadable] == [str(paths[3]), str(paths[70])]


def test_parquet_metadata_has_the_fingerprint(tmp_path, paths):
    clip = tiny_clip()
    embed_files(clip, paths[:1], tmp_path / "out.parquet")
    stored = json.loads(pq.read_schema(tmp_path / "out.parquet").metadata[b"wordsight.fingerprint"])
    assert stored["weights"] == clip.fingerprint.weights
    assert stored["policy"] == "viewer"
    assert stored["preprocessing"]["size_px"] == 16


def test_numpy_has_the_readable_images_and_its_sidecar_the_rest(tmp_path, paths):
    clip = tiny_clip()
    embed_files(clip, paths, tmp_path / "out.npy")
    embeddings = np.load(tmp_path / "out.npy", allow_pickle=False)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, clip.embed_images(readable(paths)), atol=1e-5)
    sidecar = json.loads((tmp_path / "out.npy.json").read_text())
    assert sidecar["paths"] == [str(path) for path in readable(paths)]
    assert [image["path"] for image in sidecar["unreadable"]] == [str(paths[3]), str(paths[70])]
    assert "no such file" in sidecar["unreadable"][1]["reason"]
    assert sidecar["fingerprint"]["weights"] == clip.fingerprint.weights
    assert sidecar["sha256"] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in readable(paths)]
    assert sidecar["format"] == "wordsight-embeddings-1"
    assert sidecar["embeddings_sha256"] == hashlib.sha256((tmp_path / "out.npy").read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_progress_is_reported_after_each_image_of_a_stream(tmp_path, paths, name):
    reported = []
    embed_files(tiny_clip(), iter(paths), tmp_path / name, reported.append)
    assert reported == list(range(1, 73))


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_nothing_is_written_if_no_image_is_readable(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(b"hello")
    with pytest.raises(DataError, match=r"none of 1 image could be read; the first: .*a.jpg: not an image"):
        embed_files(tiny_clip(), [tmp_path / "a.jpg"], tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_an_unsupported_type_of_file_is_refused_before_any_work(tmp_path):
    with pytest.raises(ConfigError, match=r"expected a name that ends in .parquet or .npy"):
        embed_files(tiny_clip(), iter([]), tmp_path / "out.csv")


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_full_disk_preserves_the_previous_file(tmp_path, paths, name):
    embed_files(tiny_clip(), paths[:1], tmp_path / name)
    previous = (tmp_path / name).read_bytes()
    files = sorted(path.name for path in tmp_path.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            embed_files(tiny_clip(), paths, tmp_path / name)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / name).read_bytes() == previous
    assert sorted(path.name for path in tmp_path.iterdir()) == files


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_work_done_before_the_disk_was_full_is_not_repeated(tmp_path, name, encoded, monkeypatch):
    monkeypatch.setattr(job, "_ROWS_PER_PART", 20)
    paths = write_images(tmp_path / "photos", 400)
    clip, out = tiny_clip(), tmp_path / name
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # enough for a part, but not for all
    try:
        with pytest.raises(OutputError, match=r"cannot be written: .*; choose another output path or free some space"):
            embed_files(clip, paths, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not out.exists()
    before = sum(encoded)
    summary = embed_files(clip, paths, out)
    assert summary.num_embeddings == 400
    assert before >= 300
    assert summary.num_computed <= 400 - before + 2 * clip.batch_size  # encoded, but not yet written
    np.testing.assert_allclose(embeddings_of(out), clip.embed_images(paths), atol=1e-5)


def test_all_unreadable_images_are_counted_and_the_first_are_listed(tmp_path, paths, monkeypatch):
    monkeypatch.setattr(job, "MAX_LISTED_UNREADABLE", 1)
    summary = embed_files(tiny_clip(), paths, tmp_path / "out.parquet")
    assert (summary.num_unreadable, [image.path for image in summary.unreadable]) == (2, [str(paths[3])])
    errors = pq.read_table(tmp_path / "out.parquet")["error"].to_pylist()
    assert len([error for error in errors if error]) == 2


def test_a_name_that_is_not_utf8_is_written_with_escapes(tmp_path):
    path = write_images(tmp_path / "photos", 1)[0]
    not_utf8 = path.with_name("caf\udce9.png")
    path.rename(not_utf8)
    embed_files(tiny_clip(), [not_utf8], tmp_path / "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet")["path"].to_pylist() == [str(path.parent / "caf\\udce9.png")]


@pytest.fixture
def encoded(monkeypatch):
    """The number of images in each call of the model."""
    calls = []
    runtime_class = type(tiny_clip().runtime)
    encode = runtime_class.encode_pixels

    def count_and_encode(self, pixels):
        calls.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(runtime_class, "encode_pixels", count_and_encode)
    return calls


def embeddings_of(out):
    if out.suffix == ".npy":
        return np.load(out)
    return np.array([row for row in pq.read_table(out)["embedding"].to_pylist() if row], np.float32)


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_second_run_embeds_only_new_and_changed_images(tmp_path, paths, name, encoded):
    clip, out = tiny_clip(), tmp_path / name
    embed_files(clip, paths, out)
    encoded.clear()
    again = embed_files(clip, paths, out)
    assert (again.num_embeddings, again.num_computed, encoded) == (70, 0, [])
    paths[0].write_bytes(png(500))
    paths[3].write_bytes(png(501))  # unreadable before
    moved = paths[5].rename(paths[5].with_name("moved.png"))
    changed = [*paths[:5], moved, *paths[6:]]
    summary = embed_files(clip, changed, out)
    assert (summary.num_embeddings, summary.num_computed, sum(encoded)) == (71, 2, 2)
    np.testing.assert_allclose(embeddings_of(out)[:10], clip.embed_images(changed[:10]), atol=1e-5)
    assert embed_files(clip, paths[10:20], out).num_embeddings == 10  # embeddings of other images are dropped
    assert len(embeddings_of(out)) == 10


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_an_interrupted_run_keeps_its_work(tmp_path, paths, name, encoded, monkeypatch):
    monkeypatch.setattr(job, "_ROWS_PER_PART", 20)
    clip, out = tiny_clip(), tmp_path / name

    def stop(done):
        if done == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files(clip, paths, out, stop)
    assert not out.exists()
    assert len(list((tmp_path / f".{name}.parts").glob("*.parquet"))) == 3
    encoded.clear()
    summary = embed_files(clip, paths, out)
    # 49 of the first 50 could be read
    assert (summary.num_embeddings, summary.num_computed, sum(encoded)) == (70, 21, 21)
    np.testing.assert_allclose(embeddings_of(out), clip.embed_images(readable(paths)), atol=1e-5)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_file_of_another_model_is_refused_and_both_fingerprints_are_named(tmp_path, paths, name):
    embed_files(tiny_clip(), paths[:2], tmp_path / name)
    previous = (tmp_path / name).read_bytes()
    other = tiny_clip(seed=1)
    with pytest.raises(DataError) as error:
        embed_files(other, paths[:2], tmp_path / name)
    assert str(tiny_clip().fingerprint) in str(error.value)
    assert str(other.fingerprint) in str(error.value)
    assert (tmp_path / name).read_bytes() == previous


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_a_file_that_holds_no_embeddings_is_not_overwritten(tmp_path, paths, name):
    (tmp_path / name).write_bytes(b"precious")
    with pytest.raises(DataError, match=r"exists and is not a file of embeddings \(.*\); choose another path"):
        embed_files(tiny_clip(), paths[:2], tmp_path / name)
    assert (tmp_path / name).read_bytes() == b"precious"


def test_two_processes_cannot_write_the_same_file(tmp_path, paths):
    with lock(tmp_path / ".out.npy.parts" / ".lock"), pytest.raises(OutputError, match="another process"):
        embed_files(tiny_clip(), paths[:2], tmp_path / "out.npy")


def test_images_of_tables_and_shards_are_embedded(tmp_path, paths):
    table = tmp_path / "photos" / "list.csv"
    table.write_text("path,text\n000.png,a\n001.png,b\n,c\nmissing.png,d\n")
    pq.write_table(pa.table({"image": [paths[4].read_bytes(), b"hello"]}), tmp_path / "bytes.parquet")
    lines = [json.dumps({"file": path.name, "captions": ["x"]}) for path in paths[:3]]
    (tmp_path / "photos" / "captions.jsonl").write_text("\n".join(lines))
    pack(open_source(tmp_path / "photos"), tmp_path / "shards", PackOptions())
    clip = tiny_clip()
    for source, first, number, reasons in [
        (table, paths[0], 2, ["list.csv row 4: no image in column 'path'", f"{table.parent}/missing.png: no such"]),
        (tmp_path / "bytes.parquet", paths[4], 1, ["not an image"]),
        (tmp_path / "shards", paths[0], 3, []),
    ]:
        out = tmp_path / f"{source.stem}.npy"
        summary = job.embed_files(clip, iter_images([source]), out)
        assert summary.num_embeddings == number
        assert len(summary.unreadable) == len(reasons)
        for image, reason in zip(summary.unreadable, reasons, strict=True):
            assert reason in image.reason
        np.testing.assert_allclose(np.load(out)[:1], clip.embed_images(first), atol=1e-5)
    assert count_images([tmp_path / "shards"]) == 3
    assert count_images([tmp_path / "shards", table]) is None
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column of images \(file, .*\); the columns are: a, b"):
        list(iter_images([tmp_path / "x.csv"]))


def test_a_heic_image_without_its_package_has_an_error_that_says_what_to_install(tmp_path, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photos" / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert count_images([tmp_path / "photos"]) == 72
    summary = job.embed_files(tiny_clip(), iter_images([tmp_path / "photos"]), tmp_path / "out.parquet")
    rows = {row["path"].rpartition("/")[2]: row for row in pq.read_table(tmp_path / "out.parquet").to_pylist()}
    assert rows["a.HEIC"]["embedding"] is None
    assert rows["a.HEIC"]["error"].endswith("pip install 'wordsight[heif]'")
    assert summary.num_embeddings == 70
