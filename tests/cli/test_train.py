"""How the options of `wordsight train` reach `wordsight.train`, and what it prints; tests/training runs it for real."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.tiny_clip import tiny_clip

from wordsight.cli import main
from wordsight.cli.train_options import describe_run
from wordsight.errors import TrainingError
from wordsight.metrics import Score
from wordsight.training import Run

SCORE = Score(
    dataset="validation", metric="accuracy", value=0.5, low=0.4, high=0.6, n=100, chance=0.1, method="Wilson 95 %"
)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of each call of `train`, which takes no step but reports progress."""
    calls: list[dict[str, Any]] = []

    def train(recipe: Any, data: list[str], out: Path, **options: Any) -> Run:
        calls.append({"recipe": recipe, "data": data, "out": out, **options})
        print("step 10/20", file=sys.stderr)
        return Run(out, 20, 10, (SCORE,))

    monkeypatch.setattr("wordsight.training.train", train, raising=False)
    return calls


def test_options_reach_train(calls, tmp_path):
    start = tmp_path / "start"
    tiny_clip().save(start)
    options = ["--data", "a", "--data", "b", "--from", str(start), "--resume", "--workers", "3", "--tensorboard"]
    assert main(["train", "flickr8k", "--out", "run", "--set", "schedule.steps=700", "--device", "cpu", *options]) == 0
    (call,) = calls
    assert call.pop("start").fingerprint == tiny_clip().fingerprint
    assert call.pop("recipe").schedule.steps == 700
    assert call == {
        "data": ["a", "b"],
        "out": Path("run"),
        "resume": True,
        "workers": 3,
        "tensorboard": True,
        "device": "cpu",
    }


def test_result_is_printed_with_a_command_to_try(calls, capsys):
    assert main(["train", "flickr8k", "--data", "shards", "--out", "runs/first"]) == 0
    captured = capsys.readouterr()
    first, score, advice = captured.out.splitlines()
    assert first == "runs/first: 20 steps; best model after 10 steps"
    assert score == "  validation, accuracy: 50.0 % [40.0, 60.0] of 100, chance 10.0 % (Wilson 95 %)"
    assert advice == "try: wordsight classify IMAGES --labels cat,dog --model runs/first"
    assert captured.err == "step 10/20\n"


def test_scores_are_compared_with_those_before_training():
    start = dataclasses.replace(SCORE, value=0.25, low=0.125, high=0.4)
    lines = describe_run(Run(Path("run"), 20, 10, (SCORE,), (start,)), quiet=True)
    assert lines == [
        "run: 20 steps; best model after 10 steps",
        "  validation, accuracy: 50.0 % [40.0, 60.0] of 100, chance 10.0 % (Wilson 95 %); before training 25.0 % "
        "[12.5, 40.0]",
    ]
    lines = describe_run(Run(Path("run"), 20, 0, (start,), (start,)), quiet=True)
    assert lines[0] == "run: 20 steps; no validation was better than that of the start model"
    assert "before training" not in lines[1]


def test_json_is_one_object(calls, capsys):
    assert main(["train", "flickr8k", "--data", "shards", "--out", "runs/first", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {
        "directory": "runs/first",
        "steps": 20,
        "best_step": 10,
        "scores": [msgspec.to_builtins(SCORE)],
        "start_scores": [],
    }


def test_quiet_prints_only_the_result(calls, capsys):
    assert main(["train", "flickr8k", "--data", "shards", "--out", "runs/first", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("runs/first: 20 steps; best model after 10 steps\n  validation, accuracy: ")
    assert captured.out.count("\n") == 2
    assert captured.err == ""


def test_quiet_prints_errors(monkeypatch, capsys):
    def fail(*arguments: Any, **options: Any) -> Run:
        print("step 10/20", file=sys.stderr)
        raise TrainingError("the loss is not finite")

    monkeypatch.setattr("wordsight.training.train", fail, raising=False)
    assert main(["train", "flickr8k", "--data", "shards", "--out", "runs/first", "--quiet"]) == 2
    assert capsys.readouterr().err == "error: the loss is not finite\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["flickr8", "--data", "shards", "--out", "run"], "did you mean 'flickr8k'?"),
        (["flickr8k", "--data", "shards", "--out", "run", "--set", "schedule.step=1"], "did you mean"),
        (["flickr8k", "--data", "shards", "--out", "run", "--workers", "-1"], "Invalid value for '--workers'"),
        (["flickr8k", "--data", "no-shards", "--out", "run"], "no-shards"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
