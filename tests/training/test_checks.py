"""What is refused or reported at the start of a run."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from wordsight.errors import ConfigError, DataError
from wordsight.training import load_recipe, train

from .conftest import write_tar

FEW = ("schedule.steps=2", "schedule.warmup_steps=1", "validation={}")


def run_lines(capsys: pytest.CaptureFixture[str], recipe: object, data: Path, out: Path) -> list[str]:
    capsys.readouterr()
    train(recipe, data, out)  # type: ignore[arg-type]
    return capsys.readouterr().err.splitlines()


def members_of(world: Path) -> dict[str, bytes]:
    """The members of the shard `squares`."""
    import tarfile

    with tarfile.open(world / "squares" / "000000.tar") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def with_validation(world: Path, data: Path, members: dict[str, bytes], *changes: str) -> object:
    """Copy the world, with another validation set `val`, and return a recipe that uses only that one."""
    shutil.copytree(world, data)
    write_tar(data / "val" / "000000.tar", members)
    validation = "validation={every_steps=2, selection_metric='image_to_text_recall@1', retrieval=[{shards='val'}]}"
    return load_recipe(world / "recipe.toml", (*FEW[:2], validation, *changes))


def broken(members: dict[str, bytes], count: int) -> dict[str, bytes]:
    """The first 20 samples, of which the images of the first `count` are broken."""
    chosen = {name: content for name, content in members.items() if int(name[:3]) < 20}
    return chosen | {f"{number:03}.png": b"broken" for number in range(count)}


def test_a_validation_set_of_broken_samples_is_an_error_before_the_first_step(world: Path, tmp_path: Path) -> None:
    recipe = with_validation(world, tmp_path / "data", broken(members_of(world), 19))
    with pytest.raises(
        DataError, match=r"^val: 19 of 20 validation samples are unreadable, more than 10.0%; the first"
    ):
        train(recipe, tmp_path / "data", tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_unreadable_validation_samples_below_the_limit_are_counted(world: Path, tmp_path: Path) -> None:
    recipe = with_validation(world, tmp_path / "data", broken(members_of(world), 2))
    run = train(recipe, tmp_path / "data", tmp_path / "run")  # type: ignore[arg-type]
    assert {(score.n, score.unreadable) for score in run.best_scores} == {(18, 2)}


def test_the_limit_of_unreadable_validation_samples_is_a_key_of_the_recipe(world: Path, tmp_path: Path) -> None:
    changes = ("validation.max_unreadable_share=0.95",)
    recipe = with_validation(world, tmp_path / "data", broken(members_of(world), 19), *changes)
    run = train(recipe, tmp_path / "data", tmp_path / "run")  # type: ignore[arg-type]
    assert {(score.n, score.unreadable) for score in run.best_scores} == {(1, 19)}


def test_validation_images_that_are_trained_on_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten of the twenty images have the same bytes under another key."""
    members = members_of(world)
    import tarfile

    with tarfile.open(world / "labels" / "000000.tar") as tar:
        others = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    both = {f"seen{number}.png": members[f"{number:03}.png"] for number in range(10)}
    both |= {f"new{number}.png": others[f"{number:03}.png"] for number in range(10)}
    texts = {name.replace(".png", ".json"): b'{"captions": ["a thing"]}' for name in both}
    recipe = with_validation(world, tmp_path / "data", both | texts)
    lines = run_lines(capsys, recipe, tmp_path / "data", tmp_path / "run")
    assert any(line.startswith("val: 10 of 20 different validation images are also training images") for line in lines)


