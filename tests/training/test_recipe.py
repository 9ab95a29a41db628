import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

import msgspec
import pytest

from wordsight.config import to_toml
from wordsight.errors import ConfigError
from wordsight.model import preset
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
        (
            "schedule.warmup_steps=20",
            "warmup_steps 20 must be less than steps 20; set it too, or .* warmup_share = 0.05",
        ),
        ("schedule={steps=9, warmup_steps=2, warmup_share=0.1}", "warmup_steps 2 and warmup_share 0.1 contradict"),
        ("model.image.kind=vot", r"kind 'vot' in \[model.image\]: expected one of vit, .*; did you mean 'vit'\?$"),
        ("schedule.warmup_share=1.0", "< 1.0"),
        ("lr=1e-3", "unknown key 'lr'; did you mean 'optimizer.learning_rate'?"),
        ("optimizer.lr=1e-3", r"unknown key 'lr' in \[optimizer\]; did you mean 'learning_rate'\?$"),
        ("bs=8", r"unknown key 'bs'; did you mean 'batch_size'\?$"),
        ("optimizer.wd=0", r"unknown key 'wd' in \[optimizer\]; did you mean 'weight_decay'\?$"),
        ("schedule.epochs=3", r"unknown key 'epochs' in \[schedule\]; recipes count steps: schedule.steps = epochs"),
        ("schedule.batch_size=3", "it belongs at the top of the file"),
        ("model.image.width=8", r"unknown key 'width' in \[model.image\]; did you mean 'widths'\?$"),
        ("model.image.kind=vit", "4 keys are wrong: missing key 'patch_size_px' in .model.image.; .* 'heads'"),
        ("sources=[{shards='a', label_templates=['x']}]", "template 'x': expected one {}"),
        ("validation={sets=[{shards='a'}]}", r'add selection_metric = "auto" to \[validation\]'),
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
            r"unknown key 'chanse' in \[\[about.scores\]\] number 1; did you mean 'chance'",
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


VIT = ("model.image.kind=vit", "model.image.patch_size_px=8", "model.image.width=16", "model.image.layers=2")


@pytest.mark.parametrize("order", [1, -1])
def test_another_kind_of_image_tower_drops_the_keys_of_the_former(recipe_file: Path, order: int) -> None:
    image = load_recipe(recipe_file, (*VIT, "model.image.heads=2")[::order]).architecture.image
    assert (image.image_size_px, image.width) == (16, 16)  # the size is a key of both kinds
    layers = tuple(f"model.image.{key}" for key in ("kind=modified_resnet", "layers=[1, 1, 1, 1]", "image_size_px=32"))
    recipe_file.write_text(to_toml(load_recipe(recipe_file, (*VIT, "model.image.heads=2"))))
    assert load_recipe(recipe_file, layers).architecture.image.width == 16


def test_a_warm_up_in_steps_replaces_a_share_and_the_other_way_round(recipe_file: Path) -> None:
    assert load_recipe(recipe_file, ("schedule.warmup_share=0.25",)).schedule.num_warmup_steps == 5
    assert load_recipe("finetune", ("schedule.warmup_steps=7",)).schedule.num_warmup_steps == 7
    with pytest.raises(ConfigError, match="contradict"):
        load_recipe("finetune", ("schedule.warmup_steps=7", "schedule.warmup_share=0.25"))


def test_a_key_of_a_preset_can_be_changed(tmp_path: Path) -> None:
    (tmp_path / "small.toml").write_text(
        "model = 'vit-small'\nabout = {title = ''}\nschedule = {steps = 1}\noptimizer = {learning_rate = 1}\n"
    )
    model = load_recipe(tmp_path / "small.toml", ("model.text.layers=1",)).architecture
    assert (model.text.layers, model.image) == (1, preset("vit-small").image)


def test_sources_and_validation_sets_can_be_set_by_name(recipe_file: Path) -> None:
    changes = ("sources=['a', 'b']", "sources.1.weight=3", "validation.sets=c", "validation.labels=[]")
    recipe = load_recipe(recipe_file, changes)
    assert [(source.shards, source.weight) for source in recipe.sources] == [("a", 1.0), ("b", 3.0)]
    assert [entry.shards for entry in recipe.validation.sets] == ["c"]
    assert recipe.validation.labels == ()
    nested = load_recipe(recipe_file, ("sources=[{shards=['a', 'b'], weight=2}]",))
    assert nested.sources[0].shards == ("a", "b")


@pytest.mark.parametrize("word", sorted(Recipe.synonyms))
def test_synonyms_suggest_keys_that_exist(word: str) -> None:
    target = Recipe.synonyms[word]
    keys = {".".join(path) for path in key_paths(Recipe)}
    mentioned = [target] if " " not in target else re.findall(r"schedule\.\w+|optimizer\.\w+", target)
    assert word not in Recipe.__struct_fields__
    assert set(mentioned) <= keys


def key_paths(struct: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(struct)
    for name in struct.__struct_fields__:
        yield (*path, name)
        for member in (hints[name], *get_args(hints[name])):
            if hasattr(member, "__struct_fields__"):
                yield from key_paths(member, (*path, name))


def test_an_unknown_recipe_is_an_error_that_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match=r"flicker9k: no such recipe; known: demo, finetune, flickr8k, vit; did you mean 'flickr8k'\?$",
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


def test_the_warm_up_can_be_a_share_of_the_steps() -> None:
    share, steps = ScheduleConfig(steps=10, warmup_share=0.2), ScheduleConfig(steps=10, warmup_steps=2)
    assert [learning_rate_factor(step, share) for step in range(10)] == [
        learning_rate_factor(step, steps) for step in range(10)
    ]
    assert ScheduleConfig(steps=1, warmup_share=0.99).num_warmup_steps == 1
    assert learning_rate_factor(0, ScheduleConfig(steps=1, warmup_share=0.99)) == 1


@pytest.mark.parametrize("name", sorted(recipe_paths()))
def test_the_recipes_of_the_package_are_valid(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.about.title == name
    sets = (*recipe.validation.sets, *recipe.validation.retrieval, *recipe.validation.labels)
    assert bool(sets) == (recipe.validation.selection_metric is not None)  # without sets, the last model is the best


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
