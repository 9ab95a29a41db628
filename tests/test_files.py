import errno
import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest

from wordsight.errors import OutputError
from wordsight.files import (
    atomic_directory,
    lock,
    open_atomic,
    recover_directory,
    remove_partial,
    sha256_file,
    write_atomic,
)


def full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "below" / "file"
    write_atomic(path, b"first")

    def break_off() -> None:
        with open_atomic(path) as file:
            file.write(b"second, cut")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert path.read_bytes() == b"first"
    assert [other.name for other in path.parent.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_former_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", b"first")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match=r"file: cannot be written: No space left on device"):
        write_atomic(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert not list(tmp_path.glob(".*"))


def test_a_directory_takes_the_place_of_the_former_one(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_directory(tmp_path / "model") as directory:
            (directory / content).write_text("")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_crash_between_two_renames_is_settled(tmp_path: Path) -> None:
    former = tmp_path / ".model.former"
    former.mkdir()
    (former / "weights").write_text("old")
    recover_directory(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    former.mkdir()
    recover_directory(tmp_path / "model")
    assert not former.exists()
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".a.x.partial").write_text("")
    (tmp_path / ".b.y.partial").mkdir()
    (tmp_path / "kept.partial").write_text("")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.partial"]


def test_sha256_is_the_standard_library_s(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 1_000_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def hold(path: Path, held: "multiprocessing.synchronize.Event", free: "multiprocessing.synchronize.Event") -> None:
    with lock(path):
        held.set()
        free.wait(30)


def test_a_lock_keeps_other_processes_out_and_ends_with_its_holder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, free = context.Event(), context.Event()
    process = context.Process(target=hold, args=(tmp_path / ".lock", held, free))
    process.start()
    assert held.wait(30)
    with pytest.raises(OutputError, match="another process is writing to this directory"), lock(tmp_path / ".lock"):
        pass
    process.kill()
    process.join(30)
    with lock(tmp_path / ".lock"):
        pass
