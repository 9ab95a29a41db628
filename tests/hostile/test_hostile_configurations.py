"""Hostile descriptions of models: every key of every format with impossible values, and weights that are not finite.

Each is refused in one line within seconds, before memory of the stated size is allocated.
"""

import json
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.tiny_clip import png, random_image
from tests.weights.models import checkpoint_of, convert_without_hashes

from wordsight.cli import main
from wordsight.encoder import load
from wordsight.errors import WordsightError

MAX_SECONDS = 5
MAX_GROWTH_KB = 512 << 10

VALUES: dict[str, Any] = {
    "zero": 0,
    "negative": -1,
    "a billion": 10**9,
    "beyond 64 bits": 1 << 70,
    "fraction": 0.5,
    "huge float": 1e300,
    "true": True,
    "text": "12",
    "long text": "x" * 100_000,
    "control characters": "\x1b[2J\n",
    "null": None,
    "list": [1, 2],
    "many": [1] * 100_000,
    "object": {"a": 1},
}
FAST = ("negative",)
"""Values that are tried without `-m slow`."""

DESCRIPTIONS = {
    "wordsight": ["wordsight.json"],
    "open_clip": ["open_clip_config.json"],
    "hf": ["config.json", "preprocessor_config.json"],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for target in DESCRIPTIONS:
        convert_without_hashes(checkpoint_of("vit"), root / target, target)
    return root


def keys_of(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values in plain data."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from keys_of(value, (*path, key))


def error_of(action: Callable[[], object]) -> str:
    """The message with which input is refused; empty if it is accepted. Any other exception fails the test."""
    try:
        action()
    except WordsightError as error:
        return str(error)
    return ""


def use(path: Path) -> None:
    """Load a model and embed an image and a text, as every command does."""
    clip = load(path, "cpu")
    clip.embed_images(random_image(0))
    clip.embed_texts("a cat")


def with_value(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@pytest.mark.parametrize(
    "value", [*FAST, *(pytest.param(value, marks=pytest.mark.slow) for value in VALUES if value not in FAST)]
)
@pytest.mark.parametrize("target", DESCRIPTIONS)
def test_every_key_with_an_impossible_value_is_read_or_refused_in_one_line(
    models: Path, tmp_path: Path, target: str, value: str
) -> None:
    for file in (models / target).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    num_refused = 0
    memory_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in DESCRIPTIONS[target]:
        content = json.loads((models / target / name).read_text())
        for path in keys_of(content):
            (tmp_path / name).write_text(json.dumps(with_value(content, path, VALUES[value])))
            started = time.monotonic()
            error = error_of(lambda: use(tmp_path))
            num_refused += bool(error)
            assert "\n" not in error or value == "control characters", (path, error)
            assert len(error) < 1000, (path, error[:2000])
            assert time.monotonic() - started < MAX_SECONDS, path
        (tmp_path / name).write_text(json.dumps(content))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory_kb < MAX_GROWTH_KB
    assert num_refused > 10
    load(tmp_path, "cpu")


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1e-999", "[" * 990 + "]" * 990])
def test_numbers_that_json_does_not_have_and_deep_nesting_are_refused(models: Path, tmp_path: Path, text: str) -> None:
    for target, (name, *_) in DESCRIPTIONS.items():
        for file in (models / target).iterdir():
            (tmp_path / target).mkdir(exist_ok=True)
            (tmp_path / target / file.name).write_bytes(file.read_bytes())
        content = (models / target / name).read_text()
        marker = {"wordsight": '"training": {', "open_clip": '"width": ', "hf": '"hidden_size": '}[target]
        assert marker in content
        with_key = marker + ('"x": ' if marker.endswith("{") else "")
        (tmp_path / target / name).write_text(content.replace(marker, f"{with_key}{text},", 1).replace(",}", "}"))
        assert "\n" not in error_of(lambda path=tmp_path / target: use(path))
        again = error_of(lambda path=tmp_path / target, out=tmp_path / f"again-{target}": load(path, "cpu").save(out))
        assert "\n" not in again


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_scale_that_is_not_finite_is_refused_when_the_model_is_loaded(
    models: Path, tmp_path: Path, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.png").write_bytes(png(1))
    for target, name in (("wordsight", "model"), ("open_clip", "open_clip_model"), ("hf", "model")):
        for file in (models / target).iterdir():
            (tmp_path / target).mkdir(exist_ok=True)
            (tmp_path / target / file.name).write_bytes(file.read_bytes())
        path = tmp_path / target / f"{name}.safetensors"
        save_file(load_file(path) | {"logit_scale": torch.tensor(value)}, path)
        command = ["classify", str(tmp_path / "p.png"), "--labels", "a,b", "--model", str(tmp_path / target)]
        assert main(command) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert f"logit_scale is {value}: the weights are damaged" in captured.err


def test_a_scale_whose_exponential_is_infinite_is_refused() -> None:
    checkpoint = checkpoint_of("siglip")
    tensors = dict(checkpoint.tensors) | {"logit_scale": torch.tensor(1000.0)}
    with pytest.raises(WordsightError, match="logit_scale is 1000, whose exponential is infinite"):
        type(checkpoint)(tensors, checkpoint.card, checkpoint.files).build("x")


@pytest.mark.parametrize("name", ["visual.proj", "token_embedding.weight"])
def test_weights_that_are_not_finite_are_refused_when_they_are_used_or_converted(
    models: Path, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "m"
    path.mkdir()
    for file in (models / "wordsight").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(path / "model.safetensors")
    save_file(tensors | {name: torch.full_like(tensors[name], float("nan"))}, path / "model.safetensors")
    clip = load(path, "cpu")
    with pytest.raises(WordsightError, match="not finite numbers: its weights are damaged"):
        clip.embed_images(random_image(0)) if name == "visual.proj" else clip.embed_texts("a cat")
    for target in ("hf", "wordsight", "onnx"):
        assert main(["convert", str(path), str(tmp_path / target), "--to", target]) == 2
        assert not (tmp_path / target).exists()
