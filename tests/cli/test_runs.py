"""`wordsight runs`: the table, its order, the page, and the lines about runs that are damaged or not comparable."""

import json
from pathlib import Path

import pytest
from tests.training.conftest import RECIPE
from tests.training.test_runs import PREFIX, rows, write_run

from wordsight.cli import main
from wordsight.cli.runs_table import RunsTable, build_table
from wordsight.training.runs import read_run


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three comparable runs: one finished, one interrupted, and one with another learning rate and batch size."""
    monkeypatch.chdir(tmp_path)
    data = {"squares": "aa"}
    changed = RECIPE.replace("learning_rate = 1e-2", "learning_rate = 3e-2").replace(
        "batch_size = 32", "batch_size = 8"
    )
    write_run(Path("runs/first"), rows([0.3, 0.5], data))
    write_run(Path("runs/second"), rows([0.4], data))
    write_run(Path("runs/third"), rows([0.6, 0.2], data), changed)
    return Path("runs")


def table(printed: str) -> list[dict[str, str]]:
    header, *lines = (line.split("\t") for line in printed.splitlines())
    return [dict(zip(header, line, strict=True)) for line in lines]


def test_the_table_has_states_scores_with_intervals_times_and_differing_keys(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["runs", "runs"]) == 0
    output = capsys.readouterr()
    first, second, third = table(output.out)
    assert first == {
        "run": "first",
        "state": "finished",
        f"squares/{PREFIX}10": "50.0 % [40.0, 60.0]",
        f"squares/{PREFIX}1": "25.0 % [15.0, 35.0]",
        "best step": "20",
        "time": "41 s",
        "optimizer.learning_rate": "0.01",
        "batch_size": "32",
    }
    assert second["state"] == "interrupted at step 10 of 20"
    assert (third["best step"], third["optimizer.learning_rate"], third["batch_size"]) == ("10", "0.03", "8")
    assert output.err == ""


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ("squares/image_to_text_recall@10", ["third", "first", "second"]),
        ("image_to_text_recall@1", ["third", "first", "second"]),
        ("batch_size", ["third", "first", "second"]),
        ("learning_rate", ["first", "second", "third"]),
        ("best_step", ["second", "third", "first"]),
        ("step", ["second", "first", "third"]),
        ("time", ["second", "first", "third"]),
        ("run", ["first", "second", "third"]),
    ],
)
def test_runs_are_sorted_by_a_column(
    runs: Path, capsys: pytest.CaptureFixture[str], column: str, expected: list[str]
) -> None:
    assert main(["runs", "runs", "--sort", column]) == 0
    assert [row["run"] for row in table(capsys.readouterr().out)] == expected


def test_an_unknown_column_is_an_error_with_the_nearest_one(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "runs", "--sort", "tim"]) == 2
    assert "--sort tim: no such column; known: run, state," in capsys.readouterr().err


def test_json_has_everything(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "runs/third", "runs/first", "--json"]) == 0
    third, first = json.loads(capsys.readouterr().out)
    assert (third["run"], third["best_step"], third["selection_value"]) == ("runs/third", 10, 0.6)
    assert third["scores"][0] | {"dataset": "squares", "value": 0.6, "low": 0.5} == third["scores"][0]
    assert first["differing_keys"] == {"optimizer.learning_rate": 0.01, "batch_size": 32}
    assert (first["state"], first["seconds"], first["data"], first["reason"]) == ("finished", 41.0, "A", None)


def test_runs_on_different_data_are_marked_and_reported_in_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(runs / "other", rows([0.9], {"squares": "bb"}))
    assert main(["runs", "runs", "--page", "page.html"]) == 0
    output = capsys.readouterr()
    assert [row["data"] for row in table(output.out)] == ["A", "B", "A", "A"]
    assert output.err == (
        "not comparable: these runs were validated on different data; compare scores within a letter: "
        "A: first, second, third; B: other\n"
    )
    page = Path("page.html").read_text()
    assert "not comparable" in page
    assert f"squares {PREFIX}10, data B" in page


def test_a_damaged_run_is_listed_with_the_reason_and_the_others_too(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (runs / "second" / "recipe.toml").write_text("[about\x1b")
    assert main(["runs", "runs", "--page", "page.html"]) == 0
    output = capsys.readouterr()
    first, second, third = table(output.out)
    assert second["state"].startswith("damaged")
    assert "recipe.toml: not valid TOML" in second["reason"]
    assert (first["state"], third["state"]) == ("finished", "finished")
    assert output.err.startswith("runs/second: damaged: recipe.toml: not valid TOML")
    assert len(output.err.splitlines()) == 1
    assert "\x1b" not in output.out + output.err + Path("page.html").read_text()


def test_the_page_has_curves_with_bands_and_a_legend(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "runs", "--page", "out/page.html", "--quiet"]) == 0
    page = Path("out/page.html").read_text()
    titles = ["Runs", f"squares {PREFIX}10", f"squares {PREFIX}1", "Loss", "Learning rate"]
    assert all(f"<h2>{title}</h2>" in page for title in titles)
    assert page.count("<svg") == 8  # against steps and against time
    assert page.count("fill: var(--series-1)") >= 4  # the bands of the first run
    assert page.count(">third</span>") == 8


def test_a_page_in_the_place_of_a_directory_is_an_error(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "runs", "--page", "runs"]) == 2
    assert "runs: is a directory" in capsys.readouterr().err


@pytest.mark.parametrize("directory", ["missing", "."])
def test_directories_without_runs_are_errors_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], directory: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs", directory]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def wide_table(runs: Path) -> RunsTable:
    return build_table([read_run(runs / name) for name in ("first", "second", "third")])


def test_a_narrow_terminal_shows_the_selection_metric_before_other_scores(runs: Path) -> None:
    table = wide_table(runs)
    shown, hidden = table.fitting(1000)
    assert (shown, hidden) == ([*table.columns], [])
    shown, hidden = table.fitting(90)
    assert hidden == [f"squares/{PREFIX}1", "optimizer.learning_rate", "batch_size"][:1] or len(hidden) < 4
    assert f"squares/{PREFIX}10" in shown
    assert {"run", "state", "best step", "time"} <= set(table.fitting(10)[0])
