import json
from pathlib import Path

import pytest

from wordsight.cache import CACHE_KINDS
from wordsight.cli import main


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with two weights files and one index."""
    root = tmp_path / "cache"
    monkeypatch.setenv("WORDSIGHT_CACHE", str(root))
    (root / "weights" / "digests").mkdir(parents=True)
    (root / "weights" / "model.pt").write_bytes(bytes(2_500_000))
    (root / "weights" / "digests" / "one").write_bytes(b"12345")
    (root / "indexes").mkdir()
    (root / "indexes" / "a.idx").write_bytes(b"123")
    return root


def test_every_kind_is_listed_with_files_and_size(cache, capsys):
    assert main(["cache"]) == 0
    path, *lines, total = capsys.readouterr().out.splitlines()
    assert path == str(cache)
    assert [line.split()[0] for line in lines] == list(CACHE_KINDS)
    assert lines[0].split()[1:5] == ["2", "files", "2.5", "MB"]
    assert lines[1].split()[1:5] == ["0", "files", "0", "B"]
    assert total.split() == ["total", "3", "files", "2.5", "MB"]


def test_listing_does_not_create_the_cache(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "none"))
    assert main(["cache"]) == 0
    assert main(["cache", "--clear", "all"]) == 0
    assert not (tmp_path / "none").exists()
    assert "weights: 0 files deleted, 0 B" in capsys.readouterr().out


def test_json_has_exact_sizes(cache, capsys):
    assert main(["cache", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["path"] == str(cache)
    assert list(result["kinds"]) == list(CACHE_KINDS)
    assert result["kinds"]["weights"] == {"path": str(cache / "weights"), "files": 2, "bytes": 2_500_005}


def test_clear_deletes_one_kind_only(cache, capsys):
    assert main(["cache", "--clear", "weights"]) == 0
    assert capsys.readouterr().out == "weights: 2 files deleted, 2.5 MB\n"
    assert not (cache / "weights").exists()
    assert (cache / "indexes" / "a.idx").exists()


def test_clear_all_deletes_every_kind_and_nothing_else(cache, capsys):
    (cache / "notes.txt").write_text("not ours")
    assert main(["cache", "--clear", "all", "--json"]) == 0
    deleted = json.loads(capsys.readouterr().out)["deleted"]
    assert {kind: entry["files"] for kind, entry in deleted.items() if entry["files"]} == {"weights": 2, "indexes": 1}
    assert [path.name for path in cache.iterdir()] == ["notes.txt"]


def test_unknown_kind_is_one_line_with_the_nearest_match(cache, capsys):
    assert main(["cache", "--clear", "weight"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: --clear 'weight': expected weights, shards, ")
    assert captured.err.endswith("; did you mean 'weights'?\n")
    assert captured.err.count("\n") == 1
    assert (cache / "weights").exists()


def test_cache_that_cannot_be_deleted_is_one_line(cache, capsys, monkeypatch):
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("wordsight.cache.shutil.rmtree", refuse)
    assert main(["cache", "--clear", "weights"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {cache / 'weights'}: cannot be deleted: Permission denied")
