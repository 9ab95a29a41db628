"""The surface, frozen: a new name, command or option is a visible line here. And how quick it is to reach."""

import re
import subprocess
import sys
import time
import tomllib

import pytest
import typer.main

import wordsight
from tests.conftest import ROOT
from wordsight.cli import COMMANDS, build_app

NAMES = ["DualEncoder", "Prediction", "Run", "ZeroShotClassifier", "__version__", "errors", "load", "tokenize", "train"]

OPTIONS = {
    "": ["--help", "--version"],
    "classify": ["--calibrate", "--json", "--labels", "--mirror", "--model", "--multi-label", "--none-of-these"],
    "convert": ["--as", "--averaged", "--json", "--mirror", "--to", "model", "out"],
    "demo": ["--json", "--out", "--steps"],
    "embed": ["--decoding", "--frames-per-s", "--json", "--mirror", "--model", "--out", "--ray", "--runtime"],
    "models": ["--fetch", "--json", "--mirror", "name"],
    "recipes": ["--json", "name"],
    "shards": ["--exclude", "--image-column", "--json", "--label-column", "--max-mb", "--max-samples", "--names"],
    "train": ["--data", "--from", "--json", "--out", "--resume", "--set", "--tensorboard", "--threads", "--workers"],
}
OPTIONS["embed"] += ["images"]
OPTIONS["shards"] += ["--only", "--size-px", "--text-column", "out", "source"]
OPTIONS["classify"] += ["--runtime", "--temperature", "--templates", "--top", "--why", "images"]
OPTIONS["train"] += ["recipe"]

MAX_START_S = 0.4


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


def options_of(command: object) -> list[str]:
    return sorted(max(parameter.opts, key=len) for parameter in command.params)


def test_the_names_are_these_and_all_are_there():
    assert wordsight.__all__ == dir(wordsight) == NAMES
    for name in NAMES:
        assert getattr(wordsight, name) is not None
    with pytest.raises(AttributeError, match="module 'wordsight' has no attribute 'lod'"):
        wordsight.lod  # noqa: B018


def test_the_verbs_and_options_are_these():
    group = typer.main.get_command(build_app())
    assert list(group.commands) == list(COMMANDS)
    found = {name: options_of(command) for name, command in group.commands.items()}
    assert found | {"": sorted([*options_of(group), "--help"])} == OPTIONS


def test_every_verb_has_help_with_an_example():
    for name, command in typer.main.get_command(build_app()).commands.items():
        assert re.search(rf"Example:\s+wordsight {name}\b", command.help), name


def test_train_is_a_plain_function():
    from wordsight.training.loop import train

    assert wordsight.train is train


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert wordsight.__version__ == project["version"]


@pytest.mark.parametrize(
    "code",
    [
        "import wordsight",
        "import wordsight; wordsight.errors, wordsight.tokenize(['a cat'])",
        "import wordsight.text",
        "import wordsight.image",
        "import wordsight.weights",
        "import wordsight.zeroshot",
        "from wordsight.cli import main; main(['--help']); main(['classify', '--help']); main(['recipes'])",
        "from wordsight.cli import main; main(['models']); main(['models', 'ViT-B/32'])",
    ],
)
def test_torch_is_not_loaded(code):
    assert python(f"{code}\nimport sys\nprint('torch' in sys.modules)").splitlines()[-1] == "False"


def test_numpy_is_not_loaded_by_the_face():
    assert python("import wordsight, sys; print('numpy' in sys.modules)") == "False\n"


@pytest.mark.parametrize("arguments", [["-c", "import wordsight"], ["-m", "wordsight", "--help"]])
def test_it_starts_quickly(arguments):
    times_s = []
    for _ in range(5):
        begin = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        times_s.append(time.perf_counter() - begin)
    assert min(times_s) < MAX_START_S
