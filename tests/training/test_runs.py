"""Reading runs: states, best steps, damage, and which runs can be compared."""

import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import RECIPE
from wordsight.errors import ConfigError
from wordsight.locks import lock
from wordsight.training.runs import data_letters, differing, find_runs, read_run

PREFIX = "image_to_text_recall@"


def score(value: float, metric: str = f"{PREFIX}10", n: int = 100, dataset: str = "squares") -> dict[str, Any]:
    interval = {"value": value, "low": max(0.0, value - 0.1), "high": min(1.0, value + 0.1)}
    return {"dataset": dataset, "metric": metric, "n": n, "chance": 0.1, "method": "Wilson 95 %", **interval}


def rows(values: list[float], data: dict[str, str] | None = None, n: int = 100) -> list[dict[str, Any]]:
    """Ten steps and a validation for each value."""
    result: list[dict[str, Any]] = []
    for number, value in enumerate(values, 1):
        step = 10 * number
        result.append({"step": step, "loss": 1 / step, "learning_rate": 0.01, "elapsed_s": 2.0 * step})
        scores = [score(value, n=n), score(value / 2, f"{PREFIX}1", n=n)]
        result.append({"step": step, "scores": scores, "data": data or {}, "elapsed_s": 2.0 * step + 1})
    return result


def write_run(directory: Path, logged: list[dict[str, Any]], recipe: str = RECIPE, has_best: bool = True) -> Path:
    directory.mkdir(parents=True)
    (directory / "recipe.toml").write_text(recipe)
    (directory / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in logged))
    if has_best:
        (directory / "best").mkdir()
        (directory / "best" / "wordsight.json").write_text(json.dumps({"training": {"data": "ab" * 32}}))
    return directory


