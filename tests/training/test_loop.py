import errno
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import wordsight as ws
from tests.weights.models import sentencepiece_model
from wordsight.cli import main
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, DataError, OutputError, TrainingError
from wordsight.metrics import Score
from wordsight.training import Evaluator, load_recipe, train
from wordsight.training import loop as loop_module

from .conftest import write_tar


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def assert_identical(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def scores_by_name(scores: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The scores of a row of `metrics.jsonl`: `dataset/metric` -> score."""
    return {f"{score['dataset']}/{score['metric']}": score for score in scores}


@pytest.fixture(scope="session")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 20 steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(world / "recipe.toml", world, out)
    return out


def test_loss_falls_and_scores_exceed_chance(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    scores = scores_by_name([row["scores"] for row in rows if "scores" in row][-1])
    assert losses[-1] < losses[0]
    accuracy, recall = scores["labels/accuracy"], scores["squares/image_to_text_recall@10"]
    assert accuracy["value"] > 2 * accuracy["chance"]
    assert recall["low"] <= recall["value"] <= recall["high"]
    assert recall["value"] > recall["chance"]


def test_a_run_directory_opens_as_a_model(finished: Path) -> None:
    clip = ws.load(finished)
    predictions = list(
        ws.ZeroShotClassifier(clip, ["red", "blue"]).classify([np.full((16, 16, 3), (220, 30, 30), np.uint8)])
    )
    assert predictions[0].label in {"red", "blue"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    logged = {row["step"]: row["scores"] for row in rows if "scores" in row}
    assert clip.card.training["scores"] == logged[clip.card.training["steps"]]


def test_the_number_of_workers_does_not_change_the_weights(world: Path, finished: Path, tmp_path: Path) -> None:
    train(world / "recipe.toml", world, tmp_path / "three", workers=3)
    assert_identical(finished, tmp_path / "three")


@pytest.mark.filterwarnings("ignore:.* longer than the model's context")
def test_a_run_from_a_model_of_another_family_keeps_its_tokenizer(world: Path, tmp_path: Path) -> None:
    checkpoint = sentencepiece_model()
    model = checkpoint.build("made here")
    DualEncoder(model, checkpoint.card, files=checkpoint.files).save(tmp_path / "siglip")
    changes = ("schedule.steps=2", "schedule.warmup_steps=0", "batch_size=8", "loss.caption_token_weight=0")
    train(load_recipe(world / "recipe.toml", changes), world, tmp_path / "run", start=tmp_path / "siglip")
    tuned = ws.load(tmp_path / "run" / "last")
    assert tuned.card.tokenizer == checkpoint.card.tokenizer
    assert tuned.card.preprocessing == checkpoint.card.preprocessing
    assert (tmp_path / "run" / "best" / "spiece.model").read_bytes() == checkpoint.files["spiece.model"]
    before = ws.load(tmp_path / "siglip")
    assert (tuned.tokenize("a photo of a cat") == before.tokenize("a photo of a cat")).all()
    assert np.abs(tuned.embed_texts("a photo of a cat") - before.embed_texts("a photo of a cat")).max() > 1e-6


def test_a_run_from_a_model_starts_with_its_weights_and_image_size(world: Path, finished: Path, tmp_path: Path) -> None:
    changes = ("schedule.steps=1", "schedule.warmup_steps=0", "optimizer.learning_rate=1e-30", "ema_decay=0")
    other = ("model.image.image_size_px=32", "model.embed_dim=8")
    recipe = load_recipe(world / "recipe.toml", (*changes, *other))
    train(recipe, world, tmp_path / "run", start=finished / "last")
    before, after = tensors(finished), tensors(tmp_path / "run")
    for name, tensor in before.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0, msg=name)
    assert ws.load(tmp_path / "run").card.preprocessing.size_px == 16


def test_another_seed_changes_the_weights(world: Path, finished: Path, tmp_path: Path) -> None:
    train(load_recipe(world / "recipe.toml", ("seed=1",)), world, tmp_path / "seed")
    assert not torch.equal(tensors(finished)["visual.proj"], tensors(tmp_path / "seed")["visual.proj"])


def test_a_second_run_in_the_same_directory_is_an_error(world: Path, finished: Path) -> None:
    with pytest.raises(OutputError, match=r"already contains a run; continue it with --resume"):
        train(world / "recipe.toml", world, finished)


def test_resuming_a_finished_run_changes_nothing(world: Path, finished: Path) -> None:
    before = (finished / "last" / "model.safetensors").read_bytes()
    run = train(world / "recipe.toml", world, finished, resume=True)
    assert run.steps == 20
    assert (finished / "last" / "model.safetensors").read_bytes() == before


def test_resuming_with_another_configuration_lists_the_keys_that_differ(world: Path, finished: Path) -> None:
    changed = load_recipe(world / "recipe.toml", ("seed=1", "batch_size=16", "checkpoint_every_steps=5"))
    with pytest.raises(ConfigError, match=r"these differ: batch_size, seed; .*\(only checkpoint_every_steps, "):
        train(changed, world, finished, resume=True)


def test_accumulation_takes_the_same_step_as_the_whole_batch(world: Path, tmp_path: Path) -> None:
    vit = (
        "model.image={kind='vit', image_size_px=16, patch_size_px=8, width=16, layers=1, heads=2}",
        "schedule.steps=3",
        "ema_decay=0",
        "optimizer.learning_rate=1e-3",
    )
    train(load_recipe(world / "recipe.toml", vit), world, tmp_path / "one")
    train(load_recipe(world / "recipe.toml", (*vit, "accumulation=4")), world, tmp_path / "four")
    one, four = tensors(tmp_path / "one"), tensors(tmp_path / "four")
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, atol=1e-4, rtol=1e-3, msg=name)


def test_a_loss_that_is_not_finite_is_an_error_that_names_step_and_batch(world: Path, tmp_path: Path) -> None:
    diverging = load_recipe(world / "recipe.toml", ("optimizer.learning_rate=1e30", "schedule.warmup_steps=0"))
    with pytest.raises(TrainingError, match=r"^step \d+: loss .* on the batch of \d+") as caught:
        train(diverging, world, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_missing_shards_are_listed_with_the_searched_directories(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="squares: the recipe names these shards, but they are not in "):
        train(world / "recipe.toml", tmp_path, tmp_path / "run")
    (tmp_path / "sqares").mkdir()
    with pytest.raises(DataError, match=r"did you mean 'sqares'\?$"):
        train(world / "recipe.toml", tmp_path, tmp_path / "run")


def test_a_full_disk_leaves_the_previous_checkpoint(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    real = loop_module.save_checkpoint

    def save_then_fill(path: Path, state: object) -> None:
        if saved:
            monkeypatch.setattr(os, "fsync", full)
        real(path, state)
        saved.append(path.read_bytes())

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(loop_module, "save_checkpoint", save_then_fill)
    with pytest.raises(OutputError, match=r"checkpoint.pt: cannot be written: No space left on device"):
        train(load_recipe(world / "recipe.toml", ("validation.every_steps=1000",)), world, tmp_path / "run")
    assert (tmp_path / "run" / "checkpoint.pt").read_bytes() == saved[0]
    assert not list((tmp_path / "run").glob("*.partial"))


def test_an_unwritable_output_path_is_an_error_of_one_line(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/run: cannot be written"):
        train(world / "recipe.toml", world, tmp_path / "file" / "run")


def test_a_truncated_checkpoint_is_an_error_of_one_line(world: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes((finished / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(TrainingError, match="not a readable checkpoint; remove it to start again"):
        train(world / "recipe.toml", world, tmp_path / "run", resume=True)


def start(world: Path, out: Path, *more: str, stderr: int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "wordsight", "train", str(world / "recipe.toml"), "--data", str(world)]
    return subprocess.Popen([*command, "--out", str(out), "--resume", *more], stderr=stderr)


def wait_for(condition: object, process: "subprocess.Popen[bytes]", limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while process.poll() is None and not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.001)  # a loop without a pause would take a CPU from the process that it waits for


@pytest.mark.parametrize("matrices", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_a_run_interrupted_by_ctrl_c_and_resumed_ends_with_the_same_weights(
    world: Path, tmp_path: Path, matrices: str
) -> None:
    changes = ("schedule.steps=120", "checkpoint_every_steps=1000", "validation.every_steps=40")
    long = [part for change in (*changes, f"optimizer.matrices={matrices}") for part in ("--set", change)]
    whole, interrupted = tmp_path / "whole", tmp_path / "it is interrupted"
    assert start(world, whole, *long).wait() == 0
    process = start(world, interrupted, *long, "--workers", "2", stderr=subprocess.PIPE)
    wait_for((interrupted / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (interrupted / "checkpoint.pt").exists()
    command = f"wordsight train --resume --out '{interrupted}' --workers 2"
    assert printed.decode().splitlines()[-2:] == [f"continue with: {command}", "interrupted"]
    assert main(shlex.split(command)[1:]) == 0
    assert_identical(whole, interrupted)


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_same_weights(world: Path, tmp_path: Path) -> None:
    """SIGKILL at ten random times, at least one of them while a checkpoint is being written."""
    changes = (
        "schedule.steps=2000",
        "checkpoint_every_steps=5",
        "validation.every_steps=50",
        "optimizer.matrices=muon",
    )
    long = [part for change in changes for part in ("--set", change)]
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    assert start(world, whole, *long).wait() == 0
    delays = np.random.default_rng(int(time.time()))
    while_saving = 0
    for kill in range(10):
        process = start(world, interrupted, *long)
        before = (interrupted / "checkpoint.pt").stat().st_mtime_ns if (interrupted / "checkpoint.pt").exists() else 0
        wait_for(
            lambda b=before: (
                (interrupted / "checkpoint.pt").exists() and (interrupted / "checkpoint.pt").stat().st_mtime_ns > b
            ),
            process,
        )
        if kill % 2:
            wait_for(lambda: list(interrupted.glob(".checkpoint.pt.*.partial")), process)
        else:
            time.sleep(float(delays.uniform(0, 2)))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before its kill; give it more steps"
        while_saving += bool(list(interrupted.glob(".checkpoint.pt.*.partial")))
    assert while_saving >= 1
    assert start(world, interrupted, *long).wait() == 0
    assert_identical(whole, interrupted)


def test_broken_samples_are_listed_and_do_not_stop_the_run(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(world, data)
    (data / "squares" / "000001.tar").write_bytes((data / "squares" / "000000.tar").read_bytes())
    write_tar(data / "squares" / "000002.tar", {"x.png": b"no image", "x.json": b'{"captions": ["a thing"]}'})
    few = load_recipe(data / "recipe.toml", ("schedule.steps=8",))
    train(few, data, tmp_path / "run")
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "broken.jsonl").read_text().splitlines()]
    assert row["key"] == "x"
    assert "not an image" in row["reason"]


def accuracy_evaluator(calls: list[tuple[int, tuple[int, ...]]]) -> Evaluator:
    """An evaluator whose accuracy falls with every step, and which records its calls."""

    def evaluate(encoder: ws.DualEncoder, steps: int) -> list[Score]:
        calls.append((steps, encoder.embed_texts(["red"]).shape))
        return [accuracy_score(1 / steps)]

    return evaluate


def accuracy_score(value: float) -> Score:
    return Score(dataset="mine", metric="accuracy", value=value, low=0, high=1, n=1, chance=0, method="none")


@pytest.mark.parametrize("selection_metric", ["accuracy", "mine/accuracy"])
def test_an_additional_evaluator_selects_the_best_model(world: Path, tmp_path: Path, selection_metric: str) -> None:
    calls: list[tuple[int, tuple[int, ...]]] = []
    changes = ("schedule.steps=4", f"validation={{every_steps=2, selection_metric='{selection_metric}'}}")
    recipe = load_recipe(world / "recipe.toml", changes)
    run = train(recipe, world, tmp_path / "run", evaluators=[accuracy_evaluator(calls)])
    assert calls == [(2, (1, 16)), (4, (1, 16))]
    assert (run.best_step, run.best_scores) == (2, (accuracy_score(0.5),))
    assert ws.load(run.directory).card.training["steps"] == 2
    assert train(recipe, world, run.directory, resume=True).best_scores == run.best_scores


def test_without_a_selection_metric_the_last_model_is_the_best(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.toml", ("schedule.steps=4", "validation={every_steps=2}"))
    run = train(recipe, world, tmp_path / "run", evaluators=[accuracy_evaluator([])])
    assert (run.best_step, run.best_scores) == (4, (accuracy_score(0.25),))
    assert ws.load(run.directory).card.training["steps"] == 4


def test_a_selection_metric_that_no_evaluator_reports_is_an_error_at_the_start(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.toml", ("schedule.steps=4", "validation.selection_metric=acuracy"))
    with pytest.raises(
        ConfigError, match=r"no validation set reports 'acuracy'; reported: .*; did you mean 'accuracy'\?$"
    ):
        train(recipe, world, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def resume_with_identity(world: Path, finished: Path, out: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Resume a copy of a finished run whose checkpoint has another identity."""
    shutil.copytree(finished, out)
    parts = torch.load(out / "checkpoint.pt", weights_only=True)
    change(parts["identity"])
    torch.save(parts, out / "checkpoint.pt")
    train(world / "recipe.toml", world, out, resume=True)


def test_a_recipe_key_added_later_with_a_default_is_not_another_configuration(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    def remove_keys(identity: dict[str, Any]) -> None:
        del identity["recipe"]["accumulation"], identity["recipe"]["augmentation"]
        del identity["recipe"]["optimizer"]["momentum"], identity["recipe"]["model"]["image"]["stem_stride"]

    resume_with_identity(world, finished, tmp_path / "run", remove_keys)
    with pytest.raises(ConfigError, match=r"these differ: ema_decay;"):  # the recipe sets it to another value
        resume_with_identity(world, finished, tmp_path / "other", lambda identity: identity["recipe"].pop("ema_decay"))


def test_a_checkpoint_with_an_unknown_recipe_key_was_written_by_another_version(
    world: Path, finished: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"unknown key 'rotation'.*another version of wordsight wrote") as caught:
        resume_with_identity(world, finished, tmp_path / "run", lambda identity: identity["recipe"].update(rotation=1))
    assert "\n" not in str(caught.value)


def test_bfloat16_stays_close_to_float32(world: Path, tmp_path: Path) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        few = load_recipe(world / "recipe.toml", ("schedule.steps=3", f"precision='{precision}'", "validation={}"))
        train(few, world, tmp_path / precision)
        losses[precision] = json.loads((tmp_path / precision / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_tensorboard_receives_the_same_metrics(world: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    few = load_recipe(world / "recipe.toml", ("schedule.steps=10", "validation.every_steps=10"))
    train(few, world, tmp_path / "run", tensorboard=True)
    board = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert board.Scalars("loss")[0].value == pytest.approx(rows[0]["loss"])
    accuracy = scores_by_name(rows[1]["scores"])["labels/accuracy"]
    assert board.Scalars("labels/accuracy")[0].value == pytest.approx(accuracy["value"])
