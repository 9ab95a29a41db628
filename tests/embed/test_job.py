"""Files of embeddings: contents, errors, and resuming."""

import hashlib
import json
import resource
import sys

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.tiny_clip import png, tiny_clip, write_images

from wordsight.data import PackOptions, open_source, pack
from wordsight.data.inputs import count_images, file_image, iter_images
from wordsight.embed import job, open_embeddings
from wordsight.errors import ConfigError, DataError, OutputError, WeightsError
from wordsight.locks import lock


def embed_files(clip, paths, out, *more, **options):
    return job.embed_files(clip, map(file_image, paths), out, *more, **options)


@pytest.fixture
def paths(tmp_path):
    """Seventy readable images and two unreadable ones among them."""
    paths = write_images(tmp_path / "photos", 72)
    paths[3].write_bytes(b"hello")
    paths[70].unlink()
    return paths


def readable(paths):
    return [path for number, path in enumerate(paths) if number not in (3, 70)]


def unreadable_of(out):
    """The lines of the list next to a Parquet file, whose metadata states the hash of the list."""
    path = out.with_suffix(".unreadable.jsonl")
    stated = (pq.read_metadata(out).metadata or {}).get(b"wordsight.unreadable_sha256")
    if not path.exists():
        assert stated is None
        return []
    assert stated == hashlib.sha256(path.read_bytes()).hexdigest().encode()
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_parquet_has_a_row_for_every_readable_image_and_a_list_of_the_others(tmp_path, paths):
    clip, out = tiny_clip(), tmp_path / "out.parquet"
    summary = embed_files(clip, paths, out)
    table = pq.read_table(out)
    assert table.schema.types == [pa.string(), pa.string(), pa.list_(pa.field("element", pa.float32(), False), 8)]
    assert table.column_names == ["path", "sha256", "embedding"]
    assert not any(field.nullable for field in table.schema)
    assert table["path"].to_pylist() == [str(path) for path in readable(paths)]
    assert table["sha256"].to_pylist() == [hashlib.sha256(p.read_bytes()).hexdigest() for p in readable(paths)]
    np.testing.assert_allclose(table["embedding"].to_pylist(), clip.embed_images(readable(paths)), atol=1e-5)
    missing, reasons = zip(*((line["path"], line["reason"]) for line in unreadable_of(out)), strict=True)
    assert missing == (str(paths[3]), str(paths[70]))
    assert "003.png: not an image" in reasons[0]
    assert (summary.num_embeddings, summary.num_computed) == (70, 70)
    assert [image.path for image in summary.unreadable] == [str(paths[3]), str(paths[70])]


def test_unreadable_images_are_rows_on_request(tmp_path, paths):
    clip, out = tiny_clip(), tmp_path / "out.parquet"
    embed_files(clip, paths, out)
    assert (tmp_path / "out.unreadable.jsonl").exists()
    assert embed_files(clip, paths, out, keep_unreadable=True).num_computed == 0
    assert not (tmp_path / "out.unreadable.jsonl").exists()
    rows = pq.read_table(out).to_pylist()
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [number for number, row in enumerate(rows) if row["embedding"] is None] == [3, 70]
    assert [number for number, row in enumerate(rows) if row["error"] is not None] == [3, 70]
    assert "003.png: not an image" in rows[3]["error"]
    assert embed_files(clip, paths, out).num_computed == 0
    assert len(pq.read_table(out)) == 70
    with pytest.raises(ConfigError, match=r"out.npy: a NumPy file has no rows without embeddings; drop --keep-un"):
        embed_files(clip, paths, tmp_path / "out.npy", keep_unreadable=True)


def test_the_list_of_unreadable_images_is_deleted_when_all_are_readable(tmp_path, paths):
    out = tmp_path / "out.parquet"
    embed_files(tiny_clip(), paths, out)
    assert len(unreadable_of(out)) == 2
    embed_files(tiny_clip(), paths[:3], out)
    assert unreadable_of(out) == []
    assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.parquet"}


@pytest.mark.parametrize("content", [b"precious", b"", b'{"path": 1}\n', b'{"a": "b"}\n'])
def test_a_list_of_another_program_is_not_replaced(tmp_path, paths, content):
    path = tmp_path / "out.unreadable.jsonl"
    path.write_bytes(content)
    with pytest.raises(OutputError, match=r"out.unreadable.jsonl.*; it would be replaced: choose another output path"):
        embed_files(tiny_clip(), paths[:2], tmp_path / "out.parquet")
    assert path.read_bytes() == content


