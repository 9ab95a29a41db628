import json
from pathlib import Path

import pytest

from wordsight.cli import main
from wordsight.config import decode
from wordsight.training import Recipe, load_recipe, recipe_paths

RECIPE = """
model = "residual-tiny"
schedule = { steps = 10 }
optimizer = { learning_rate = 1e-3 }

[about]
title = "A first model"
description = "Small."
command = "wordsight train first --data shards --out runs/first"
hardware = "two cores"
minutes = 30

[[about.scores]]
dataset = "flickr8k-val"
metric = "recall@10"
value = 0.123
low = 0.11
high = 0.138
n = 1000
chance = 0.01
method = "Wilson 95 %"
"""

PLAIN_RECIPE = """
model = "residual-tiny"
about = { title = "" }
schedule = { steps = 10 }
optimizer = { learning_rate = 1e-3 }
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of two recipes, used instead of the package's."""
    (tmp_path / "first.toml").write_text(RECIPE)
    (tmp_path / "plain.toml").write_text(PLAIN_RECIPE)
    paths = {name: tmp_path / f"{name}.toml" for name in ("first", "plain")}
    monkeypatch.setattr("wordsight.training.recipe.recipe_paths", lambda: paths)
    return tmp_path


def test_recipes_are_listed_with_their_measured_results(directory, capsys):
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out == (
        "first: A first model\n"
        "  Small.\n"
        "  $ wordsight train first --data shards --out runs/first\n"
        "  measured: 30 minutes, two cores\n"
        "  flickr8k-val, recall@10: 12.3 % [11.0, 13.8] of 1,000, chance 1.0 % (Wilson 95 %)\n"
        "\n"
        "plain\n"
    )


def test_a_recipe_is_printed_unchanged(directory, capsys):
    assert main(["recipes", "first"]) == 0
    assert capsys.readouterr().out == RECIPE


def test_json_contains_the_typed_recipe_with_defaults(directory, capsys):
    assert main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"]["minutes"] == 30
    assert main(["recipes", "first", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert decode(printed, Recipe, "printed") == load_recipe(directory / "first.toml")
    assert printed["batch_size"] == 256


def test_a_misspelt_recipe_is_an_error_that_suggests_the_nearest(directory, capsys):
    assert main(["recipes", "frist"]) == 2
    assert capsys.readouterr().err == "error: frist: no such recipe; known: first, plain; did you mean 'first'?\n"


def test_every_recipe_of_the_package_has_a_title():
    for name, path in recipe_paths().items():
        assert load_recipe(path).about.title, name
