"""The phases of commands: each slow one has a name and, where its items can be counted, a number of them."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import ROOT

from wordsight.cli import main
from wordsight.cli.terminal import show_progress
from wordsight.progress import Progress, phase, show_phases_with, tracked

GOLDEN = ROOT / "tests" / "golden" / "files"
LABELS = "kind 1,kind 2"


@pytest.fixture
def phases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int | None]]:
    """Name of each phase that commands report -> its total and the last number of items; golden files around."""
    seen: dict[str, list[int | None]] = {}

    @contextlib.contextmanager
    def record(name: str, total: int | None, unit: str) -> Iterator[Progress]:
        seen[name] = [total, None]

        def progress(done: int) -> None:
            seen[name][1] = done

        yield progress

    monkeypatch.setattr("wordsight.cli.terminal.show_phases", lambda quiet: show_phases_with(None if quiet else record))
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    for name in ("model", "shards", "images"):
        shutil.copytree(GOLDEN / name, tmp_path / name)
    shutil.copy(GOLDEN / "recipe.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return seen


def test_training_reports_its_phases(phases: dict[str, list[int | None]]) -> None:
    arguments = ["train", "recipe.toml", "--data", "shards", "--out", "run", "--from", "model"]
    assert main([*arguments, "--set", "schedule.steps=2"]) == 0
    assert phases["decoding pairs"] == [16, 16]
    counted = {"opening shards", "hashing weights", "counting the tokens of captions"}
    assert all(phases[name][0] == phases[name][1] for name in counted)
    uncounted = {"evaluating on pairs", "loading weights", "building the model"}
    assert uncounted | {"comparing validation images with training images"} <= set(phases)
    phases.clear()
    assert main([*arguments, "--set", "schedule.steps=2", "--resume"]) == 0
    assert "loading the checkpoint" in phases


def test_classifying_embedding_and_converting_report_their_phases(phases: dict[str, list[int | None]]) -> None:
    assert main(["classify", "images", "--labels", LABELS, "--model", "model", "--templates", "imagenet"]) == 0
    assert phases["building the classifier"] == [160, 160]
    assert {"counting images", "loading weights"} <= set(phases)
    phases.clear()
    assert main(["embed", "images", "--model", "model", "--out", "images.parquet", "--quiet"]) == 0
    assert not phases
    assert main(["embed", "images", "--model", "model", "--out", "images.parquet"]) == 0
    assert "reading earlier embeddings" in phases
    phases.clear()
    assert main(["convert", "model", "converted", "--to", "wordsight"]) == 0
    assert "writing and comparing" in phases


def test_a_phase_has_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    now = iter([0.0, *(float(second) for second in range(1, 20))])
    monkeypatch.setattr("wordsight.progress.time.monotonic", lambda: next(now))
    show_phases_with(lambda name, total, unit: show_progress(total, unit, name=name))
    try:
        assert list(tracked("abcd", "hashing", "files")) == list("abcd")
        with phase("exporting"):
            pass
    finally:
        show_phases_with(None)
    lines = capsys.readouterr().err.split("\r")
    assert lines[2] == "[##########----------] hashing: 2 of 4 files, 1.0 files/s, 2 s left\x1b[K"
    assert lines[-2:] == ["exporting ...\x1b[K", "\x1b[K"]


def test_on_a_narrow_terminal_the_remaining_time_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    now = iter([0.0, *(float(second) for second in range(1, 20))])
    monkeypatch.setattr("wordsight.progress.time.monotonic", lambda: next(now))
    for columns, expected in (
        (60, "[##########----------] hashing: 2 of 4 files, 2 s left"),
        (40, "hashing: 2 of 4 files, 2 s left"),
    ):
        monkeypatch.setenv("COLUMNS", str(columns))
        with show_progress(4, "files", name="hashing") as progress:
            progress(1)
            progress(2)
        assert capsys.readouterr().err.split("\r")[2] == f"{expected}\x1b[K"


def test_a_phase_that_is_over_at_once_shows_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with show_progress(3, "files", name="hashing") as progress:
        progress(3)
    assert capsys.readouterr().err == ""