def test_a_writer_killed_between_its_two_files_loses_nothing(tmp_path, paths, encoded):
    """The list is replaced first, while the new Parquet file is complete under a hidden name."""
    clip, out = tiny_clip(), tmp_path / "out.parquet"
    embed_files(clip, paths[:10], out)
    former = out.read_bytes()
    embed_files(clip, paths, out)
    for state in (former, None):
        out.rename(tmp_path / ".out.parquet.next")
        if state:
            out.write_bytes(state)
        encoded.clear()
        summary = embed_files(clip, paths, out)
        assert (summary.num_embeddings, summary.num_computed, encoded) == (70, 0, [])
        assert {path.name for path in tmp_path.iterdir()} == {"photos", "out.parquet", "out.unreadable.jsonl"}
        assert len(unreadable_of(out)) == 2


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
    assert sidecar["format"] == "wordsight-embeddings-2"
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
    assert len(unreadable_of(tmp_path / "out.parquet")) == 2


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
    assert count_images([tmp_path / "shards", table]) == 7
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"no column looks like an image; .*; the columns are: a \(number"):
        list(iter_images([tmp_path / "x.csv"]))


def test_a_heic_image_without_its_package_has_an_error_that_says_what_to_install(tmp_path, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photos" / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert count_images([tmp_path / "photos"]) == 72
    summary = job.embed_files(tiny_clip(), iter_images([tmp_path / "photos"]), tmp_path / "out.parquet")
    reasons = {row["path"].rpartition("/")[2]: row["reason"] for row in unreadable_of(tmp_path / "out.parquet")}
    assert reasons["a.HEIC"].endswith("pip install 'wordsight[heif]'")
    assert summary.num_embeddings == 70


def embed_with_warnings(clip, paths, out):
    lines = []
    summary = embed_files(clip, paths, out, lambda done: None, None, lines.append)
    return summary, lines


def require_fresh(out, clip, paths):
    """Every stored embedding is the one of the image whose path it has."""
    if out.suffix == ".npy":
        stored = dict(
            zip(json.loads((out.parent / f"{out.name}.json").read_text())["paths"], np.load(out), strict=True)
        )
    else:
        stored = {row["path"]: row["embedding"] for row in pq.read_table(out).to_pylist() if row["embedding"]}
    assert list(stored) == [str(path) for path in paths]
    np.testing.assert_allclose(np.array(list(stored.values())), clip.embed_images(paths), atol=1e-5)


def flip_a_byte(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def rewrite_sidecar(out, **changes):
    path = out.with_name(f"{out.name}.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite_parquet(out, change, metadata=True):
    """Write a file again as another program would, with its metadata or only with the fingerprint."""
    table = change(pq.read_table(out))
    if not metadata:
        key = b"wordsight.fingerprint"
        table = table.replace_schema_metadata({key: table.schema.metadata[key]})
    pq.write_table(table, out)


def swap_embeddings(table):
    rows = table["embedding"].to_pylist()
    return table.set_column(2, "embedding", pa.array([rows[1], rows[0], *rows[2:]], pa.list_(pa.float32())))


def with_first_embedding(change):
    def changed(table):
        rows = table["embedding"].to_pylist()
        return table.set_column(2, "embedding", pa.array([change(rows[0]), *rows[1:]], pa.list_(pa.float32())))

    return changed


def as_float64(table):
    return table.set_column(2, "embedding", table["embedding"].cast(pa.list_(pa.float64())))


def rewrite_array(out, change):
    """Change the array of an older version's file: its hash is that of the changed file, and its rows have none."""
    np.save(out, change(np.load(out)))
    rewrite_sidecar(out, embeddings_sha256=hashlib.sha256(out.read_bytes()).hexdigest(), rows_sha256="")


def with_row(value):
    def changed(array):
        array[1] = value
        return array

    return changed


def another_order(out):
    sidecar = json.loads(out.with_name(f"{out.name}.json").read_text())
    rewrite_sidecar(out, sha256=sidecar["sha256"][::-1])


DAMAGE = {
    "npy flipped": (lambda out: flip_a_byte(out, -3), 5),
    "npy truncated": (lambda out: out.write_bytes(out.read_bytes()[:-40]), 5),
    "npy other rows": (lambda out: np.save(out, np.load(out)[::-1]), 5),
    "npy empty": (lambda out: out.write_bytes(b""), 5),
    "npy sidecar in another order": (another_order, 5),
    "npy sidecar of fewer rows": (lambda out: rewrite_sidecar(out, paths=["a"], rows_sha256=""), 5),
    "npy old, NaN": (lambda out: rewrite_array(out, with_row(np.nan)), 1),
    "npy old, infinite": (lambda out: rewrite_array(out, with_row(np.inf)), 1),
    "npy old, zero": (lambda out: rewrite_array(out, with_row(0)), 1),
    "npy old, large": (lambda out: rewrite_array(out, with_row(3e38)), 1),
    "npy old, other width": (lambda out: rewrite_array(out, lambda array: array[:, :6]), 5),
    "npy old, float64": (lambda out: rewrite_array(out, lambda array: array.astype(float)), 5),
    "npy old, fewer rows": (lambda out: rewrite_array(out, lambda array: array[:3]), 5),
    "parquet swapped": (lambda out: rewrite_parquet(out, swap_embeddings), 5),
    "parquet flipped": (lambda out: flip_a_byte(out, out.read_bytes().index(tiny_embedding(out)) + 2), 5),
    "parquet saved again by another program": (lambda out: rewrite_parquet(out, lambda table: table), 5),
    "parquet fewer rows": (lambda out: rewrite_parquet(out, lambda table: table[:3]), 5),
    "parquet old, NaN": (
        lambda out: rewrite_parquet(out, with_first_embedding(lambda row: [np.nan, *row[1:]]), False),
        1,
    ),
    "parquet old, narrow": (lambda out: rewrite_parquet(out, with_first_embedding(lambda row: row[1:]), False), 5),
    "parquet old, wide": (lambda out: rewrite_parquet(out, with_first_embedding(lambda row: row + row), False), 5),
    "parquet old, float64": (lambda out: rewrite_parquet(out, as_float64, False), 5),
    "parquet old, no column": (lambda out: rewrite_parquet(out, lambda table: table.drop(["sha256"]), False), 5),
}


def tiny_embedding(out):
    return np.array(pq.read_table(out)["embedding"].to_pylist()[0], "<f4").tobytes()


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_embeddings_are_noticed_and_computed_again(tmp_path, damage):
    clip, paths = tiny_clip(), write_images(tmp_path / "photos", 5)
    out = tmp_path / f"out.{damage.split()[0]}"
    embed_files(clip, paths, out)
    change, num_computed = DAMAGE[damage]
    change(out)
    summary, lines = embed_with_warnings(clip, paths, out)
    assert (summary.num_embeddings, summary.num_computed) == (5, num_computed)
    assert len(lines) == 1
    assert lines[0].startswith(str(out))
    assert lines[0].endswith("embedded again")
    assert "\n" not in lines[0]
    require_fresh(out, clip, paths)
    assert embed_with_warnings(clip, paths, out)[1] == []


def test_a_damaged_part_of_an_interrupted_run_is_embedded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(job, "_ROWS_PER_PART", 4)
    clip, paths, out = tiny_clip(), write_images(tmp_path / "photos", 80), tmp_path / "out.npy"

    def stop(done):
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_files(clip, paths, out, stop)
    parts = sorted((tmp_path / ".out.npy.parts").glob("*.parquet"))
    before = sum(len(pq.read_table(part)) for part in parts)
    assert before > 8
    rewrite_parquet(parts[0], swap_embeddings)
    flip_a_byte(parts[1], parts[1].read_bytes().index(tiny_embedding(parts[1])))
    summary, lines = embed_with_warnings(clip, paths, out)
    assert summary.num_computed == 80 - before + 8
    assert [str(part) in line for part, line in zip(parts, lines, strict=False)] == [True, True]
    require_fresh(out, clip, paths)


@pytest.mark.parametrize("content", [b"precious", b"{}", b"[1]"])
def test_a_sidecar_of_another_program_is_not_replaced(tmp_path, paths, content):
    (tmp_path / "out.npy.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"out.npy.json.*; it would be replaced: choose another output path"):
        embed_files(tiny_clip(), paths[:2], tmp_path / "out.npy")
    assert (tmp_path / "out.npy.json").read_bytes() == content


def test_an_array_without_a_sidecar_is_not_replaced(tmp_path, paths):
    np.save(tmp_path / "out.npy", np.eye(8, dtype=np.float32))
    with pytest.raises(DataError, match="exists and is not a file of embeddings"):
        embed_files(tiny_clip(), paths[:2], tmp_path / "out.npy")
    assert np.load(tmp_path / "out.npy").shape == (8, 8)


NAMES = [
    "\udcffx.png",
    "a\nb.png",
    "a\tb.png",
    "a\x1b[31m.png",
    "é" * 120 + ".png",
    "x" * 251 + ".png",
    "#t=1.png",
    "'\"\\.png",
]


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_any_file_name_is_stored_and_ends_no_run(tmp_path, name):
    clip, photos = tiny_clip(), tmp_path / "photos"
    originals = write_images(photos, len(NAMES))
    for path, new in zip(originals, NAMES, strict=True):
        path.rename(photos / new)
    (photos / "\udcfe.png").symlink_to("nowhere")
    (photos / "c\nd.png").write_bytes(b"hello")
    out = tmp_path / name
    summary = job.embed_files(clip, iter_images([photos]), out)
    assert (summary.num_embeddings, summary.num_unreadable) == (len(NAMES), 2)
    if name == "out.npy":
        sidecar = json.loads(out.with_name("out.npy.json").read_text("utf-8"))
        stored, unreadable = sidecar["paths"], sidecar["unreadable"]
    else:
        stored, unreadable = pq.read_table(out)["path"].to_pylist(), unreadable_of(out)
    assert set(stored) == {f"{photos}/{new}".replace("\udcff", "\\udcff") for new in NAMES}
    assert {row["path"] for row in unreadable} == {f"{photos}/\\udcfe.png", f"{photos}/c\nd.png"}
    assert all(row["reason"] for row in unreadable)
    assert job.embed_files(clip, iter_images([photos]), out).num_computed == 0


@pytest.mark.parametrize("name", ["out.parquet", "out.npy"])
def test_embeddings_of_a_model_whose_weights_change_during_the_work_are_not_stored(tmp_path, name, monkeypatch):
    monkeypatch.setattr(job, "_ROWS_PER_PART", 20)
    clip, paths, out = tiny_clip(), write_images(tmp_path / "photos", 100), tmp_path / name

    def change(done):
        if done == 50:
            clip.model.visual.conv1.weight.data.mul_(2)

    with pytest.raises(WeightsError, match="weights were changed while images were embedded"):
        embed_files(clip, paths, out, change)
    assert not out.exists()
    original = tiny_clip()
    embed_files(original, paths, out)
    require_fresh(out, original, paths)


@pytest.mark.parametrize("suffix", [".parquet", ".npy"])
@pytest.mark.parametrize("length", [200, 250, 255])
def test_a_long_name_of_the_output_is_used_or_refused_before_any_work(tmp_path, paths, suffix, length, encoded):
    out = tmp_path / ("x" * (length - len(suffix)) + suffix)
    if length > 250 - 10 * (suffix == ".parquet"):  # the name of the second file would be longer than 255 bytes
        with pytest.raises(OutputError, match="cannot be written: File name too long"):
            embed_files(tiny_clip(), paths[:2], out)
        assert encoded == []
        return
    embed_files(tiny_clip(), paths[:2], out)
    embed_files(tiny_clip(), paths[:2], out)
    names = {out.name, f"{out.name}.json"} if suffix == ".npy" else {out.name}
    assert {path.name for path in tmp_path.iterdir()} == names | {"photos"}


def test_an_output_that_is_a_link_is_written_where_it_points(tmp_path, paths):
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "out.npy").symlink_to(tmp_path / "large_disk" / "out.npy")
    for num_computed in (2, 0):
        assert embed_files(tiny_clip(), paths[:2], tmp_path / "out.npy").num_computed == num_computed
    assert (tmp_path / "out.npy").is_symlink()
    assert [path.name for path in (tmp_path / "large_disk").iterdir()] == ["out.npy"]


def write_version_2(out, clip, paths):
    """A Parquet file as version 2 had it: a row for each image, lists of variable length, an error for each null."""
    good = readable(paths)
    by_path = dict(zip(good, clip.embed_images(good), strict=True))
    rows = [(str(path), by_path.get(path)) for path in paths]
    sha256 = [hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None for path in paths]
    images, numbers = hashlib.sha256(), hashlib.sha256()
    for (path, embedding), digest in zip(rows, sha256, strict=True):
        images.update(msgspec.msgpack.encode((path, digest)))
        numbers.update(b"" if embedding is None else embedding.tobytes())
    columns = {
        "path": pa.array([path for path, _ in rows]),
        "sha256": pa.array(sha256),
        "embedding": pa.array([embedding for _, embedding in rows], pa.list_(pa.float32())),
        "error": pa.array([None if embedding is not None else "broken" for _, embedding in rows]),
    }
    schema = pa.table(columns).schema.with_metadata(
        {
            "wordsight.fingerprint": msgspec.json.encode(clip.fingerprint),
            "wordsight.format": "wordsight-embeddings-2",
        }
    )
    with pq.ParquetWriter(out, schema) as writer:
        writer.write_table(pa.table(columns, schema=schema))
        digest = hashlib.sha256(images.digest() + numbers.digest()).hexdigest()
        writer.add_key_value_metadata({"wordsight.rows_sha256": digest})


def test_a_file_of_version_2_is_continued(tmp_path, paths, encoded):
    clip, out = tiny_clip(), tmp_path / "out.parquet"
    write_version_2(out, clip, paths)
    stored = open_embeddings(out)
    assert stored.num_embeddings == 70
    assert [row.path for row in stored.rows([2, 3, 69])] == [str(paths[2]), str(paths[4]), str(paths[71])]
    np.testing.assert_array_equal(np.concatenate([block.copy() for block in stored.blocks(9)]), embeddings_of(out))
    encoded.clear()
    summary, lines = embed_with_warnings(clip, paths, out)
    assert (summary.num_embeddings, summary.num_computed, encoded, lines) == (70, 0, [], [])
    assert pq.read_table(out).column_names == ["path", "sha256", "embedding"]
    assert len(unreadable_of(out)) == 2
