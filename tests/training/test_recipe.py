from pathlib import Path

import pytest

from wordsight.errors import ConfigError
from wordsight.training import load_recipe
from wordsight.training.recipe import ScheduleConfig
from wordsight.training.step import rate_at

from .conftest import RECIPE


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_misspelt_key_names_the_nearest(recipe_file: Path) -> None:
    recipe_file.write_text(RECIPE.replace("learning_rate =", "learning_rat ="))
    with pytest.raises(ConfigError, match=r"recipe.toml: unknown key 'learning_rat' .*did you mean 'learning_rate'\?$"):
        load_recipe(recipe_file)


def test_misspelt_key_below_a_tagged_tower_names_the_nearest(recipe_file: Path) -> None:
    recipe_file.write_text(RECIPE.replace("widths", "width_s"))
    with pytest.raises(ConfigError, match=r"unknown key 'width_s' .*did you mean 'widths'"):
        load_recipe(recipe_file)


def test_set_changes_one_key(recipe_file: Path) -> None:
    recipe = load_recipe(recipe_file, ("schedule.steps=7", "optimizer.learning_rate=0.5", "model.text.layers=3"))
    assert recipe.schedule.steps == 7
    assert recipe.optimizer.learning_rate == 0.5
    assert recipe.architecture.text.layers == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("schedule.stepz=7", "did you mean 'steps'"),
        ("schedule.steps=many", "Expected `?'?int"),
        ("nothing", "expected key=value"),
        ("schedule.steps=0", ">= 1"),
        ("accumulation=3", "cannot be cut into 3"),
        ("schedule.warmup_steps=20", "leave nothing"),
        ("model='ViT-B-33'", "did you mean 'ViT-B-32'"),
    ],
)
def test_a_change_that_cannot_be_is_refused_in_one_line(recipe_file: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(recipe_file, (change,))
    assert "\n" not in str(caught.value)


def test_unknown_recipe_names_what_there_is() -> None:
    with pytest.raises(ConfigError, match="no such recipe"):
        load_recipe("flicker9k")


def test_not_toml_is_one_line(recipe_file: Path) -> None:
    recipe_file.write_text("[about\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(recipe_file)


def test_rate_warms_up_linearly_and_falls_as_half_a_cosine() -> None:
    schedule = ScheduleConfig(steps=10, warmup_steps=2)
    assert [rate_at(step, schedule) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert rate_at(6, schedule) == pytest.approx(0.5)
    assert rate_at(9, schedule) == pytest.approx(0.0380602, abs=1e-6)  # (1 + cos(7 pi / 8)) / 2
    assert rate_at(10, ScheduleConfig(steps=10, final_share=0.1)) == pytest.approx(0.1)
