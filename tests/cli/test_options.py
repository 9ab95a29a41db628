"""The options that `classify`, `embed` and other commands share."""

import inspect
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_clip import tiny_clip, write_images

from wordsight.cli import main
from wordsight.cli.loading import ModelOptions
from wordsight.cli.options import DECODINGS, POLICIES, RUNTIMES
from wordsight.encoder import load

COMMANDS = {
    "classify": ["classify", "photos", "--labels", "cat,dog"],
    "embed": ["embed", "photos", "--out", "photos.npy"],
}


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a run and two photos."""
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "runs" / "first" / "best")
    write_images(tmp_path / "photos", 2)
    return tmp_path


@pytest.fixture
def load_arguments(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The keyword arguments of each call of `wordsight.load`, which returns a small model."""
    calls: list[dict[str, Any]] = []

    def record(name: str, **arguments: Any) -> object:
        calls.append({"name": name, **arguments})
        return tiny_clip()

    monkeypatch.setattr("wordsight.encoder.load", record, raising=False)
    return calls


@pytest.mark.parametrize("command", COMMANDS)
def test_model_options_reach_load(workspace, load_arguments, command):
    options = {
        "--as": ("architecture", "ViT-B-32-quickgelu"),
        "--device": ("device", "cpu"),
        "--runtime": ("runtime", "auto"),
        "--decoding": ("decoding", "cropped"),
        "--policy": ("policy", "published"),
        "--mirror": ("mirror", "https://mirror.example.org"),
    }
    arguments = [text for option, (_, value) in options.items() for text in (option, value)]
    arguments += ["--plain", "--batch-size", "16", "--model", "a-model"]
    assert main([*COMMANDS[command], *arguments]) == 0
    (call,) = load_arguments
    call.pop("progress")
    assert call == {"name": "a-model", "averaged": False, "batch_size": 16, **dict(options.values())}


@pytest.mark.parametrize("command", COMMANDS)
def test_unset_options_leave_the_defaults_of_load(workspace, load_arguments, command):
    assert main([*COMMANDS[command], "--model", "a-model"]) == 0
    (call,) = load_arguments
    call.pop("progress")
    defaults = {name: parameter.default for name, parameter in inspect.signature(load).parameters.items()}
    assert call == {"name": "a-model"} | {name: defaults[name] for name in call if name != "name"}


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_architecture_is_one_line(workspace, capsys, command):
    torch.save(dict(tiny_clip().model.state_dict()), workspace / "weights.pt")
    assert main([*COMMANDS[command], "--model", "weights.pt", "--as", "ViT-B-31"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "ViT-B-31" in line
    assert "did you mean 'ViT-B-32'?" in line


@pytest.mark.parametrize("command", COMMANDS)
def test_unknown_device_is_one_line(workspace, capsys, command):
    assert main([*COMMANDS[command], "--model", "runs/first", "--device", "gpu7"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: device 'gpu7'")
    assert main([*COMMANDS[command], "--model", "runs/first", "--device", "cpu"]) == 0


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--runtime", "onxn", "expected torch, half, onnx, int8 or auto; did you mean 'onnx'?"),
        ("--decoding", "scale", "expected exact, cropped or scaled; did you mean 'scaled'?"),
        ("--policy", "publish", "expected viewer or published; did you mean 'published'?"),
    ],
)
def test_misspelt_choice_is_one_line_with_the_nearest_match(workspace, capsys, command, option, value, message):
    assert main([*COMMANDS[command], "--model", "runs/first", option, value]) == 2
    captured = capsys.readouterr()
    assert captured.err == f"error: {option} {value!r}: {message}\n"
    assert captured.out == ""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_batch_size_must_be_a_positive_number(workspace, capsys, command, value):
    assert main([*COMMANDS[command], "--model", "runs/first", "--batch-size", value]) == 2
    assert capsys.readouterr().err.startswith("error: Invalid value for '--batch-size'")


def test_every_choice_is_shown_in_help(capsys):
    assert main(["embed", "--help"]) == 0
    printed = capsys.readouterr().out
    for choices in (RUNTIMES, DECODINGS, POLICIES):
        assert "|".join(choices) in printed


def test_model_options_can_be_pickled_with_an_absolute_path(workspace):
    options = ModelOptions("runs/first", decoding="exact").with_absolute_path()
    assert options.name == str(workspace / "runs" / "first")
    assert pickle.loads(pickle.dumps(options)) == options
    assert pickle.loads(pickle.dumps(options.load))().fingerprint == tiny_clip().fingerprint
    assert ModelOptions("openai/ViT-B-32").with_absolute_path().name == "openai/ViT-B-32"


@pytest.mark.parametrize("command", COMMANDS)
def test_quiet_suppresses_progress_but_not_results_and_errors(workspace, capsys, monkeypatch, command):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    arguments = [*COMMANDS[command], "--model", "runs/first"]
    assert main(arguments) == 0
    loud = capsys.readouterr()
    assert loud.err != ""
    (workspace / "photos.npy").unlink(missing_ok=True)
    assert main([*arguments, "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out == loud.out
    assert main([*arguments, "-q", "--device", "gpu7"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_quiet_packing_prints_only_the_summary(workspace, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    (workspace / "photos" / "000.txt").write_text("a photo")
    (workspace / "photos" / "001.txt").write_text("another photo")
    assert main(["shards", "photos", "shards", "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "2 samples in 1 shard," in captured.out
