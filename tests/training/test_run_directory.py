"""A run remembers its recipe and data, describes itself, and is validated before its first step if it has a model."""

import json
import os
import shlex
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file

import wordsight as ws
from tests.tiny_clip import tiny_clip
from wordsight.cli import main
from wordsight.config import read_toml
from wordsight.errors import ConfigError
from wordsight.metrics import Score
from wordsight.training import load_recipe, train
from wordsight.training import loop as loop_module
from wordsight.training.rows import read_rows
from wordsight.training.run_directory import remembered_data, write_run_file
from wordsight.training.sources import open_evaluators

FEW = ("schedule.steps=6", "schedule.warmup_steps=1", "batch_size=16", "validation.every_steps=3")


class KilledError(Exception):
    """Ends a run as SIGKILL would."""


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """A copy of the data, which a test may move."""
    return Path(shutil.copytree(world, tmp_path / "data"))


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A model to start from."""
    tiny_clip().save(tmp_path / "tiny")
    return tmp_path / "tiny"


def options(*changes: str) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def train_killed(monkeypatch: pytest.MonkeyPatch, step: int, *arguments: str) -> None:
    """Run a command that is killed in a step."""
    real = loop_module.train_step

    def train_step(state: Any, batch: Any, recipe: Any) -> Any:
        if batch.step == step:
            raise KilledError
        return real(state, batch, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "train_step", train_step)
        assert main(["train", *arguments]) == 1


def assert_same_model(one: Path, other: Path) -> None:
    ours, theirs = (load_file(run / "last" / "model.safetensors") for run in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("with_model", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_killed_run_is_resumed_by_its_directory_alone(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_model: bool
) -> None:
    start = ["--from", str(tiny)] if with_model else []
    changes = options(*FEW, "checkpoint_every_steps=2", "validation.labels=[]")
    arguments = [str(data / "recipe.toml"), "--data", str(data), *start, *changes, "--out"]
    assert main(["train", *arguments, str(tmp_path / "whole")]) == 0
    train_killed(monkeypatch, 5, *arguments, str(tmp_path / "killed"))
    shutil.rmtree(tiny)  # is not needed again
    (data / "recipe.toml").unlink()
    assert main(["train", "--resume", "--out", str(tmp_path / "killed")]) == 0
    assert_same_model(tmp_path / "whole", tmp_path / "killed")
    for name in ("recipe.toml", "run.toml"):
        whole, killed = (read_toml(tmp_path / run / name) for run in ("whole", "killed"))
        for tree in (whole, killed):
            tree.pop("about", None)
        assert whole == killed
    about = read_toml(tmp_path / "killed" / "recipe.toml")["about"]
    assert about["command"].startswith(f"wordsight train {data / 'recipe.toml'} --data ")  # not the one that resumed it


def test_a_run_that_was_killed_before_its_first_checkpoint_starts_again(
    data: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(data / "recipe.toml"), "--data", str(data), "--from", str(tiny), *options(*FEW), "--out"]
    assert main(["train", *arguments, str(tmp_path / "whole")]) == 0
    train_killed(monkeypatch, 2, *arguments, str(tmp_path / "early"))
    assert main(["train", "--resume", "--out", str(tmp_path / "early")]) == 0
    assert_same_model(tmp_path / "whole", tmp_path / "early")
    assert [row["step"] for row in read_rows(tmp_path / "early" / "metrics.jsonl")] == [0, 3, 6, 6]
    train_killed(monkeypatch, 4, *arguments, str(tmp_path / "late"))  # `last` is that of step 3
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(tmp_path / "late")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "stopped before its first checkpoint" in line
    assert "pass the model with --from" in line
    assert main(["train", *arguments, str(tmp_path / "late"), "--resume"]) == 0
    assert_same_model(tmp_path / "whole", tmp_path / "late")


def test_moved_data_is_named_and_can_be_passed_again(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "run")
    assert main(["train", str(data / "recipe.toml"), "--data", str(data), "--out", out, *options(*FEW)]) == 0
    data.rename(tmp_path / "moved")
    capsys.readouterr()
    assert main(["train", "--resume", "--out", out]) == 2
    assert capsys.readouterr().err == (
        f"error: {data}: the data of {out} is not there any more; if it was moved, pass its new location with "
        "--data DIR\n"
    )
    assert main(["train", "--resume", "--out", out, "--data", str(tmp_path / "moved")]) == 0
    assert main(["train", "--resume", "--out", out]) == 0
    (tmp_path / "run" / "run.toml").unlink()  # as of a run of an older version
    capsys.readouterr()
    assert main(["train", "--resume", "--out", out]) == 2
    assert "the run does not say where its data is; pass it with --data DIR" in capsys.readouterr().err


def test_addresses_with_passwords_are_not_remembered(tmp_path: Path) -> None:
    write_run_file(tmp_path, ["https://user:secret@example.org/{000..003}.tar"], "")
    assert "secret" not in (tmp_path / "run.toml").read_text()
    with pytest.raises(ConfigError, match="does not say where its data is"):
        remembered_data(tmp_path)
    write_run_file(tmp_path, [os.fsdecode(b"/data/\xff")], "")
    with pytest.raises(ConfigError, match="does not say where its data is"):
        remembered_data(tmp_path)


def test_a_finished_run_can_be_extended(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["train", str(world / "recipe.toml"), "--data", str(world), "--out", str(out), *options(*FEW)]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "--out", str(out), "--set", "schedule.steps=9"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"{out}: 9 steps")
    assert "from step 6: schedule.steps is 9 instead of 6; the learning rate follows the new schedule" in printed.err
    assert [row["key"] for row in ws.load(out / "last").card.training["changes"]] == ["schedule.steps"]
    rates = {row["step"]: row["learning_rate"] for row in read_rows(out / "metrics.jsonl") if "loss" in row}
    assert rates[9] == pytest.approx(1e-2 * (1 + torch.cos(torch.tensor(torch.pi * 7 / 8))).item() / 2)
    assert main(["train", "--resume", "--out", str(out), "--set", "schedule.steps=8"]) == 2
    assert f"schedule.steps 8: {out} has taken 9 steps; expected at least as many" in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(out), "--set", "seed=8"]) == 2
    assert "these differ: seed;" in capsys.readouterr().err


def test_a_run_from_a_model_is_validated_before_the_first_step(
    world: Path, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = options(*FEW, "optimizer.learning_rate=1e-30", "ema_decay=0")
    arguments = ["train", str(world / "recipe.toml"), "--data", str(world), "--out", str(tmp_path / "run"), *changes]
    assert main([*arguments, "--from", str(tiny), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    rows = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "scores" in row]
    assert [row["step"] for row in rows] == [0, 3, 6]
    assert result["start_scores"] == rows[0]["scores"]
    scores = {f"{score['dataset']}/{score['metric']}": score["value"] for score in rows[0]["scores"]}
    before = ws.load(tiny)
    recipe = load_recipe(world / "recipe.toml")
    tuned = msgspec.structs.replace(recipe, model=before.card.model, preprocessing=before.card.preprocessing)
    expected = [score for evaluator in open_evaluators(tuned, [world]) for score in evaluator(before, 0)]
    assert scores == {f"{score.dataset}/{score.metric}": score.value for score in expected}
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 0
    assert "6 steps; no validation was better than that of the start model" in capsys.readouterr().out


@pytest.mark.parametrize("value", [0.2, 0.1])
def test_a_start_model_that_no_step_improves_is_the_best(world: Path, tiny: Path, tmp_path: Path, value: float) -> None:
    def evaluate(encoder: ws.DualEncoder, steps: int) -> list[Score]:
        return [
            Score(dataset="d", metric="m", value=value if steps else 0.2, low=0, high=1, n=9, chance=0, method="none"),
        ]

    recipe = load_recipe(world / "recipe.toml", (*FEW, "validation={every_steps=2, selection_metric='m'}"))
    run = train(recipe, world, tmp_path / "run", start=tiny, evaluators=[evaluate])
    assert (run.best_step, run.best_scores) == (0, run.start_scores)
    start, best = (load_file(path / "model.safetensors") for path in (tiny, tmp_path / "run" / "best"))
    assert all(torch.equal(start[name], best[name]) for name in start)


def test_a_run_describes_itself_and_claims_nothing_of_its_recipe(world: Path, tiny: Path, tmp_path: Path) -> None:
    claims = "[about]\ntitle = 'squares'\nminutes = 3.0\nhardware = 'a toaster'\ndescription = 'The best.'\n"
    (tmp_path / "claims.toml").write_text(
        (world / "recipe.toml").read_text().replace('[about]\ntitle = "squares"\n', claims)
    )
    arguments = ["train", str(tmp_path / "claims.toml"), "--data", str(world)]
    steps = options("schedule.steps=1", "schedule.warmup_steps=0", "validation={}")
    assert main([*arguments, "--out", str(tmp_path / "changed"), *steps]) == 0
    assert read_toml(tmp_path / "changed" / "recipe.toml")["about"] == {
        "title": "changed",
        "recipe": "squares",
        "source_model": "",
        "description": "",
        "command": shlex.join(["wordsight", *arguments, "--out", str(tmp_path / "changed"), *steps]),
        "exports": [],
        "hardware": "",
        "scores": [],
    }
    assert main([*arguments, "--out", str(tmp_path / "tuned"), "--from", str(tiny), *steps]) == 0
    about = read_toml(tmp_path / "tuned" / "recipe.toml")["about"]
    assert (about["title"], about["source_model"]) == ("tuned", str(tiny))
    card = ws.load(tmp_path / "tuned").card
    assert (card.name, card.training["recipe"], card.training["source_model"]) == ("tuned", "squares", str(tiny))
    assert main([*arguments, "--out", str(tmp_path / "x"), *steps, "--set", "about.title=mine"]) == 0
    assert ws.load(tmp_path / "x").card.name == "mine"
    few = load_recipe(world / "recipe.toml", ("schedule.steps=1", "schedule.warmup_steps=0", "validation={}"))
    assert ws.load(train(few, world, tmp_path / "plain").directory).card.name == "squares"
    assert ws.load(train(few, world, tmp_path / "api", start=tiny).directory).card.name == "api"


@pytest.mark.parametrize(
    ("content", "message"),
    [("data = 3", "run.toml: "), ("x = [", "run.toml: not valid TOML"), ("datas = []", "did you mean 'data'")],
)
def test_a_damaged_run_file_is_an_error_of_one_line(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    shutil.copy(world / "recipe.toml", tmp_path / "recipe.toml")
    (tmp_path / "run.toml").write_text(content)
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no recipe: name a TOML file or one of demo, "),
        (["demo", "--data", "x"], "no run directory: pass --out DIR"),
        (["--resume", "--out", "nowhere"], "nowhere: contains no run to resume"),
        (["finetune", "--data", "shards", "--out", "x"], "recipe finetune: it trains an existing model; name one with"),
        (["mine.toml", "--init-recipe", "nowhere"], "nowhere: "),
        (["--init-recipe", "shards"], "--init-recipe writes a file that ends in .toml"),
        (["demo", "--init-recipe", "shards"], "demo: --init-recipe writes a file that ends in .toml"),
        (["old.toml", "--init-recipe", "squares"], "old.toml: already exists; choose another name"),
    ],
)
def test_incomplete_commands_are_errors_of_one_line(
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(world / "squares", "squares")
    Path("old.toml").write_text("mine")
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert Path("old.toml").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.toml", "squares"]
