"""Files are copied and moved completely or not at all, never over another file, and never into the input."""

import os
import shutil
from pathlib import Path

import pytest

from wordsight.cli.transfer import TransferOptions, directory_name, plan_transfers, run_transfers
from wordsight.errors import ConfigError, DataError, OutputError


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`photos/a/1.jpg`, `photos/b/1.jpg` and `photos/b/2.jpg`, each with its own path as content."""
    monkeypatch.chdir(tmp_path)
    for name in ("a/1.jpg", "b/1.jpg", "b/2.jpg"):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return Path("photos")


def files(photos: Path) -> list[tuple[Path, list[str]]]:
    return [(photos / "a/1.jpg", ["cat"]), (photos / "b/1.jpg", ["cat"]), (photos / "b/2.jpg", ["dog"])]


def contents(directory: str | Path) -> dict[str, str]:
    paths = [path for path in Path(directory).rglob("*") if path.is_file()]
    return {path.relative_to(directory).as_posix(): path.read_text() for path in paths}


SORTED = {"cat/1.jpg": "a/1.jpg", "cat/1-2.jpg": "b/1.jpg", "dog/2.jpg": "b/2.jpg"}

LISTING = "".join(f"{Path('photos', old)}\t{Path('sorted', new)}\n" for new, old in SORTED.items())


def test_copies_keep_contents_and_times_and_number_equal_names(photos, capsys):
    os.utime(photos / "a/1.jpg", (1e9, 1e9))
    options = TransferOptions(copy_to=Path("sorted"), inputs=(photos,))
    run_transfers(plan_transfers(files(photos), options), options)
    assert contents("sorted") == SORTED
    assert Path("sorted/cat/1.jpg").stat().st_mtime == 1e9
    assert contents(photos) == {name: name for name in SORTED.values()}
    assert capsys.readouterr().err == "copied 3 files to sorted (2 directories)\n"


def test_a_copy_continues_after_an_interruption(photos, capsys):
    options = TransferOptions(copy_to=Path("sorted"), inputs=(photos,))
    plan = plan_transfers(files(photos), options)
    run_transfers(plan[:1], options)
    run_transfers(plan_transfers(files(photos), options), options)
    assert contents("sorted") == SORTED
    assert "copied 2 files to sorted (2 directories), 1 already there\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        {"copy_to": Path("sorted"), "dry_run": True},
        {"move_to": Path("sorted"), "dry_run": True},
        {"move_to": Path("sorted")},
    ],
)
def test_a_dry_run_lists_what_would_happen_and_changes_nothing(photos, capsys, options):
    options = TransferOptions(**options, inputs=(photos,))
    run_transfers(plan_transfers(files(photos), options), options)
    out, err = capsys.readouterr()
    assert out == LISTING
    assert err.startswith(f"nothing was {'moved' if options.is_move else 'copied'}: 3 files would go to sorted")
    assert ("--yes" in err) == options.is_move
    assert not Path("sorted").exists()
    assert len(contents(photos)) == 3


def test_moving_needs_yes_and_leaves_nothing_behind(photos, capsys):
    options = TransferOptions(move_to=Path("sorted"), yes=True, inputs=(photos,))
    run_transfers(plan_transfers(files(photos), options), options)
    assert contents("sorted") == SORTED
    assert contents(photos) == {}
    assert capsys.readouterr() == (LISTING, "moved 3 files to sorted (2 directories)\n")


def test_a_move_to_another_file_system_copies_first(photos, monkeypatch):
    elsewhere = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    if elsewhere is None or elsewhere.stat().st_dev == photos.stat().st_dev:
        pytest.skip("needs a second file system")
    target = elsewhere / f"wordsight-test-{os.getpid()}"
    try:
        options = TransferOptions(move_to=target, yes=True, inputs=(photos,))
        run_transfers(plan_transfers(files(photos), options), options)
        assert contents(target) == SORTED
        assert contents(photos) == {}
    finally:
        shutil.rmtree(target, ignore_errors=True)


def test_an_existing_target_is_refused_before_anything_is_written(photos):
    Path("sorted/dog").mkdir(parents=True)
    Path("sorted/dog/2.jpg").write_text("another")
    options = TransferOptions(copy_to=Path("sorted"), inputs=(photos,))
    with pytest.raises(OutputError, match=r"sorted/dog/2\.jpg: exists, and is not replaced"):
        plan_transfers(files(photos), options)
    assert contents("sorted") == {"dog/2.jpg": "another"}


def test_a_file_that_appears_after_the_plan_is_not_replaced(photos):
    options = TransferOptions(move_to=Path("sorted"), yes=True, inputs=(photos,))
    plan = plan_transfers(files(photos), options)
    Path("sorted/cat").mkdir(parents=True)
    Path("sorted/cat/1.jpg").write_text("another")
    with pytest.raises(OutputError, match="appeared meanwhile"):
        run_transfers(plan, options)
    assert contents("sorted") == {"cat/1.jpg": "another"}
    assert len(contents(photos)) == 3


@pytest.mark.parametrize("directory", ["photos", "photos/new", "photos/../photos/a", "link/b"])
def test_a_directory_inside_the_input_is_refused(photos, directory):
    Path("link").symlink_to("photos")
    with pytest.raises(OutputError, match=r"--copy-to .*: inside the input photos"):
        TransferOptions(copy_to=Path(directory), inputs=(photos,))


def test_a_label_that_leads_into_the_input_is_refused(photos):
    options = TransferOptions(copy_to=Path(), inputs=(photos,))
    with pytest.raises(OutputError, match="inside the input photos"):
        plan_transfers([(photos / "a/1.jpg", ["photos"])], options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"copy_to": Path("x"), "move_to": Path("y")}, "--copy-to and --move-to both"),
        ({"dry_run": True}, "--dry-run needs --copy-to or --move-to"),
        ({"yes": True}, "--yes needs --copy-to or --move-to"),
        ({"copy_to": Path("x"), "yes": True}, "--yes is for --move-to, and not for --copy-to"),
        ({"move_to": Path("x"), "yes": True, "dry_run": True}, "not for --dry-run"),
    ],
)
def test_contradictory_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TransferOptions(**options)


def test_what_is_not_a_file_on_disk_is_refused(photos):
    options = TransferOptions(move_to=Path("sorted"), inputs=(photos,))
    for source in (Path("film.mp4#t=1.000"), photos / "a", Path("a\0b"), Path("x" * 300)):
        with pytest.raises(DataError, match="only image files can be copied or moved"):
            plan_transfers([(source, [])], options)
    Path("link.jpg").symlink_to(photos / "a/1.jpg")
    with pytest.raises(DataError, match=r"link\.jpg: a link"):
        plan_transfers([(Path("link.jpg"), [])], options)


def test_a_file_in_the_way_of_the_directory_is_refused(photos):
    Path("file").write_text("")
    with pytest.raises(OutputError, match="not a directory"):
        TransferOptions(copy_to=Path("file"), inputs=(photos,))


def test_a_file_with_two_labels_can_be_copied_twice_but_not_moved(photos):
    both = [(photos / "a/1.jpg", ["cat"]), (photos / "a/1.jpg", ["dog"]), (photos / "a/1.jpg", ["dog"])]
    options = TransferOptions(copy_to=Path("sorted"), inputs=(photos,))
    run_transfers(plan_transfers(both, options), options)
    assert contents("sorted") == {"cat/1.jpg": "a/1.jpg", "dog/1.jpg": "a/1.jpg"}
    with pytest.raises(DataError, match="cannot be moved to both"):
        plan_transfers(both, TransferOptions(move_to=Path("other"), inputs=(photos,)))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("cat", "cat"),
        ("salt, pepper", "salt, pepper"),
        ("a/b\\c:d", "a_b_c_d"),
        ("..", "_"),
        (".hidden", "hidden_"),
        ("CON", "CON_"),
        ("con.txt", "con.txt_"),
        ("a\x1b[31m", "a_[31m"),
        ("naïve 猫", "naïve 猫"),
        ("", "_"),
    ],
)
def test_a_label_becomes_the_name_of_a_directory(label, name):
    assert directory_name(label) == name


def test_the_name_of_a_directory_is_short_enough():
    assert len(directory_name("猫" * 500).encode()) <= 201
