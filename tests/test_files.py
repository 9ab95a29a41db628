"""Atomic writes, locks, hashes and bounded reads."""

import errno
import hashlib
import json
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from wordsight.errors import DataError, OutputError
from wordsight.files import (
    atomic_directory,
    check_writable,
    matching_description,
    newest_complete,
    open_atomic,
    open_described,
    read_json,
    read_limited,
    recover_directory,
    remove_partial,
    sha256_file,
    write_atomic,
)
from wordsight.locks import lock


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


def describe(sha256: str) -> bytes:
    return json.dumps({"sha256": sha256}).encode()


def matching(path: Path) -> dict[str, str] | None:
    def parse(description: Path) -> dict[str, str]:
        return read_json(description, 1000, DataError)

    return matching_description(path, path.with_name("a.json"), parse, lambda description: description["sha256"])


def write_described(path: Path, content: bytes) -> None:
    with open_described(path, path.with_name("a.json"), describe) as file:
        file.write(content)


def test_a_file_and_its_description_are_written_together_and_a_mismatch_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_described(path, b"first")
    assert matching(path) == {"sha256": hashlib.sha256(b"first").hexdigest()}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "a.json"]
    path.write_bytes(b"First")
    assert matching(path) is None


@pytest.mark.parametrize("renames", range(4))
def test_one_of_both_versions_is_valid_wherever_the_writer_is_killed(tmp_path: Path, renames: int) -> None:
    """The writer renames three files: the new description to its hidden name, the file, and the description."""
    path = tmp_path / "a"
    write_described(path, b"first")
    process = os.fork()
    if not process:
        replace, done = Path.replace, []

        def replace_or_die(source: Path, target: Path) -> Path:
            if len(done) == renames:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(source)
            return replace(source, target)

        Path.replace = replace_or_die  # type: ignore[method-assign,assignment]
        write_described(path, b"second")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(process, 0)
    assert path.read_bytes() == (b"second" if renames > 1 else b"first")
    assert matching(path) == {"sha256": sha256_file(path)}
    write_described(path, b"third")
    assert matching(path) == {"sha256": hashlib.sha256(b"third").hexdigest()}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a", "a.json"]


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_the_next_write_deletes_what_a_killed_process_left_but_not_what_another_process_is_writing(
    tmp_path: Path, kind: str
) -> None:
    def write(name: str, wait: Callable[[], object]) -> None:
        if kind == "file":
            with open_atomic(tmp_path / name) as file:
                file.write(b"x")
                wait()
        else:
            with atomic_directory(tmp_path / name) as directory:
                (directory / "x").write_bytes(b"x")
                wait()

    others = [".a.bin.partial", ".a.12345678.partial.json", ".b.abcdefgh.partial", "a.abcdefgh.partial"]
    for name in others:
        (tmp_path / name).write_bytes(b"not of this path")
    ready, go_on = os.pipe(), os.pipe()
    process = os.fork()
    if not process:
        write("a", lambda: (os.write(ready[1], b"."), os.read(go_on[0], 1)))
        os._exit(0)
    os.read(ready[0], 1)
    temporary = {entry.name for entry in tmp_path.iterdir()} - set(others)
    assert len(temporary) == 1
    write("a", lambda: None)
    assert temporary < {entry.name for entry in tmp_path.iterdir()}
    if kind == "file":
        os.write(go_on[1], b".")
        assert os.waitpid(process, 0)[1] == 0
    else:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        write("a", lambda: None)
    assert {entry.name for entry in tmp_path.iterdir()} == {"a", *others}


def test_a_directory_does_not_replace_a_file_and_a_file_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"precious")
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(OutputError, match="file: exists and is not a directory; choose another"),
        atomic_directory(tmp_path / "file"),
    ):
        raise AssertionError("the work has begun")
    for write in (check_writable, lambda path: write_atomic(path, b"")):
        with pytest.raises(OutputError, match="pipe: exists and is not a regular file; choose another"):
            write(tmp_path / "pipe")
    assert (tmp_path / "file").read_bytes() == b"precious"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file", "pipe"]
    with pytest.raises(DataError, match=r"pipe: .*not a regular file"):
        read_json(tmp_path / "pipe", 100, DataError)


def test_the_target_of_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    for name in ("file", "new", "directory"):
        (tmp_path / name).symlink_to(tmp_path / "elsewhere" / name)
    (tmp_path / "elsewhere" / "file").write_bytes(b"old")
    for _ in range(2):
        for name in ("file", "new"):
            check_writable(tmp_path / name)
            write_atomic(tmp_path / name, b"new")
        with atomic_directory(tmp_path / "directory") as directory:
            (directory / "x").write_bytes(b"new")
    assert all((tmp_path / name).is_symlink() for name in ("file", "new", "directory"))
    assert (tmp_path / "file").read_bytes() == (tmp_path / "new").read_bytes() == b"new"
    assert sorted(entry.name for entry in (tmp_path / "elsewhere").iterdir()) == ["directory", "file", "new"]
    assert (tmp_path / "directory" / "x").read_bytes() == b"new"


@pytest.mark.parametrize("length", [200, 240, 255])
def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path, length: int) -> None:
    path = tmp_path / ("é" * (length // 2))
    check_writable(path)
    write_atomic(path, b"x")
    path.unlink()
    for _ in range(2):
        with atomic_directory(path) as directory:
            (directory / "x").write_bytes(b"x")
    assert list(tmp_path.iterdir()) == [path]
    assert newest_complete(tmp_path / ("x" * 300)) == tmp_path / ("x" * 300)


@pytest.mark.parametrize("name", ["x" * 256, "a\0b", "loop/x", "\ud800"])
def test_an_impossible_path_is_a_one_line_error_before_any_work(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")

    def write_directory(path: Path) -> None:
        with atomic_directory(path):
            raise AssertionError("the work has begun")

    for write in (check_writable, lambda path: write_atomic(path, b""), write_directory):
        with pytest.raises(OutputError, match=r"(cannot be written|not a usable path): .*; choose another") as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["loop"]


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
