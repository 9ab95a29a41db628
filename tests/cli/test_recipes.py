import json
import tomllib
from pathlib import Path

import pytest

import wordsight
from wordsight.cli import main, recipes

RECIPE = """
batch_size = 8

[about]
title = "A first model"
description = "Small."
command = "wordsight train first --data shards --out runs/first"
hardware = "two cores"
minutes = 30

[about.scores]
"flickr8k-val R@10" = "12.3 % [11.0, 13.8]"
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "first.toml").write_text(RECIPE)
    (tmp_path / "plain.toml").write_text("batch_size = 4\n")
    monkeypatch.setattr(recipes, "DIRECTORY", tmp_path)
    return tmp_path


def test_recipes_are_listed_with_what_they_gave(directory, capsys):
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out == (
        "first: A first model\n"
        "  Small.\n"
        "  $ wordsight train first --data shards --out runs/first\n"
        "  measured: 30 minutes, two cores\n"
        "  flickr8k-val R@10: 12.3 % [11.0, 13.8]\n"
        "\n"
        "plain\n"
    )


def test_a_recipe_is_printed_whole(directory, capsys):
    assert main(["recipes", "first"]) == 0
    assert capsys.readouterr().out == RECIPE


def test_programs_read_json(directory, capsys):
    assert main(["recipes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first"]["minutes"] == 30
    assert main(["recipes", "first", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == tomllib.loads(RECIPE)


def test_a_misspelt_recipe_is_answered_with_the_nearest(directory, capsys):
    assert main(["recipes", "frist"]) == 2
    assert capsys.readouterr().err == "error: no recipe 'frist'; did you mean 'first'?; known: first, plain\n"


def test_every_recipe_of_the_package_says_what_it_is():
    for path in (Path(wordsight.__file__).parent / "recipes").glob("*.toml"):
        assert tomllib.loads(path.read_text())["about"]["title"], path.name