def test_the_best_step_is_the_last_one_with_the_highest_selection_metric(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", rows([0.3, 0.5, 0.5, 0.4])))
    assert (run.best_step, run.best_value, run.metric) == (30, 0.5, f"{PREFIX}10")
    assert [(each.metric, each.value) for each in run.scores] == [(f"{PREFIX}10", 0.5), (f"{PREFIX}1", 0.25)]
    assert run.seconds == 81.0
    assert [point[:3] for point in run.losses] == [
        (10, 20.0, 0.1),
        (20, 40.0, 0.05),
        (30, 60.0, 1 / 30),
        (40, 80.0, 0.025),
    ]
    assert run.score_curves["squares", f"{PREFIX}1"]
    assert run.training_data == "ab" * 32


def test_a_run_is_finished_when_its_last_step_was_validated(tmp_path: Path) -> None:
    finished = read_run(write_run(tmp_path / "finished", rows([0.3, 0.5])))  # RECIPE has 20 steps
    assert (finished.state, finished.steps, finished.total_steps, finished.reason) == ("finished", 20, 20, "")
    unvalidated = read_run(write_run(tmp_path / "unvalidated", rows([0.3, 0.5])[:-1]))
    assert (unvalidated.state, unvalidated.steps) == ("interrupted", 20)
    half = read_run(write_run(tmp_path / "half", rows([0.3])))
    assert (half.state, half.steps) == ("interrupted", 10)


def test_a_run_whose_lock_is_held_is_running_and_reading_it_does_not_load_torch(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", rows([0.3]))
    script = (
        "import sys; from pathlib import Path; from wordsight.training.runs import read_run; "
        f"print(read_run(Path({str(directory)!r})).state, 'torch' in sys.modules)"
    )
    with lock(directory / ".lock"):
        printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "running False\n"
    assert read_run(directory).state == "interrupted"


def test_a_row_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", rows([0.3]))
    with (directory / "metrics.jsonl").open("a") as file:
        file.write('{"step": 20, "lo')
    run = read_run(directory)
    assert (run.state, run.steps, run.reason) == ("interrupted", 10, "")


DAMAGE = {
    "a row": ("metrics.jsonl", b'{"step": 10}\nnonsense\n{"step": 20}\n', "metrics.jsonl: row 2 is damaged"),
    "scores": ("metrics.jsonl", b'{"step": 10, "scores": [{"metric": 5}]}\n', "metrics.jsonl: "),
    "a step": ("metrics.jsonl", b'{"step": true}\n', "metrics.jsonl: row 1 is damaged"),
    "another metric": (
        "metrics.jsonl",
        json.dumps({"step": 10, "scores": [score(1, "x")]}).encode(),
        "no validation set",
    ),
    "not TOML": ("recipe.toml", b"[about\n", "recipe.toml: not valid TOML"),
    "a key": ("recipe.toml", RECIPE.replace("batch_size", "batch_sise").encode(), "unknown key 'batch_sise'"),
    "a long row": ("metrics.jsonl", b'{"step": 10}\n' + b"[" * (1 << 21), "metrics.jsonl: row 2 is damaged"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_has_a_reason_of_one_line(tmp_path: Path, name: str) -> None:
    file, content, reason = DAMAGE[name]
    directory = write_run(tmp_path / "run", rows([0.3]))
    (directory / file).write_bytes(content)
    run = read_run(directory)
    assert run.state == "damaged"
    assert reason in run.reason
    assert "\n" not in run.reason


def test_missing_files_are_reasons(tmp_path: Path) -> None:
    assert read_run(write_run(tmp_path / "run", rows([0.3]), has_best=False)).reason == "best/ has no model"
    directory = write_run(tmp_path / "other", rows([0.3]))
    (directory / "recipe.toml").unlink()
    assert read_run(directory).reason == "recipe.toml: no such file"


def test_the_duration_of_an_older_log_is_that_of_its_steps(tmp_path: Path) -> None:
    logged = [{"step": 10, "loss": 1.0, "pairs_per_s": 64.0}, {"step": 20, "loss": 1.0, "pairs_per_s": 32.0}]
    assert read_run(write_run(tmp_path / "run", logged)).seconds == 10 * 32 / 64 + 10 * 32 / 32


def test_numbers_that_are_not_finite_are_read(tmp_path: Path) -> None:
    directory = write_run(tmp_path / "run", [])
    (directory / "metrics.jsonl").write_text('{"step": 10, "loss": NaN, "gradient_norm": Infinity}\n')
    assert read_run(directory).steps == 10


def test_runs_are_found_below_directories_and_a_recipe_alone_is_none(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)  # the user's own, next to the runs
    one, two = write_run(tmp_path / "runs" / "b", []), write_run(tmp_path / "runs" / "a" / "deep", [])
    (tmp_path / "runs" / ".hidden").mkdir()
    assert find_runs([tmp_path, one]) == [two, one]
    started = tmp_path / "runs" / "started"
    started.mkdir()
    (started / "recipe.toml").write_text(RECIPE)
    (started / ".lock").touch()
    assert find_runs([tmp_path / "runs"]) == [two, one, started]


def test_directories_without_runs_are_errors(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(ConfigError, match=r"photos: no training runs in it"):
        find_runs([tmp_path / "photos"])
    with pytest.raises(ConfigError, match=r"photo: no such directory; did you mean 'photos'\?"):
        find_runs([tmp_path / "photo"])


def test_differing_keys_are_those_of_resolved_recipes(tmp_path: Path) -> None:
    size = "[preprocessing]\nsize_px = 16\n"  # the default
    one = read_run(write_run(tmp_path / "one", rows([0.3])))
    same = read_run(
        write_run(tmp_path / "same", rows([0.3]), RECIPE.replace('"squares"\n[model]', '"x"\n[model]') + size)
    )
    assert differing([one, same]) == {}
    changed = RECIPE.replace("learning_rate = 1e-2", "learning_rate = 0.1").replace("steps = 20", "steps = 30")
    other = read_run(write_run(tmp_path / "other", rows([0.3]), changed))
    broken = write_run(tmp_path / "broken", [])
    (broken / "recipe.toml").unlink()
    assert differing([one, other, read_run(broken)]) == {
        "schedule.steps": [20, 30, None],
        "optimizer.learning_rate": [0.01, 0.1, None],
    }


def test_runs_on_different_data_have_different_letters(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / "a", rows([0.3], {"squares": "aa"}))),
        read_run(write_run(tmp_path / "b", rows([0.3], {"squares": "bb"}))),
        read_run(write_run(tmp_path / "c", rows([0.3], {"squares": "aa"}))),
        read_run(write_run(tmp_path / "none", [])),
    ]
    assert data_letters(runs) == ["A", "B", "A", ""]


def test_without_hashes_numbers_of_images_are_compared(tmp_path: Path) -> None:
    runs = [
        read_run(write_run(tmp_path / "a", rows([0.3], {"squares": "aa"}))),
        read_run(write_run(tmp_path / "old", rows([0.3]))),
        read_run(write_run(tmp_path / "smaller", rows([0.3], n=50))),
    ]
    assert data_letters(runs) == ["A", "A", "B"]


def test_memory_does_not_grow_with_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wordsight.training.runs._MAX_POINTS", 50)

    def peak(length: int) -> int:
        directory = write_run(tmp_path / str(length), rows([0.5] * length))
        tracemalloc.start()
        try:
            run = read_run(directory)
            assert run.steps == [*run.losses][-1].step == 10 * length
            assert 50 <= len(list(run.losses)) <= 101
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)  # imports
    assert peak(800) < 1.3 * peak(200)
