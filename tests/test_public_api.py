"""The public API is frozen: a new name, command or option shows up as a changed line here. So is its start-up time."""

import re
import subprocess
import sys
import time
import tomllib
from typing import get_args

import pytest
import typer.main

import wordsight
from tests.conftest import ROOT
from wordsight.cli import COMMANDS, build_app

NAMES = ["DualEncoder", "Prediction", "Run", "Scores", "ZeroShotClassifier", "__version__", "errors", "evaluate"]
NAMES += ["load", "tokenize", "train"]

MODEL_OPTIONS = ["--as", "--averaged", "--batch-size", "--decoding", "--device", "--frames-per-s", "--json", "--mirror"]
MODEL_OPTIONS += ["--model", "--policy", "--quiet", "--runtime", "images"]

TABLE_OPTIONS = ["--image-column", "--image-root", "--label-column", "--names", "--text-column"]
OPTIONS = {
    "": ["--help", "--install-completion", "--show-completion", "--version"],
    "cache": ["--clear", "--json"],
    "classify": [
        "--calibrate",
        "--copy-to",
        "--dry-run",
        "--image-column",
        "--image-root",
        "--label-column",
        "--labels",
        "--move-to",
        "--multi-label",
        "--names",
        "--none-of-these",
        "--out",
        "--page",
        "--page-limit",
        "--repeated-labels",
        "--temperature",
        "--templates",
        "--text-column",
        "--threshold",
        "--top",
        "--yes",
    ],
    "convert": ["--as", "--averaged", "--json", "--mirror", "--quiet", "--to", "model", "out"],
    "demo": ["--json", "--out", "--quiet", "--steps"],
    "duplicates": ["--exact", "--frames-per-s", "--json", "--page", "--policy", "--quiet", "--threshold", "images"],
    "embed": ["--image-column", "--image-root", "--keep-unreadable", "--label-column", "--names", "--out", "--ray"],
    "evaluate": ["--dataset", "--max-unreadable-share", "--out", "--split", "--task", "--templates", "data", "models"],
    "find": ["--copy-to", "--dry-run", "--image", "--in", "--interactive", "--page", "--top", "--weights", "texts"],
    "info": ["--json"],
    "models": ["--fetch", "--json", "--mirror", "--quiet", "name"],
    "recipes": ["--json", "name"],
    "runs": ["--json", "--page", "--quiet", "--sort", "directories"],
    "shards": ["--exclude", "--json", "--max-mb", "--max-samples", *TABLE_OPTIONS],
    "train": ["--data", "--from", "--init-recipe", "--json", "--out", "--quiet", "--resume", "--set", "--tensorboard"],
}
OPTIONS["classify"] += ["--why", *MODEL_OPTIONS]
OPTIONS["embed"] += ["--text-column", *MODEL_OPTIONS]
OPTIONS["evaluate"] += sorted({*MODEL_OPTIONS, *TABLE_OPTIONS} - {"--frames-per-s", "--model", "images"})
OPTIONS["find"] += [name for name in MODEL_OPTIONS if name not in ("--frames-per-s", "images")]
OPTIONS["shards"] += ["--only", "--quiet", "--seed", "--size-px", "--split", "out", "source"]
OPTIONS["train"] += ["--as", "--averaged", "--device", "--mirror", "--threads", "--workers", "recipe"]

SHARED_OPTIONS = ["--as", "--averaged", "--batch-size", "--decoding", "--device", "--frames-per-s", "--mirror"]
SHARED_OPTIONS += ["--model", "--policy", "--quiet", "--runtime"]

MAX_START_S = 0.4


def run_python(code: str) -> str:
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return process.stdout


def longest_names(command: object) -> list[str]:
    return sorted(max(parameter.opts, key=len) for parameter in command.params)


