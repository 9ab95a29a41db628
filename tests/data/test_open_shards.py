"""Reading of shards: random access, broken samples, stored indexes, manifests and fingerprints."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from wordsight.data.index import index_hash, load_index
from wordsight.data.manifest import MANIFEST_NAME
from wordsight.data.sample import BrokenSample, BrokenSampleError, Sample
from wordsight.data.shard_reader import open_shards
from wordsight.data.shard_writer import writing_shards
from wordsight.errors import DataError
from wordsight.files import sha256_file

Images = Callable[..., bytes]
Tars = Callable[..., Path]


def texts_json(*captions: str) -> bytes:
    return json.dumps({"captions": captions}).encode()


def test_samples_of_several_shards_can_be_read_in_any_order(make_shards: Callable[..., Path], image: Images) -> None:
    shards = open_shards(make_shards("set", [3, 1, 2]))
    assert len(shards) == 6
    for number in (5, 0, 3, 2, 4, 1):
        sample = shards.sample(number)
        assert (sample.key, sample.image) == (f"set{number:04d}", image(number))
        assert sample.captions == (f"image {number}", f"number {number}")
    with pytest.raises(IndexError):
        shards.sample(6)


@pytest.mark.parametrize(
    ("members", "captions", "names"),
    [
        ({"txt": b"a cat\n"}, ("a cat",), ()),
        ({"txt": b"\xef\xbb\xbfa cat"}, ("a cat",), ()),
        ({"json": b'{"caption": "a cat", "width": 3}'}, ("a cat",), ()),
        ({"json": b'{"width": 3}', "txt": b"a cat"}, ("a cat",), ()),
        ({"JSON": b'{"captions": ["a cat", " ", "two cats "]}'}, ("a cat", "two cats"), ()),
        ({"json": b'{"label": "cat", "names": ["kitty", "cat"]}'}, (), ("cat", "kitty")),
        ({"json": b'{"label": 3, "names": ["cat"]}'}, (), ("cat",)),
        ({"json": b'{"label": "cat"}'}, (), ("cat",)),
    ],
)
def test_texts_of_shards_written_by_other_programs_are_read(
    members: dict[str, bytes],
    captions: tuple[str, ...],
    names: tuple[str, ...],
    tmp_path: Path,
    image: Images,
    write_tar: Tars,
) -> None:
    texts = [(f"a.{suffix}", content) for suffix, content in members.items()]
    sample = open_shards(write_tar(tmp_path / "s.tar", [("a.JPEG", image()), *texts])).sample(0)
    assert (sample.captions, sample.names) == (captions, names)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.json", texts_json("x"))], "no image: text only"),
        ([("a.jpg", b"p")], "no text: neither .json nor .txt next to the image"),
        ([("a.jpg", b""), ("a.txt", b"x")], "the image is empty: 0 bytes"),
        ([("a.jpg", b"p"), ("a.txt", b"  \n")], "caption: empty text"),
        ([("a.jpg", b"p"), ("a.txt", b"")], "empty text"),
        ([("a.jpg", b"p"), ("a.txt", b"\xff\xfe")], "caption: not UTF-8"),
        ([("a.jpg", b"p"), ("a.json", texts_json("", " "))], "captions: empty text"),
        ([("a.jpg", b"p"), ("a.json", texts_json())], "captions: no text"),
        ([("a.jpg", b"p"), ("a.json", b'{"captions": [3]}')], "captions has a value of type int among its texts"),
        ([("a.jpg", b"p"), ("a.json", b'{"captions": {"a": 1}}')], "captions is a value of type dict"),
        ([("a.jpg", b"p"), ("a.json", b'{"caption": "\xff\xfe"}')], "not JSON"),
        ([("a.jpg", b"p"), ("a.json", b"[1, 2]")], "the JSON is a value of type list, not an object"),
        ([("a.jpg", b"p"), ("a.json", b"[" * 100_000)], "not JSON"),
        ([("a.jpg", b"p"), ("a.json", b'{"a": 1}')], "the .json has no captions, names or label"),
        ([("a.jpg", b"p"), ("a.txt", b"x" * 10_000_000)], "its text has 10,000,000 bytes"),
        ([("a.jpg", b"p"), ("a.txt", b"x"), ("a.png", b"q")], "duplicate key: a.png"),
        ([("a.jpg", b"p"), ("a.txt", b"x"), ("b.txt", b"b"), ("a.txt", b"y")], "duplicate key: a.txt"),
        ([("/a.jpg", b"p"), ("/a.txt", b"x")], "points outside the shard"),
        ([("../../a.jpg", b"p"), ("../../a.txt", b"x")], "points outside the shard"),
    ],
)
def test_a_broken_sample_has_a_reason_and_does_not_affect_the_others(
    members: list[tuple[str, bytes]], reason: str, tmp_path: Path, image: Images, write_tar: Tars
) -> None:
    good = [("good.jpg", image()), ("good.txt", b"fine")]
    shards = open_shards(write_tar(tmp_path / "s.tar", members + good))
    with pytest.raises(BrokenSampleError) as caught:
        shards.sample(0)
    assert reason in caught.value.broken.reason
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "s.tar") in str(caught.value)
    assert shards.sample(len(shards) - 1).captions == ("fine",)
    assert not list(tmp_path.parent.glob("a.*"))


def test_keys_of_nested_directories_and_dotted_names_equal_those_of_webdataset(
    tmp_path: Path, image: Images, write_tar: Tars
) -> None:
    members = [("./d.1/x.jpg", image()), ("./d.1/x.txt", b"x"), ("d.1/x.seg.png", b"mask"), ("._y.jpg", b"finder")]
    shards = open_shards(write_tar(tmp_path / "s.tar", [*members, ("README", b"hello")]))
    assert [len(shards), shards.sample(0).key] == [1, "d.1/x"]


def test_missing_and_empty_paths_are_one_line_errors(tmp_path: Path, write_tar: Tars) -> None:
    (tmp_path / "empty").mkdir()
    write_tar(tmp_path / "none" / "s.tar", [("README", b"hello")])
    (tmp_path / "shards").mkdir()
    for name, message in (
        ("empty", "no shards"),
        ("none", "no samples"),
        ("shard", "no such file or directory; did you mean 'shards'?"),
        ("x{5..2}.tar", "the range {5..2}"),
    ):
        with pytest.raises(DataError) as caught:
            open_shards(tmp_path / name)
        assert message in str(caught.value)
        assert str(tmp_path / name)[:10] in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_range_in_a_path_is_expanded(make_shards: Callable[..., Path]) -> None:
    directory = make_shards("set", [1, 2, 3])
    assert len(open_shards(directory / "{000000..000001}.tar")) == 3
    assert len(open_shards([directory / "000002.tar", directory / "000000.tar"])) == 4


def test_a_truncated_shard_is_reported_on_opening(make_shards: Callable[..., Path]) -> None:
    directory = make_shards("set", [2, 2])
    shard = directory / "000001.tar"
    os.truncate(shard, 1200)
    with pytest.raises(DataError, match=r"000001\.tar: truncated: .* byte 1200; fetch it again"):
        open_shards(directory)


def test_a_stored_index_is_used_until_the_shard_changes(
    make_shards: Callable[..., Path], tmp_path: Path, write_tar: Tars, image: Images
) -> None:
    shard = make_shards("set", [3]) / "000000.tar"
    first = load_index(shard)
    cache = shard.with_name("000000.tar.index")
    os.utime(cache, ns=(1, 1))
    assert load_index(shard).spans.tolist() == first.spans.tolist()
    assert cache.stat().st_mtime_ns == 1
    write_tar(shard, [("new.jpg", image(9)), ("new.txt", b"new")])
    assert load_index(shard).keys == ["new"]


def test_the_index_of_a_shard_in_a_read_only_directory_is_stored_in_the_users_cache(
    make_shards: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wordsight.data import index as module
    from wordsight.errors import OutputError

    directory = make_shards("set", [3])
    write = module.write_atomic

    def refuse(path: Path, content: bytes) -> None:
        if path.parent == directory:
            raise OutputError(f"{path}: cannot be written")
        write(path, content)

    monkeypatch.setattr(module, "write_atomic", refuse)
    load_index(directory / "000000.tar")
    assert [path.suffix for path in (tmp_path / "user-cache" / "wordsight" / "indexes").iterdir()] == [".index"]


@pytest.mark.parametrize("fault", ["beyond the end", "negative", "fewer spans", "another type", "not msgpack", "huge"])
def test_an_inconsistent_stored_index_is_not_used(fault: str, make_shards: Callable[..., Path]) -> None:
    shard = make_shards("set", [3]) / "000000.tar"
    original = load_index(shard)
    cache = shard.with_name("000000.tar.index")
    stored = msgspec.msgpack.decode(cache.read_bytes())
    spans = original.spans.copy()
    if fault == "beyond the end":
        spans[1, 0] = [1 << 62, 1 << 62]
    if fault == "negative":
        spans[1, 0] = [-1, 5]
    stored["spans"] = spans.astype("<i8").tobytes()[: -8 if fault == "fewer spans" else None]
    if fault == "another type":
        stored["keys"] = 7
    content = msgspec.msgpack.encode(stored)
    cache.write_bytes({"not msgpack": b"\xc1" * 50, "huge": content + bytes(1 << 20)}.get(fault, content))
    index = load_index(shard)
    assert (index.keys, index.spans.tolist()) == (original.keys, original.spans.tolist())


def test_an_index_that_left_out_members_is_rebuilt(tmp_path: Path, image: Images, write_tar: Tars) -> None:
    members = [("a.jpg", image(0)), ("a.txt", b"x"), ("b.v1.jpg", image(1)), ("b.v1.txt", b"y")]
    shard = write_tar(tmp_path / "s.tar", members)
    keys = load_index(shard).keys
    cache = shard.with_name("s.tar.index")
    stored = msgspec.msgpack.decode(cache.read_bytes())
    old_spans = (
        load_index(shard).spans[:1, :3].astype("<i8").tobytes()
    )  # version 1 had neither .cls nor names with dots
    del stored["skipped"]
    cache.write_bytes(msgspec.msgpack.encode({**stored, "version": 1, "keys": keys[:1], "spans": old_spans}))
    assert load_index(shard).keys == keys == ["a", "b.v1"]


def test_a_shard_that_changes_after_opening_is_an_error(make_shards: Callable[..., Path]) -> None:
    directory = make_shards("set", [3])
    shards = open_shards(directory)
    os.truncate(directory / "000000.tar", 3000)
    with pytest.raises(DataError, match="changed since it was opened") as caught:
        shards.sample(0)
    assert not isinstance(caught.value, BrokenSampleError)


def test_the_fingerprint_depends_on_content_with_a_manifest_and_on_the_index_without(
    tmp_path: Path, make_shards: Callable[..., Path], image: Images
) -> None:
    def packed(name: str, number: int) -> str:
        with writing_shards(tmp_path / name) as writer:
            writer.add(Sample(key="a", image=image(0), captions=(f"caption {number}",)))
            writer.finish()
        return open_shards(tmp_path / name).fingerprint

    assert packed("one", 1) == packed("same", 1) != packed("other", 2)
    assert open_shards(make_shards("set", [2, 1])).fingerprint != open_shards(make_shards("set", [1, 2])).fingerprint


def test_the_index_hash_depends_on_keys_and_spans(make_shards: Callable[..., Path]) -> None:
    hashes = {index_hash(load_index(make_shards(name, [2]) / "000000.tar")) for name in ("one", "two")}
    assert len(hashes) == 2


@pytest.mark.parametrize("fault", ["cut", "missing", "extra"])
def test_a_directory_that_differs_from_its_manifest_is_refused(
    fault: str, tmp_path: Path, image: Images, write_tar: Tars
) -> None:
    out = tmp_path / "out"
    with writing_shards(out, max_samples=1) as writer:
        for number in range(2):
            writer.add(Sample(key=f"k{number}", image=image(number), captions=("c",)))
        writer.finish()
    assert len(open_shards(out)) == 2
    if fault == "cut":
        write_tar(out / "000001.tar", [("k1.jpg", image(1)), ("k1.txt", b"c")])
    elif fault == "missing":
        (out / "000001.tar").unlink()
    else:
        write_tar(out / "000001x.tar", [("z.jpg", image(1)), ("z.txt", b"c")])
    with pytest.raises(DataError, match=r"000001x?\.tar: .*manifest.json|000001\.tar: missing"):
        open_shards(out)


def test_a_real_archive_of_images_can_be_opened(shared_data: Path) -> None:
    shards = open_shards(shared_data / "mnist.tar")
    assert len(shards) == 2001  # 2,000 images and classes.json, which is a text without an image
    with pytest.raises(BrokenSampleError, match="no text"):
        shards.sample(0)


def pack_numbered(out: Path, image: Images, texts: str = "abc", max_samples: int = 1) -> Path:
    """Shards of equal size, each with one sample; its caption is one letter."""
    with writing_shards(out, max_samples=max_samples) as writer:
        for number, text in enumerate(texts):
            writer.add(Sample(key=f"k{number}", image=image(0), captions=(text,)))
        writer.skip(BrokenSample("bad", "bad.jpg", "not an image"))
        writer.finish()
    return out


def replace_shard(out: Path, image: Images) -> None:
    shutil.copy(pack_numbered(out.parent / "other", image, "abx") / "000002.tar", out)


def swap_shards(out: Path, image: Images) -> None:
    (out / "000001.tar").rename(out / "x")
    (out / "000002.tar").rename(out / "000001.tar")
    (out / "x").rename(out / "000002.tar")


def flip_a_bit(out: Path, image: Images) -> None:
    content = bytearray((out / "000002.tar").read_bytes())
    content[600] ^= 1
    (out / "000002.tar").write_bytes(content)


@pytest.mark.parametrize("change", [replace_shard, swap_shards, flip_a_bit])
@pytest.mark.parametrize("version", ["this", "older", "copied since", "large shards", "opened before"])
def test_a_shard_that_was_replaced_by_one_of_equal_size_is_refused(
    change: Callable[..., None], version: str, tmp_path: Path, image: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = pack_numbered(tmp_path / "out", image)
    manifest = out / MANIFEST_NAME
    if version == "older":
        plain = json.loads(manifest.read_bytes())
        del plain["skipped_sha256"], plain["manifest_sha256"]
        for shard in plain["shards"]:
            del shard["sample_sha256"]
        manifest.write_text(json.dumps(plain))
    if version == "large shards":  # of which the sample does not contain the difference
        monkeypatch.setattr("wordsight.data.manifest.sample_sha256", lambda path: sample_of[path.name])
        sample_of = {shard["name"]: shard["sample_sha256"] for shard in json.loads(manifest.read_bytes())["shards"]}
    assert len(open_shards(out)) == 3
    if version == "opened before":
        os.utime(out / "000002.tar")
        assert len(open_shards(out)) == 3
    change(out, image)
    if version == "copied since":
        shutil.copytree(out, tmp_path / "copy")
        out = tmp_path / "copy"
        os.utime(out / MANIFEST_NAME)
    os.utime(out / "000002.tar", ns=(1, 1))
    with pytest.raises(DataError, match=r"00000[12]\.tar: not the shard that manifest\.json describes"):
        open_shards(out)


def test_an_unchanged_shard_is_hashed_at_most_once(
    tmp_path: Path, image: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, hashed = pack_numbered(tmp_path / "out", image), []
    monkeypatch.setattr("wordsight.cache.sha256_file", lambda path: hashed.append(path.name) or sha256_file(path))
    open_shards(out)
    assert [name for name in hashed if name.endswith(".tar")] == []
    os.utime(out / "000001.tar")
    for _ in range(2):
        open_shards(out)
    assert [name for name in hashed if name.endswith(".tar")] == ["000001.tar"]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("manifest.json", '"samples": 3', '"samples": 2', r"manifest\.json: was edited or damaged"),
        ("manifest.json", '"skipped": 1', '"skipped": 0', r"manifest\.json: was edited or damaged"),
        ("manifest.json", "000002.tar", "000003.tar", r"manifest\.json: was edited or damaged"),
        ("manifest.json", "000001.tar", "000000.tar", r"manifest\.json: was edited or damaged"),
        ("skipped.jsonl", "not an image", "an image", r"skipped\.jsonl: damaged or replaced"),
    ],
)
def test_an_edited_manifest_or_list_is_refused(
    name: str, old: str, new: str, message: str, tmp_path: Path, image: Images
) -> None:
    out = pack_numbered(tmp_path / "out", image)
    content = (out / name).read_text()
    assert old in content
    (out / name).write_text(content.replace(old, new))
    with pytest.raises(DataError, match=message):
        open_shards(out)


def test_the_list_of_skipped_images_may_be_left_out_of_a_copy(tmp_path: Path, image: Images) -> None:
    out = pack_numbered(tmp_path / "out", image)
    (out / "skipped.jsonl").unlink()
    assert len(open_shards(out)) == 3
