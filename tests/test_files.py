"""Atomic writes, locks, hashes and bounded reads."""

import errno
import hashlib
import multiprocessing
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from wordsight.errors import DataError, OutputError
from wordsight.files import (
    atomic_directory,
    check_writable,
    lock,
    newest_complete,
    open_atomic,
    read_json,
    read_limited,
    recover_directory,
    remove_partial,
    sha256_file,
    write_atomic,
)


def fail_disk_full(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_file_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "nested" / "file"
    write_atomic(path, b"first")

    def fail_halfway() -> None:
        with open_atomic(path) as file:
            file.write(b"second, incomplete")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_bytes() == b"first"
    assert [entry.name for entry in path.parent.iterdir()] == ["file"]


def test_a_full_disk_leaves_the_previous_file_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", b"first")
    monkeypatch.setattr(os, "fsync", fail_disk_full)
    with pytest.raises(OutputError, match=r"file: cannot be written: No space left on device"):
        write_atomic(tmp_path / "file", b"second")
    assert (tmp_path / "file").read_bytes() == b"first"
    assert not list(tmp_path.glob(".*"))


def test_a_directory_replaces_the_previous_one(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_directory(tmp_path / "model") as directory:
            (directory / content).write_text("")
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["second"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_crash_between_the_two_renames_is_recovered(tmp_path: Path) -> None:
    previous = tmp_path / ".model.former"
    previous.mkdir()
    (previous / "weights").write_text("old")
    recover_directory(tmp_path / "model")
    assert (tmp_path / "model" / "weights").read_text() == "old"
    previous.mkdir()
    recover_directory(tmp_path / "model")
    assert not previous.exists()
    assert (tmp_path / "model" / "weights").read_text() == "old"


def test_temporary_files_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    (tmp_path / ".a.x.partial").write_text("")
    (tmp_path / ".b.y.partial").mkdir()
    (tmp_path / "kept.partial").write_text("")
    remove_partial(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.partial"]


def test_sha256_file_agrees_with_hashlib(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc" * 1_000_000)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def hold_lock(
    path: Path, acquired: "multiprocessing.synchronize.Event", release: "multiprocessing.synchronize.Event"
) -> None:
    with lock(path):
        acquired.set()
        release.wait(30)


def test_a_lock_excludes_other_processes_and_is_released_when_its_process_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    acquired, release = context.Event(), context.Event()
    process = context.Process(target=hold_lock, args=(tmp_path / ".lock", acquired, release))
    process.start()
    assert acquired.wait(30)
    with pytest.raises(OutputError, match="another process is writing to this directory"), lock(tmp_path / ".lock"):
        pass
    process.kill()
    process.join(30)
    with lock(tmp_path / ".lock"):
        pass


def test_a_reader_between_the_two_renames_gets_the_previous_directory(tmp_path: Path) -> None:
    path, previous = tmp_path / "model", tmp_path / ".model.former"
    assert newest_complete(path) == path
    previous.mkdir()
    assert newest_complete(path) == previous
    path.mkdir()
    assert newest_complete(path) == path
    assert previous.exists()


def test_an_unwritable_output_path_is_rejected_before_any_work(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "file")
    assert [entry.name for entry in tmp_path.iterdir()] == ["new"]
    assert not list((tmp_path / "new").iterdir())
    with pytest.raises(OutputError, match="new: is a directory; name a file in it"):
        check_writable(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        check_writable(tmp_path / "file" / "nested")


def test_json_is_read_up_to_its_limit(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": [1, 2]}')
    assert read_json(tmp_path / "a.json", 13, DataError) == {"a": [1, 2]}
    with pytest.raises(DataError, match=r"a.json: 13 bytes, expected at most 12; check that it is the right file$"):
        read_json(tmp_path / "a.json", 12, DataError)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"[1,", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "not JSON")],
)
def test_malformed_json_is_a_one_line_error(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match=f"a.json: {message}") as caught:
        read_json(tmp_path / "a.json", 1 << 20, DataError)
    assert "\n" not in str(caught.value)


def _socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(path))
    server.close()


def _loop(path: Path) -> None:
    path.symlink_to(path)


SPECIAL_FILES: dict[str, Callable[[Path], object]] = {
    "FIFO": os.mkfifo,
    "link to a FIFO": lambda path: (os.mkfifo(path.with_name("fifo")), path.symlink_to("fifo")),
    "endless device": lambda path: path.symlink_to("/dev/zero"),
    "null device": lambda path: path.symlink_to("/dev/null"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "directory": Path.mkdir,
    "socket": _socket,
    "link to itself": _loop,
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "memory of the process": lambda path: path.symlink_to("/proc/self/mem"),
}


@pytest.mark.parametrize("kind", SPECIAL_FILES)
def test_only_regular_files_are_read_and_nothing_waits(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.json"
    SPECIAL_FILES[kind](path)
    for read in (
        lambda: read_limited(path, 1 << 20, DataError),
        lambda: read_json(path, 1 << 20, DataError),
    ):
        with pytest.raises(DataError, match=r"a\.json: (cannot be read: |no such file$)") as caught:
            read()
        assert "\n" not in str(caught.value)
    with pytest.raises(OSError):
        sha256_file(path)


def test_a_file_whose_size_is_unknown_is_read_up_to_the_limit(tmp_path: Path) -> None:
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("needs /proc, whose files claim to be empty")
    assert read_limited(status, 1 << 20, DataError).startswith(b"Name:")
    with pytest.raises(DataError, match="11 bytes, expected at most 10"):
        read_limited(status, 10, DataError)


def test_a_huge_sparse_file_and_a_name_with_a_null_character_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match="1,099,511,627,776 bytes, expected at most 1,000"):
        read_limited(tmp_path / "a.json", 1000, DataError)
    with pytest.raises(DataError, match="cannot be read: embedded null"):
        read_limited(tmp_path / "a\0b", 1000, DataError)
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read_limited(tmp_path / ("a" * 300), 1000, DataError)
