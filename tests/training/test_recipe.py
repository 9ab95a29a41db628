import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from wordsight.errors import ConfigError
from wordsight.training import load_recipe
from wordsight.training.recipe import Recipe, ScheduleConfig, recipe_paths
from wordsight.training.step import learning_rate_factor

from .conftest import RECIPE


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE)
    return path


def test_a_misspelt_key_suggests_the_nearest(recipe_file: Path) -> None:
    recipe_file.write_text(RECIPE.replace("learning_rate =", "learning_rat ="))
    with pytest.raises(ConfigError, match=r"recipe.toml: unknown key 'learning_rat' .*did you mean 'learning_rate'\?$"):
        load_recipe(recipe_file)


def test_a_misspelt_key_of_an_image_encoder_suggests_the_nearest(recipe_file: Path) -> None:
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
        ("accumulation=3", "accumulation: batch_size 32 is not a multiple of 3"),
        ("schedule.warmup_steps=20", "warmup_steps 20 must be less than steps 20"),
        ("model='ViT-B-33'", "did you mean 'ViT-B-32'"),
        ("batch_size=1", "batch_size 1: the contrastive loss compares the pairs of a batch; expected at least 2"),
        ("batch_size=1000000000", "<= 1048576"),
        ("seed=18446744073709551616", r"seed 18446744073709551616: expected 0 to 2..64 - 1"),
        ("optimizer.learning_rate=inf", "<= 1e"),
        ("optimizer.learning_rate=nan", "> 0.0"),
        ("schedule.steps=10000000000000000000000000", "<= 10995"),
        ("max_broken_share=2", "<= 1.0"),
        ("sources=[{shards='a', weight=1e300}]", "weight 1e.300: expected a number above 0, at most 1e.12"),
        ("sources=[{shards='a', weight=0}]", "weight 0.0: expected a number above 0"),
        ("sources=[{shards='a', weight=nan}]", "weight nan: expected a number above 0"),
        ("loss.kind='sigmod'", "sigmod"),
        ("optimizer.=1", "--set optimizer.=1: expected key=value"),
        ("optimizer.learning_rate.x=1", "--set optimizer.learning_rate.x=1: 'learning_rate' is a value, not a table"),
        ("about.scores=[{dataset='a', metric='b', value=2, low=0, high=1, n=1, chance=0, method='m'}]", "value 2.0"),
        (
            "about.scores=[{dataset='a', metric='b', value=0.5, low=0, high=1, n=1, chance=0, method='m', chanse=1}]",
            "unknown key 'chanse' in .about.scores.; did you mean 'chance'",
        ),
        ("validation={labels=[{shards='pets'}]}", r'add selection_metric = "accuracy" to \[validation\]'),
        (
            "validation={retrieval=[{shards='a'}]}",
            r'add selection_metric = "image_to_text_recall@10" to \[validation\]',
        ),
    ],
)
def test_an_invalid_change_is_an_error_of_one_line(recipe_file: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_recipe(recipe_file, (change,))
    assert "\n" not in str(caught.value)


def test_an_unknown_recipe_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError, match=r"flicker9k: no such recipe; known: demo, flickr8k; did you mean 'flickr8k'\?$"
    ):
        load_recipe("flicker9k")


def test_invalid_toml_is_an_error_of_one_line(recipe_file: Path) -> None:
    recipe_file.write_text("[about\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_recipe(recipe_file)


def test_the_learning_rate_warms_up_linearly_and_falls_as_half_a_cosine() -> None:
    schedule = ScheduleConfig(steps=10, warmup_steps=2)
    assert [learning_rate_factor(step, schedule) for step in (0, 1, 2)] == [0.5, 1.0, 1.0]
    assert learning_rate_factor(6, schedule) == pytest.approx(0.5)
    assert learning_rate_factor(9, schedule) == pytest.approx(0.0380602, abs=1e-6)  # (1 + cos(7 pi / 8)) / 2
    assert learning_rate_factor(10, ScheduleConfig(steps=10, final_share=0.1)) == pytest.approx(0.1)


@pytest.mark.parametrize("name", sorted(recipe_paths()))
def test_the_recipes_of_the_package_are_valid_and_validate_nothing(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.about.title == name
    assert recipe.validation.selection_metric is None  # the last model is the best


@pytest.mark.parametrize("module", ["wordsight.training", "wordsight.training.recipe", "wordsight.evaluation"])
def test_recipes_are_read_without_torch(module: str) -> None:
    code = f"import sys, {module}, wordsight.training as t; t.load_recipe('demo'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def structs_of(struct: type) -> set[type]:
    """A struct and all structs reachable from its fields."""
    reachable = {struct}
    for field in msgspec.structs.fields(struct):
        pending = [field.type]
        while pending:
            hint = pending.pop()
            pending.extend(getattr(hint, "__args__", ()))
            if hasattr(hint, "__struct_fields__") and hint not in reachable:
                reachable |= structs_of(hint)
    return reachable


@pytest.mark.parametrize("struct", sorted(structs_of(Recipe), key=lambda struct: struct.__name__))
def test_every_recipe_key_is_documented_where_it_is_defined(struct: type) -> None:
    attributes = struct.__doc__.partition("Attributes:\n")[2]
    documented = [line.strip().partition(":")[0] for line in attributes.splitlines() if line.startswith(" " * 8)]
    names = [name for entry in documented for name in entry.split(", ")]
    assert [name for name in struct.__struct_fields__ if name not in names] == []


def test_a_byte_order_mark_is_skipped(recipe_file: Path) -> None:
    recipe_file.write_bytes(b"\xef\xbb\xbf" + RECIPE.encode())
    assert load_recipe(recipe_file).schedule.steps == 20


@pytest.mark.parametrize(
    "content",
    [
        b"steps = " + b"1" * 5000,
        b"a = " + b"[" * 100_000,
        b"\xff\xfe",
        b"a = '\x00'",
        RECIPE.encode("utf-16"),
        b"\x1b[31m",
    ],
)
def test_files_that_are_not_toml_are_errors_of_one_line(recipe_file: Path, content: bytes) -> None:
    recipe_file.write_bytes(content)
    with pytest.raises(ConfigError, match="not valid TOML") as caught:
        load_recipe(recipe_file)
    assert "\n" not in str(caught.value)


def test_devices_directories_and_huge_files_are_not_read_as_recipes(tmp_path: Path) -> None:
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(1 << 40)
    (tmp_path / "directory.toml").mkdir()
    for path in (tmp_path / "huge.toml", tmp_path / "directory.toml"):
        with pytest.raises(ConfigError, match=path.name):
            load_recipe(path)
    if Path("/dev/zero").exists():
        (tmp_path / "zero.toml").symlink_to("/dev/zero")
        with pytest.raises(ConfigError, match=r"zero\.toml"):
            load_recipe(tmp_path / "zero.toml")
