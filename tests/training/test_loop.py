import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import wordsight as ws
from tests.weights.models import sentencepiece_model
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, DataError, OutputError, TrainingError
from wordsight.training import load_recipe, train
from wordsight.training import loop as loop_module

from .conftest import write_tar


def tensors(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    return load_file(run / name / "model.safetensors")


def assert_equal_bits(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.fixture(scope="session")
def finished(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of 20 steps."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    train(world / "recipe.toml", world, out)
    return out


def test_a_run_learns_what_it_sees(finished: Path) -> None:
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    scores = [row["scores"] for row in rows if "scores" in row][-1]
    assert losses[-1] < losses[0]
    assert scores["labels/accuracy"] > 2 * scores["labels/accuracy.chance"]
    low, value, high = (scores[f"squares/image_to_text_recall_at_10{part}"] for part in (".low", "", ".high"))
    assert low <= value <= high
    assert value > scores["squares/image_to_text_recall_at_10.chance"]


def test_a_run_opens_as_a_model(finished: Path) -> None:
    clip = ws.load(finished)
    answers = list(
        ws.ZeroShotClassifier(clip, ["red", "blue"]).classify([np.full((16, 16, 3), (220, 30, 30), np.uint8)])
    )
    assert answers[0].label in {"red", "blue"}
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    written = {row["step"]: row["scores"] for row in rows if "scores" in row}
    assert clip.card.training["scores"] == written[clip.card.training["steps"]]


def test_workers_change_nothing(world: Path, finished: Path, tmp_path: Path) -> None:
    train(world / "recipe.toml", world, tmp_path / "three", workers=3)
    assert_equal_bits(finished, tmp_path / "three")


def test_a_run_from_another_family_keeps_its_tokenizer(world: Path, tmp_path: Path) -> None:
    found = sentencepiece_model()
    DualEncoder(found.build("made here"), found.card, files=found.files).save(tmp_path / "siglip")
    changes = ("schedule.steps=2", "schedule.warmup_steps=0", "batch_size=8", "loss.caption_token_weight=0")
    train(load_recipe(world / "recipe.toml", changes), world, tmp_path / "run", start=tmp_path / "siglip")
    tuned = ws.load(tmp_path / "run")
    assert tuned.card.tokenizer == found.card.tokenizer
    assert tuned.card.preprocessing == found.card.preprocessing
    assert (tmp_path / "run" / "best" / "spiece.model").read_bytes() == found.files["spiece.model"]
    before = ws.load(tmp_path / "siglip")
    assert (tuned.tokenize("a photo of a cat") == before.tokenize("a photo of a cat")).all()
    assert np.abs(tuned.embed_texts("a photo of a cat") - before.embed_texts("a photo of a cat")).max() > 1e-6


def test_a_run_from_a_model_starts_with_its_weights_and_size(world: Path, finished: Path, tmp_path: Path) -> None:
    changes = ("schedule.steps=1", "schedule.warmup_steps=0", "optimizer.learning_rate=1e-30", "ema_decay=0")
    other = ("model.image.image_size_px=32", "model.embed_dim=8")
    still = load_recipe(world / "recipe.toml", (*changes, *other))
    train(still, world, tmp_path / "still", start=finished / "last")
    before, after = tensors(finished), tensors(tmp_path / "still")
    for name, tensor in before.items():
        if "running" not in name and "tracked" not in name:
            torch.testing.assert_close(after[name], tensor, atol=1e-6, rtol=0, msg=name)
    assert ws.load(tmp_path / "still").card.preprocessing.size_px == 16


def test_another_seed_changes_the_weights(world: Path, finished: Path, tmp_path: Path) -> None:
    train(load_recipe(world / "recipe.toml", ("seed=1",)), world, tmp_path / "seed")
    assert not torch.equal(tensors(finished)["visual.proj"], tensors(tmp_path / "seed")["visual.proj"])


def test_a_second_run_in_the_same_directory_is_refused(world: Path, finished: Path) -> None:
    with pytest.raises(OutputError, match=r"holds a run already; go on with --resume"):
        train(world / "recipe.toml", world, finished)


def test_resume_of_a_finished_run_changes_nothing(world: Path, finished: Path) -> None:
    before = (finished / "last" / "model.safetensors").read_bytes()
    run = train(world / "recipe.toml", world, finished, resume=True)
    assert run.steps == 20
    assert (finished / "last" / "model.safetensors").read_bytes() == before


def test_resume_with_another_configuration_names_the_fields(world: Path, finished: Path) -> None:
    changed = load_recipe(world / "recipe.toml", ("optimizer.learning_rate=1e-4", "batch_size=16"))
    with pytest.raises(ConfigError, match=r"these differ: batch_size, optimizer.learning_rate;"):
        train(changed, world, finished, resume=True)


def test_accumulation_takes_the_step_of_the_whole_batch(world: Path, tmp_path: Path) -> None:
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


def test_a_loss_that_is_not_finite_names_step_and_batch(world: Path, tmp_path: Path) -> None:
    wild = load_recipe(world / "recipe.toml", ("optimizer.learning_rate=1e30", "schedule.warmup_steps=0"))
    with pytest.raises(TrainingError, match=r"^step \d+: loss .* on the batch of \d+") as caught:
        train(wild, world, tmp_path / "wild")
    assert "\n" not in str(caught.value)


def test_missing_shards_say_where_they_were_looked_for(world: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="squares: the recipe wants these shards"):
        train(world / "recipe.toml", tmp_path, tmp_path / "run")


def test_a_full_disk_leaves_the_former_checkpoint(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_unwritable_output_is_one_line(world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file/run: cannot be written"):
        train(world / "recipe.toml", world, tmp_path / "file" / "run")


def test_a_damaged_checkpoint_is_one_line(world: Path, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes((finished / "checkpoint.pt").read_bytes()[:1000])
    with pytest.raises(TrainingError, match="not a checkpoint that can be read"):
        train(world / "recipe.toml", world, tmp_path / "run", resume=True)


def start(world: Path, out: Path, *more: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "wordsight", "train", str(world / "recipe.toml"), "--data", str(world)]
    return subprocess.Popen([*command, "--out", str(out), "--resume", *more], stderr=subprocess.DEVNULL)


def wait_for(claim: object, process: "subprocess.Popen[bytes]", limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while process.poll() is None and not claim():  # type: ignore[operator]
        assert time.monotonic() < end, "waited too long"


@pytest.mark.parametrize("matrices", ["adamw", "muon"])
def test_ctrl_c_saves_and_resume_ends_at_the_same_bits(world: Path, tmp_path: Path, matrices: str) -> None:
    changes = ("schedule.steps=300", "checkpoint_every_steps=1000", "validation.every_steps=60")
    long = [part for change in (*changes, f"optimizer.matrices={matrices}") for part in ("--set", change)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(world, whole, *long).wait() == 0
    process = start(world, cut, *long)
    wait_for((cut / "metrics.jsonl").exists, process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert (cut / "checkpoint.pt").exists()
    assert start(world, cut, *long).wait() == 0
    assert_equal_bits(whole, cut)


@pytest.mark.slow
def test_ten_kills_end_at_the_same_bits(world: Path, tmp_path: Path) -> None:
    """SIGKILL at ten random moments, at least one of them while a checkpoint is being written."""
    changes = (
        "schedule.steps=2000",
        "checkpoint_every_steps=5",
        "validation.every_steps=50",
        "optimizer.matrices=muon",
    )
    long = [part for change in changes for part in ("--set", change)]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert start(world, whole, *long).wait() == 0
    moments = np.random.default_rng(int(time.time()))
    while_saving = 0
    for kill in range(10):
        process = start(world, cut, *long)
        before = (cut / "checkpoint.pt").stat().st_mtime_ns if (cut / "checkpoint.pt").exists() else 0
        wait_for(
            lambda b=before: (cut / "checkpoint.pt").exists() and (cut / "checkpoint.pt").stat().st_mtime_ns > b,
            process,
        )
        if kill % 2:
            wait_for(lambda: list(cut.glob(".checkpoint.pt.*.partial")), process)
        else:
            time.sleep(float(moments.uniform(0, 2)))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before its kill; give it more steps"
        while_saving += bool(list(cut.glob(".checkpoint.pt.*.partial")))
    assert while_saving >= 1
    assert start(world, cut, *long).wait() == 0
    assert_equal_bits(whole, cut)


def test_broken_samples_are_listed_and_do_not_end_the_run(world: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(world, data)
    (data / "squares" / "000001.tar").write_bytes((data / "squares" / "000000.tar").read_bytes())
    write_tar(data / "squares" / "000002.tar", {"x.png": b"no image", "x.json": b'{"captions": ["a thing"]}'})
    few = load_recipe(data / "recipe.toml", ("schedule.steps=8",))
    train(few, data, tmp_path / "run")
    (row,) = [json.loads(line) for line in (tmp_path / "run" / "broken.jsonl").read_text().splitlines()]
    assert row["key"] == "x"
    assert "not an image" in row["reason"]


def test_a_strangers_evaluator_is_asked_and_its_scores_are_kept(world: Path, tmp_path: Path) -> None:
    asked = []

    def evaluator(encoder: ws.DualEncoder, steps: int) -> dict[str, float]:
        asked.append((steps, encoder.embed_texts(["red"]).shape))
        return {"mine/accuracy": 1 / steps}

    few = load_recipe(world / "recipe.toml", ("schedule.steps=4", "validation={every_steps=2}"))
    run = train(few, world, tmp_path / "run", evaluators=[evaluator])
    assert asked == [(2, (1, 16)), (4, (1, 16))]
    assert (run.best_step, run.best_scores) == (2, {"mine/accuracy": 0.5})
    assert ws.load(run.directory).card.training["steps"] == 2


def test_half_precision_stays_near_single(world: Path, tmp_path: Path) -> None:
    first = {}
    for precision in ("float32", "bfloat16"):
        few = load_recipe(world / "recipe.toml", ("schedule.steps=3", f"precision='{precision}'", "validation={}"))
        train(few, world, tmp_path / precision)
        first[precision] = json.loads((tmp_path / precision / "metrics.jsonl").read_text().splitlines()[0])["loss"]
    assert first["float32"] != first["bfloat16"]
    assert first["bfloat16"] == pytest.approx(first["float32"], rel=0.02)


def test_tensorboard_gets_the_same_figures(world: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    few = load_recipe(world / "recipe.toml", ("schedule.steps=10", "validation.every_steps=10"))
    train(few, world, tmp_path / "run", tensorboard=True)
    board = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert board.Scalars("loss")[0].value == pytest.approx(rows[0]["loss"])
    assert board.Scalars("labels/accuracy")[0].value == pytest.approx(rows[1]["scores"]["labels/accuracy"])
