"""The recipe that `--init-recipe` writes trains as it is, on captions, labels or both, with and without validation."""

import shutil
from pathlib import Path

import pytest

from wordsight.cli import main
from wordsight.training import load_recipe, train
from wordsight.training.rows import read_rows
from wordsight.training.sources import open_sources


@pytest.fixture
def split(world: Path, tmp_path: Path) -> Path:
    """Labelled training images, captioned validation images, and test images."""
    for source, name in (("labels", "train"), ("squares", "validation"), ("squares", "test")):
        shutil.copytree(world / source, tmp_path / "shards" / name)
    return tmp_path / "shards"


def test_the_recipe_trains_as_it_is(
    split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "mine.toml", "--init-recipe", "shards"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "mine.toml: a recipe for shards",
        "try: wordsight train mine.toml --data shards --out runs/mine",
    ]
    text = Path("mine.toml").read_text()
    assert "# test: 96 images with captions, left out because of its name" in text
    assert "[[sources]]  # 96 images with labels" in text
    recipe = load_recipe("mine.toml")
    assert [source.shards for source in recipe.sources] == ["train"]
    assert (recipe.batch_size, recipe.schedule.steps) == (48, 100)
    assert [source.templates for source in open_sources(recipe, ["shards"]).sources] == [
        ("a photo of a {}.", "a photo of the {}.", "a {}.", "{}")
    ]
    # as it is, but smaller and shorter
    few = ("schedule.steps=2", "model=residual-tiny", "batch_size=8", "model.image.image_size_px=16")
    run = train(load_recipe("mine.toml", few), "shards", "runs/mine")
    assert run.best_scores[0].metric == "image_to_text_recall@1"


def test_a_recipe_for_one_directory_of_captions_measures_nothing(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    assert main(["train", str(path), "--init-recipe", str(world / "squares")]) == 0
    recipe = load_recipe(path)
    assert recipe.sources[0].shards == "squares"
    assert recipe.validation.sets == ()
    assert open_sources(recipe, [world / "squares"]).sources[0].templates == ()
    # the commented lines are a valid validation
    lines = path.read_text().splitlines()
    first = lines.index('# selection_metric = "auto"')
    lines[first:] = [line.removeprefix("# ") for line in lines[first:]]
    path.write_text("\n".join(lines))
    assert load_recipe(path).validation.sets[0].shards == "val"


def test_shards_without_texts_and_odd_names_are_handled(
    split: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(split / "train")
    assert main(["train", str(tmp_path / "a.toml"), "--init-recipe", str(split)]) == 2
    assert "only test, validation, which are not trained on" in capsys.readouterr().err
    odd = split / 'a "b"\n[x]'
    shutil.copytree(split / "validation", odd)
    assert main(["train", str(tmp_path / "a.toml"), "--init-recipe", str(split)]) == 0
    assert load_recipe(tmp_path / "a.toml").sources[0].shards == odd.name
    assert main(["train", str(tmp_path / "b.toml"), "--init-recipe", str(odd)]) == 0
    assert load_recipe(tmp_path / "b.toml").sources[0].shards == odd.name


def test_the_sets_of_a_validation_are_measured_by_their_texts(world: Path, tmp_path: Path) -> None:
    few = ("schedule.steps=2", "schedule.warmup_steps=0", "batch_size=8")
    validation = "validation={selection_metric='auto', sets=[{shards='squares'}, {shards='labels', templates=['{}']}]}"
    train(load_recipe(world / "recipe.toml", (*few, validation)), world, tmp_path / "run")
    (row,) = [row for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "scores" in row]
    kinds = {(score["dataset"], score["metric"].split("@")[0]) for score in row["scores"]}
    recalls = {("squares", "image_to_text_recall"), ("squares", "text_to_image_recall")}
    assert kinds == {*recalls, ("labels", "accuracy")}