def test_public_names_are_frozen_and_importable():
    assert wordsight.__all__ == dir(wordsight) == NAMES
    for name in NAMES:
        assert getattr(wordsight, name) is not None
    with pytest.raises(AttributeError, match="module 'wordsight' has no attribute 'lod'"):
        wordsight.lod  # noqa: B018


def test_commands_and_options_are_frozen():
    group = typer.main.get_command(build_app())
    assert list(group.commands) == list(COMMANDS)
    options = {name: longest_names(command) for name, command in group.commands.items()}
    options[""] = sorted([*longest_names(group), "--help"])
    assert options == {name: sorted(expected) for name, expected in OPTIONS.items()}


def test_listed_commands_have_the_first_sentence_of_their_help():
    built = typer.main.get_command(build_app()).commands
    listed = typer.main.get_command(build_app(needed=())).commands
    assert list(built) == list(listed) == list(COMMANDS)
    for name, summary in COMMANDS.items():
        assert built[name].help.startswith(summary)
        assert listed[name].help == summary


def test_shared_options_have_the_same_meaning_in_every_command():
    meanings: dict[str, set[tuple[object, ...]]] = {}
    for command in typer.main.get_command(build_app()).commands.values():
        for parameter in command.params:
            meaning = (parameter.help, tuple(parameter.opts), tuple(parameter.secondary_opts), parameter.default)
            meanings.setdefault(max(parameter.opts, key=len), set()).add(meaning)
    assert {name: len(meanings[name]) for name in SHARED_OPTIONS} == dict.fromkeys(SHARED_OPTIONS, 1)
    assert len(meanings["--json"]) <= 2  # `classify` prints one line per image


def test_every_command_has_help_that_ends_with_an_example():
    group = typer.main.get_command(build_app())
    for name, command in group.commands.items():
        assert re.fullmatch(rf"\x08\nExample:(\n  wordsight {name}\b.*)+", command.epilog.strip("\n")), name
        assert command.help.splitlines()[0].endswith("."), name
    assert group.epilog.strip("\n") == "\b\nExample:\n  wordsight demo"


def test_choices_in_options_match_the_types_of_the_library():
    from wordsight.cli import classify_options, convert, evaluate, options
    from wordsight.encoder.runtime import RuntimeName
    from wordsight.evaluation import TASKS
    from wordsight.image import Decoding, Policy
    from wordsight.weights.convert import TARGETS
    from wordsight.zeroshot import classifier

    assert get_args(RuntimeName) == options.RUNTIMES
    assert get_args(Decoding) == options.DECODINGS
    assert set(get_args(Policy)) == set(options.POLICIES)
    assert set(TARGETS) == set(convert.TARGETS)
    assert evaluate.TASKS == TASKS
    assert classifier.TEMPERATURES == classify_options.TEMPERATURES


def test_train_and_evaluate_are_plain_functions():
    from wordsight.evaluation.models import evaluate
    from wordsight.training.loop import train

    assert wordsight.train is train
    assert wordsight.evaluate is evaluate


def test_version_is_that_of_the_package():
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
        "from wordsight.cli import main; main(['cache']); main(['cache', '--json'])",
    ],
)
def test_torch_is_not_loaded(code):
    assert run_python(f"{code}\nimport sys\nprint('torch' in sys.modules)").splitlines()[-1] == "False"


@pytest.mark.parametrize(
    "code", ["import wordsight", "from wordsight.cli import main; main(['--help']); main(['embed', '--help'])"]
)
def test_numpy_is_not_loaded(code):
    assert run_python(f"{code}\nimport sys\nprint('numpy' in sys.modules)").splitlines()[-1] == "False"


@pytest.mark.parametrize("arguments", [["-c", "import wordsight"], ["-m", "wordsight", "--help"]])
def test_start_up_is_fast(arguments):
    times_s = []
    for _ in range(5):
        start_s = time.perf_counter()
        subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
        times_s.append(time.perf_counter() - start_s)
    assert min(times_s) < MAX_START_S