def test_disjoint_validation_images_are_not_reported(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (*FEW[:2], "validation={selection_metric='accuracy', labels=[{shards='labels'}]}")
    lines = run_lines(capsys, load_recipe(world / "recipe.toml", changes), world, tmp_path / "run")
    assert not [line for line in lines if "also training images" in line]


def test_a_wrong_preprocessing_size_is_an_error_before_anything_is_written(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.toml", ("preprocessing.size_px=32",))
    with pytest.raises(ConfigError, match=r"preprocessing.size_px 32 contradicts model.image.image_size_px 16"):
        train(recipe, world, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.text.layers=1000000", "has 1000002 layers; expected at most 1024"),
        ("model.text.width=1000000000", "has width 1000000000; expected at most"),
        (
            "model.text.vocabulary_size=100",
            r"^recipe: model.text.vocabulary_size 100: the clip tokenizer has 49408 ids",
        ),
        ("loss.kind='sigmoid'", "the model has no logit bias"),
    ],
)
def test_a_model_that_cannot_be_trained_is_an_error_at_the_start(
    world: Path, tmp_path: Path, change: str, message: str
) -> None:
    changes = ("model.text.heads=1", change) if "width" in change else (change,)
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(world / "recipe.toml", changes), world, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_sample_is_refused(world: Path, tmp_path: Path) -> None:
    only = {name: content for name, content in members_of(world).items() if name.startswith("000")}
    write_tar(tmp_path / "data" / "squares" / "000000.tar", only)
    with pytest.raises(DataError, match=r"one sample; the contrastive loss compares pairs .* at least 2"):
        train(load_recipe(world / "recipe.toml", FEW), tmp_path / "data", tmp_path / "run")


def test_a_batch_larger_than_the_data_is_reported(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = {name: content for name, content in members_of(world).items() if int(name[:3]) < 5}
    write_tar(tmp_path / "data" / "squares" / "000000.tar", few)
    lines = run_lines(capsys, load_recipe(world / "recipe.toml", FEW), tmp_path / "data", tmp_path / "run")
    assert any(line.endswith("32 pairs per step but only 5 samples, so every batch repeats some") for line in lines)


def captioned(world: Path, out: Path, captions: list[str]) -> None:
    members = members_of(world)
    chosen = {f"{number:03}.png": members[f"{number:03}.png"] for number in range(len(captions))}
    texts = {f"{number:03}.json": json.dumps({"captions": [text]}).encode() for number, text in enumerate(captions)}
    write_tar(out / "squares" / "000000.tar", chosen | texts)


def test_captions_that_become_equal_when_they_are_cut_are_counted(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A context of 16 tokens has room for 14 words: five captions differ in the 15th, one is long but different."""
    start = " ".join(["red"] * 14)
    captions = [f"{start} {last}" for last in ("cat", "dog", "bird", "fish", "horse")]
    captioned(world, tmp_path / "data", [*captions, "blue " * 20, "short"])
    lines = run_lines(capsys, load_recipe(world / "recipe.toml", FEW), tmp_path / "data", tmp_path / "run")
    expected = (
        "6 of 7 different texts that were checked are longer than the context of 16 tokens and are cut; 5 of them then "
        "equal another one"
    )
    assert expected in lines


def test_equal_captions_are_reported(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    captioned(world, tmp_path / "data", ["a photo"] * 4)
    lines = run_lines(capsys, load_recipe(world / "recipe.toml", FEW), tmp_path / "data", tmp_path / "run")
    assert "all 4 texts that were checked are equal, so the model cannot learn to tell images apart" in lines


@pytest.mark.parametrize(
    ("texts", "used", "other"), [("captions", "captions", "names"), ("names", "labels", "captions")]
)
def test_a_source_of_captions_and_labels_says_which_are_used(
    texts: str, used: str, other: str, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members = members_of(world)
    for number in range(5):
        members[f"{number:03}.json"] = b'{"captions": ["one two"], "label": "three", "names": ["three"]}'
    write_tar(tmp_path / "data" / "squares" / "000000.tar", members)
    recipe = load_recipe(world / "recipe.toml", FEW)
    (source,) = recipe.sources
    recipe = msgspec.structs.replace(recipe, sources=(msgspec.structs.replace(source, texts=texts),))
    lines = run_lines(capsys, recipe, tmp_path / "data", tmp_path / "run")
    num_samples = len(members) // 2
    assert lines[0].endswith(
        f"000000.tar: 5 of {num_samples} samples that were checked have captions and a label: the {used} are used; "
        f"texts = '{other}' in the source uses the others"
    )


def test_ordinary_data_is_not_commented_on(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = run_lines(capsys, load_recipe(world / "recipe.toml", FEW), world, tmp_path / "run")
    assert [line for line in lines if not line.startswith(("step ", "2 of 2 steps"))] == []


def test_accumulation_with_batch_normalisation_says_that_statistics_are_per_part(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = load_recipe(world / "recipe.toml", (*FEW, "accumulation=4"))
    lines = run_lines(capsys, recipe, world, tmp_path / "run")
    assert any(line.startswith("accumulation 4: the image tower normalises batches, with statistics") for line in lines)


def test_a_source_without_usable_texts_names_the_reason_once(world: Path, tmp_path: Path) -> None:
    members = {name: content for name, content in members_of(world).items() if name.endswith(".png")}
    write_tar(tmp_path / "data" / "squares" / "000000.tar", members)
    recipe = load_recipe(world / "recipe.toml", (*FEW, "loss.caption_token_weight=0"))
    with pytest.raises(DataError, match="no text: neither") as caught:
        train(recipe, tmp_path / "data", tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_validation_sets_of_one_name_are_refused(world: Path, tmp_path: Path) -> None:
    validation = "validation={selection_metric='accuracy', labels=[{shards='labels'}, {shards='a/labels'}]}"
    with pytest.raises(ConfigError, match="2 sets of one kind are named 'labels'"):
        train(load_recipe(world / "recipe.toml", (validation,)), world, tmp_path / "run")


def test_a_missing_data_directory_is_named(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere: no such directory; --data names directories of shards"):
        train(world / "recipe.toml", [world / "nowhere"], tmp_path / "run")
