"""The formats that a recipe names are those to which `wordsight convert` can write its model."""

from pathlib import Path

import msgspec
import pytest
import torch

from wordsight.cli import main
from wordsight.cli.convert import TARGETS
from wordsight.encoder import DualEncoder
from wordsight.model import build
from wordsight.training import load_recipe, recipe_paths
from wordsight.weights import Card, TokenizerConfig

WITH_MODEL = [name for name in recipe_paths() if load_recipe(name).model != "start"]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model of each recipe, with one block in each tower of transformers."""
    directory = tmp_path_factory.mktemp("models")
    for name in WITH_MODEL:
        recipe = load_recipe(name)
        config = recipe.architecture
        config = msgspec.structs.replace(config, text=msgspec.structs.replace(config.text, layers=1))
        if config.image.__struct_config__.tag == "vit":
            config = msgspec.structs.replace(config, image=msgspec.structs.replace(config.image, layers=1))
        card = Card(
            name=name,
            model=config,
            preprocessing=recipe.image_preprocessing,
            tokenizer=TokenizerConfig(context_length=config.text.context_length),
        )
        DualEncoder(build(config, torch.Generator().manual_seed(0)).eval(), card).save(directory / name)
    return directory


def test_recipes_with_a_model_name_formats() -> None:
    assert {name for name in WITH_MODEL if load_recipe(name).about.exports} == set(WITH_MODEL)
    assert set(load_recipe("vit").about.exports) == set(TARGETS)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        pytest.param(name, target, marks=[pytest.mark.slow] if target == "onnx" else [])
        for name in WITH_MODEL
        for target in TARGETS
    ],
)
def test_the_model_of_a_recipe_exports_to_the_formats_that_it_names(
    name: str, target: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["convert", str(models / name), str(tmp_path / "out"), "--to", target])
    assert (code == 0) == (target in load_recipe(name).about.exports), capsys.readouterr().err
