"""Written shards: bounded, deterministic, readable by the standard library, and never incomplete."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from wordsight.data.manifest import MANIFEST_NAME, read_manifest
from wordsight.data.sample import BrokenSample, Sample
from wordsight.data.shard_reader import open_shards
from wordsight.data.shard_writer import ShardWriter, suffix_of, writing_shards
from wordsight.errors import DataError, OutputError
from wordsight.files import sha256_file

Images = Callable[..., bytes]


def samples(image: Images, count: int) -> list[Sample]:
    return [Sample(key=f"f/{i:03d}", image=image(i), captions=(f"caption {i}", "é\n")) for i in range(count)]


def write(out: Path, items: list[Sample], max_samples: int = 10_000, max_bytes: int = 1 << 28) -> None:
    with writing_shards(out, max_samples, max_bytes) as writer:
        for sample in items:
            writer.add(sample)
        writer.finish()


def test_written_samples_are_read_back(tmp_path: Path, image: Images) -> None:
    label = Sample(key="l", image=image(7, file_format="PNG"), names=("Egyptian cat", "Mau"))
    items = [*samples(image, 5), label]
    write(tmp_path / "out", items, max_samples=2)
    shards = open_shards(tmp_path / "out")
    read = [shards.sample(number) for number in range(6)]
    assert [(s.key, s.image, s.names) for s in read] == [(s.key, s.image, s.names) for s in items]
    assert read[0].captions == ("caption 0", "é")
    assert read[5].shard == str(tmp_path / "out" / "000002.tar")


def test_the_standard_library_reads_the_shards(tmp_path: Path, image: Images) -> None:
    write(tmp_path / "out", [Sample(key="a", image=image(file_format="PNG"), names=("cat", "kitty"))])
    with tarfile.open(tmp_path / "out" / "000000.tar") as tar:
        assert tar.getnames() == ["a.png", "a.json"]
        assert json.load(tar.extractfile("a.json")) == {"label": "cat", "names": ["cat", "kitty"]}


def test_equal_samples_give_equal_directories(tmp_path: Path, image: Images) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, samples(image, 5), max_samples=3)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert sorted(one) == ["000000.tar", "000001.tar", MANIFEST_NAME, "skipped.jsonl"]


def test_shards_stay_within_their_limits_and_the_manifest_is_correct(tmp_path: Path, image: Images) -> None:
    write(tmp_path / "out", samples(image, 20), max_bytes=8_000)
    manifest = read_manifest(tmp_path / "out" / MANIFEST_NAME)
    assert manifest is not None
    assert len(manifest.shards) > 2
    for shard in manifest.shards:
        path = tmp_path / "out" / shard.name
        assert shard.bytes == path.stat().st_size <= 8_000
        assert shard.sha256 == sha256_file(path)
    assert sum(shard.samples for shard in manifest.shards) == manifest.samples == 20


def test_a_sample_larger_than_the_limit_gets_its_own_shard(tmp_path: Path, image: Images) -> None:
    write(tmp_path / "out", samples(image, 3), max_bytes=100)
    assert len(list((tmp_path / "out").glob("*.tar"))) == 3


def test_skipped_samples_are_listed_and_counted(tmp_path: Path, image: Images) -> None:
    with writing_shards(tmp_path / "out") as writer:
        writer.add(samples(image, 1)[0])
        writer.skip(BrokenSample("bad", "bad.jpg", "not an image"))
        assert writer.finish().skipped == 1
    line = json.loads((tmp_path / "out" / "skipped.jsonl").read_text())
    assert line == {"key": "bad", "shard": "bad.jpg", "reason": "not an image"}


@pytest.mark.parametrize("key", ["", "a.b", "/a", "a/", "a//b", "../a", "a/../b", "a\nb", "a\0b", "\udcff", "x" * 2000])
def test_keys_that_cannot_be_member_names_are_refused(key: str, tmp_path: Path, image: Images) -> None:
    with pytest.raises(DataError, match="not a usable key"), ShardWriter(tmp_path) as writer:
        writer.add(Sample(key=key, image=image(), captions=("c",)))
    assert not list(tmp_path.iterdir())


def test_duplicate_keys_and_samples_without_text_are_refused(tmp_path: Path, image: Images) -> None:
    with pytest.raises(DataError, match="duplicate key"):
        write(tmp_path / "out", samples(image, 1) * 2)
    with pytest.raises(DataError, match="neither captions nor names"):
        write(tmp_path / "out", [Sample(key="a", image=image())])
    with pytest.raises(DataError, match="no sample could be packed"):
        write(tmp_path / "out", [])
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing_or_the_previous_directory(tmp_path: Path, image: Images) -> None:
    def interrupted() -> None:
        with writing_shards(tmp_path / "out", max_samples=2) as writer:
            for sample in samples(image, 5):
                writer.add(sample)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())
    write(tmp_path / "out", samples(image, 1))
    before = (tmp_path / "out" / "000000.tar").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "000000.tar").read_bytes() == before


def test_our_own_directory_is_replaced_and_a_foreign_one_refused(tmp_path: Path, image: Images) -> None:
    out = tmp_path / "out"
    write(out, samples(image, 5), max_samples=1)
    open_shards(out)  # writes index files next to the shards
    write(out, samples(image, 2), max_samples=1)
    assert len(open_shards(out)) == 2
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"contains 'thesis.tex'"):
        write(out, samples(image, 1))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="a file, not a directory"):
        write(tmp_path / "file", samples(image, 1))
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / MANIFEST_NAME).write_text('{"name": "an extension of a browser"}')
    with pytest.raises(OutputError, match=r"manifest\.json"):
        write(foreign, samples(image, 1))


def test_suffixes_follow_from_the_bytes(image: Images) -> None:
    suffixes = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
    assert {name: suffix_of(image(file_format=name)) for name in suffixes} == suffixes


def test_limits_of_zero_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0 samples and \d+ bytes: expected at least 1 of each"):
        ShardWriter(tmp_path, max_samples=0)
