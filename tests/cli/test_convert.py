import json
from pathlib import Path

import pytest
from tests.weights.models import checkpoint_of

from wordsight.cli import main
from wordsight.weights.convert import convert


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a model in open_clip's format, as in the example of `--help`."""
    convert(checkpoint_of("vit"), tmp_path / "models" / "mine", "open_clip")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_example_in_help_runs(workspace, capsys):
    assert main(["convert", "--help"]) == 0
    (example,) = [line.split() for line in capsys.readouterr().out.splitlines() if "wordsight convert " in line][1:]
    assert main(example[1:]) == 0
    printed = capsys.readouterr().out
    assert "converted: hf; maximum differences on fixed inputs (tolerance 1e-05):\n  images  0\n  texts   0" in printed
    assert (workspace / "converted" / "config.json").exists()


def test_json_is_the_certificate(workspace, capsys):
    assert main(["convert", "models/mine", "one", "--to", "openai", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ids"] == 0
    assert main(["convert", "one/model.pt", "two", "--to", "open_clip", "--json"]) == 0


def test_mistakes_are_one_line_and_exit_code_2(workspace, capsys):
    assert main(["convert", "models/mine", "out", "--to", "onxn"]) == 2
    assert capsys.readouterr().err == (
        "error: --to 'onxn': expected openai, open_clip, hf, onnx or wordsight; did you mean 'onnx'?\n"
    )
    assert main(["convert", "models/mien", "out", "--to", "hf"]) == 2
    assert "did you mean 'mine'?" in capsys.readouterr().err
    assert main(["convert", "models/mine", "models", "--to", "hf"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert not (workspace / "out").exists()
