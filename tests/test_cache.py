"""The cache directory, its usage, clearing it, and the offline switch."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wordsight.cache import (
    CACHE_KINDS,
    CacheUsage,
    cache_directory,
    cache_usage,
    clear_cache,
    is_offline,
    remembered_sha256,
)
from wordsight.errors import DataError, OutputError


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory, with neither of the two variables that move the cache."""
    for name in ("WORDSIGHT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


def fill(path: Path, *sizes: int) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for number, size in enumerate(sizes):
        (path / f"{number}.bin").write_bytes(bytes(size))


def test_the_default_is_in_the_home_directory(home: Path) -> None:
    assert cache_directory() == home / ".cache" / "wordsight"
    assert cache_directory("weights") == home / ".cache" / "wordsight" / "weights"


def test_xdg_cache_home_replaces_the_default(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    assert cache_directory() == home / "xdg" / "wordsight"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_directory() == home / ".cache" / "wordsight"


def test_wordsight_cache_has_precedence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "xdg"))
    monkeypatch.setenv("WORDSIGHT_CACHE", str(home / "own"))
    assert cache_directory("onnx") == home / "own" / "onnx"
    monkeypatch.setenv("WORDSIGHT_CACHE", "~/own")
    assert cache_directory() == home / "own"


def test_the_path_is_not_created(home: Path) -> None:
    cache_directory("weights")
    cache_usage()
    assert not list(home.iterdir())


def test_usage_lists_every_kind(home: Path) -> None:
    fill(cache_directory("weights"), 10, 20)
    fill(cache_directory("weights") / "digests", 5)
    usage = {each.kind: each for each in cache_usage()}
    assert tuple(usage) == CACHE_KINDS
    assert usage["weights"] == CacheUsage("weights", cache_directory("weights"), 3, 35)
    assert usage["timings"] == CacheUsage("timings", cache_directory("timings"), 0, 0)


@pytest.mark.parametrize("kind", CACHE_KINDS)
def test_clearing_one_kind_leaves_the_others(home: Path, kind: str) -> None:
    for each in CACHE_KINDS:
        fill(cache_directory(each), 7)
    (cache_directory() / "note.txt").write_text("not an entry")
    assert clear_cache(kind) == CacheUsage(kind, cache_directory(kind), 1, 7)
    assert not cache_directory(kind).exists()
    assert sum(each.num_files for each in cache_usage()) == len(CACHE_KINDS) - 1
    assert (cache_directory() / "note.txt").exists()


def test_clearing_an_empty_cache_does_nothing(home: Path) -> None:
    assert clear_cache("shards") == CacheUsage("shards", cache_directory("shards"), 0, 0)
    assert not list(home.iterdir())


def test_nothing_outside_the_cache_is_deleted(home: Path) -> None:
    fill(home / "photos", 3)
    fill(cache_directory("weights"), 1)
    try:
        (cache_directory("weights") / "link").symlink_to(home / "photos", target_is_directory=True)
        (cache_directory("weights") / "file-link").symlink_to(home / "photos" / "0.bin")
    except OSError:
        pytest.skip("this system does not permit symbolic links")
    clear_cache("weights")
    assert (home / "photos" / "0.bin").read_bytes() == bytes(3)
    assert not cache_directory("weights").exists()


def test_a_directory_that_is_a_link_is_not_followed(home: Path) -> None:
    fill(home / "elsewhere", 3)
    cache_directory().mkdir(parents=True)
    try:
        cache_directory("onnx").symlink_to(home / "elsewhere", target_is_directory=True)
    except OSError:
        pytest.skip("this system does not permit symbolic links")
    with pytest.raises(OutputError, match="onnx: cannot be deleted"):
        clear_cache("onnx")
    assert (home / "elsewhere" / "0.bin").exists()


def test_an_entry_that_cannot_be_deleted_is_a_one_line_error(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(cache_directory("weights"), 1)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)
    with pytest.raises(OutputError, match=r"weights: cannot be deleted: Permission denied; check its permissions$"):
        clear_cache("weights")


@pytest.mark.parametrize("name", ["WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(
    ("value", "expected"),
    [("1", True), ("on", True), ("YES", True), (" true ", True), ("0", False), ("", False), ("off", False)],
)
def test_offline_mode_follows_both_variables(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, expected: bool
) -> None:
    for each in ("WORDSIGHT_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(each, raising=False)
    assert not is_offline()
    monkeypatch.setenv(name, value)
    assert is_offline() is expected


@pytest.mark.parametrize("name", ["model.pt", "\udcff\n.pt", "x" * 255])
def test_a_file_of_any_name_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path, digests = tmp_path / name, tmp_path / "digests"
    path.write_bytes(b"abc")
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # first example of FIPS 180-4
    assert remembered_sha256(path, digests, DataError) == abc
    with monkeypatch.context() as patch:
        patch.setattr("wordsight.cache.sha256_file", lambda path: pytest.fail(f"{path} is hashed again"))
        assert remembered_sha256(path, digests, DataError) == abc
    path.write_bytes(b"abd")
    assert remembered_sha256(path, digests, DataError) == hashlib.sha256(b"abd").hexdigest()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 60_000, b"{}", b'{"path": "\xff"}', b"x" * 100_000, None])
def test_a_damaged_digest_is_computed_again(tmp_path: Path, content: bytes | None) -> None:
    path, digests = tmp_path / "model.pt", tmp_path / "digests"
    path.write_bytes(b"abc")
    sha256 = remembered_sha256(path, digests, DataError)
    (stored,) = digests.iterdir()
    stored.write_bytes(stored.read_bytes().replace(sha256.encode(), b"no hash") if content is None else content)
    assert remembered_sha256(path, digests, DataError) == sha256


def test_only_regular_files_are_hashed(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(DataError, match=r"cannot be read: .*; check the path"):
            remembered_sha256(path, tmp_path / "digests", DataError)


def test_files_that_another_process_deletes_while_usage_is_counted_are_left_out(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(cache_directory("weights"), 10, 20)
    walk = os.walk

    def walk_and_delete(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for directory, directories, names in walk(path):
            for name in names[:1]:
                (Path(directory) / name).unlink()
            yield directory, directories, names

    monkeypatch.setattr(os, "walk", walk_and_delete)
    assert cache_usage()[0].num_files == 1
