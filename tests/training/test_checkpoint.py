"""What a resumed run continues with, and damaged or impossible checkpoints."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wordsight as ws
from wordsight.errors import ConfigError, OutputError, TrainingError
from wordsight.training import load_recipe, train
from wordsight.training import loop as loop_module
from wordsight.training.rows import read_rows

TIMES = ("pairs_per_s", "data_wait_share", "elapsed_s")
SHORT = ("schedule.steps=24", "checkpoint_every_steps=7", "validation.every_steps=9")


class KilledError(Exception):
    """Ends a run as SIGKILL would: nothing is written after it."""


def lines_without_times(run: Path) -> list[str]:
    rows = read_rows(run / "metrics.jsonl")
    return [json.dumps({key: value for key, value in row.items() if key not in TIMES}) for row in rows]


@pytest.mark.parametrize("killed_after", [8, 16, *(pytest.param(step, marks=pytest.mark.slow) for step in (3, 11, 22))])
def test_the_rows_of_a_killed_run_equal_those_of_an_uninterrupted_one(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after: int
) -> None:
    recipe = load_recipe(world / "recipe.toml", SHORT)
    train(recipe, world, tmp_path / "whole")
    real = loop_module.train_step

    def step(state: Any, batch: Any, recipe: Any) -> Any:
        if batch.step == killed_after:
            raise KilledError
        return real(state, batch, recipe)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "train_step", step)
        with pytest.raises(KilledError):
            train(recipe, world, tmp_path / "killed")
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 12, "lo')  # a row that was being written
    train(recipe, world, tmp_path / "killed", resume=True)
    assert lines_without_times(tmp_path / "killed") == lines_without_times(tmp_path / "whole")


def test_keys_that_may_change_on_resume_are_applied_and_recorded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = load_recipe(world / "recipe.toml", SHORT)
    run = stopped_run(world, tmp_path, first)
    changes = ("optimizer.learning_rate=1e-4", "optimizer.gradient_clip=1.0", "checkpoint_every_steps=100")
    capsys.readouterr()
    train(load_recipe(world / "recipe.toml", (*SHORT[:1], SHORT[2], *changes)), world, run, resume=True)
    printed = capsys.readouterr().err
    assert "from step 7: optimizer.learning_rate is 0.0001 instead of 0.01" in printed
    assert "from step 7: optimizer.gradient_clip is 1.0 instead of None" in printed
    recorded = ws.load(run / "last").card.training["changes"]
    assert {row["key"]: row["step"] for row in recorded} == {
        "checkpoint_every_steps": 7,
        "optimizer.gradient_clip": 7,
        "optimizer.learning_rate": 7,
    }
    rates = [row["learning_rate"] for row in read_rows(run / "metrics.jsonl") if "learning_rate" in row]
    assert max(rates) <= 1e-4


def stopped_run(world: Path, tmp_path: Path, recipe: Any) -> Path:
    """A run with a checkpoint of step 7 that was stopped in step 8."""
    real = loop_module.train_step

    def step(state: Any, batch: Any, recipe: Any) -> Any:
        if batch.step == 8:
            raise KilledError
        return real(state, batch, recipe)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop_module, "train_step", step)
        with pytest.raises(KilledError):
            train(recipe, world, tmp_path / "run")
    return tmp_path / "run"


def test_the_advice_on_a_non_finite_loss_works_when_it_is_followed(world: Path, tmp_path: Path) -> None:
    diverging = ("optimizer.learning_rate=1e30", "schedule.warmup_steps=0")
    with pytest.raises(TrainingError, match=r"start again in another --out with a lower optimizer.learning_rate"):
        train(load_recipe(world / "recipe.toml", diverging), world, tmp_path / "run")
    train(load_recipe(world / "recipe.toml", ("optimizer.learning_rate=1e-3",)), world, tmp_path / "other")
    train(load_recipe(world / "recipe.toml", ("optimizer.gradient_clip=1.0",)), world, tmp_path / "clipped")


def test_other_data_and_another_seed_are_refused(world: Path, tmp_path: Path) -> None:
    run = stopped_run(world, tmp_path, load_recipe(world / "recipe.toml", SHORT))
    data = tmp_path / "data"
    shutil.copytree(world, data)
    shutil.copy(data / "squares" / "000000.tar", data / "squares" / "000001.tar")
    with pytest.raises(ConfigError, match=r"these differ: data;"):
        train(load_recipe(world / "recipe.toml", SHORT), data, run, resume=True)
    with pytest.raises(ConfigError, match=r"these differ: seed;"):
        train(load_recipe(world / "recipe.toml", (*SHORT, "seed=5")), world, run, resume=True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda parts: parts.pop("learner"),
        lambda parts: parts.update(steps=-1),
        lambda parts: parts.update(steps="many"),
        lambda parts: parts.update(best_scores=[{"value": 1}]),
        lambda parts: parts.update(sums={"steps": "x"}),
        lambda parts: parts.update(learner={}),
        lambda parts: parts.update(learner=[1]),
        lambda parts: parts.update(optimizer={"state": {}, "param_groups": []}),
        lambda parts: parts.update(ema={}),
        lambda parts: parts["ema"].update({name: torch.zeros(1, 2, 3) for name in parts["ema"]}),
        lambda parts: parts.update(identity=None),
        lambda parts: parts.update(identity=[]),
    ],
)
def test_a_checkpoint_with_wrong_parts_is_an_error_of_one_line(world: Path, tmp_path: Path, damage: Any) -> None:
    recipe = load_recipe(world / "recipe.toml", SHORT)
    run = stopped_run(world, tmp_path, recipe)
    parts = torch.load(run / "checkpoint.pt", weights_only=True)
    damage(parts)
    torch.save(parts, run / "checkpoint.pt")
    with pytest.raises(TrainingError) as caught:
        train(recipe, world, run, resume=True)
    assert "\n" not in str(caught.value)


def test_flipped_bytes_of_a_checkpoint_never_cause_another_error(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.toml", SHORT)
    run = stopped_run(world, tmp_path, recipe)
    content = (run / "checkpoint.pt").read_bytes()
    generator = np.random.default_rng(0)
    messages = []
    for _ in range(15):
        damaged = bytearray(content)
        for position in generator.integers(0, len(content), 20):
            damaged[position] ^= 1 << int(generator.integers(8))
        (run / "checkpoint.pt").write_bytes(damaged[: int(generator.integers(1, len(content) + 1))])
        try:
            train(recipe, world, run, resume=True)  # succeeds if only bytes that nothing reads were changed
        except (ConfigError, TrainingError) as error:
            messages.append(str(error))
        except MemoryError:  # a damaged size; the command line turns it into one line
            messages.append("not enough memory")
    assert len(messages) > 5
    assert not [message for message in messages if "\n" in message]


def test_a_pipe_instead_of_a_checkpoint_is_not_read(world: Path, tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("needs named pipes")
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run" / "checkpoint.pt")
    with pytest.raises(TrainingError, match=r"checkpoint.pt: not a file; remove it"):
        train(world / "recipe.toml", world, tmp_path / "run", resume=True)


@pytest.mark.parametrize("rows", [b"5\n", b"[]\n", b'{"step": "x"}\n', b"\xff\xfe\n", b"{}\n", b"[" * 100_000])
def test_a_damaged_log_is_replaced(world: Path, tmp_path: Path, rows: bytes) -> None:
    run = stopped_run(world, tmp_path, load_recipe(world / "recipe.toml", SHORT))
    (run / "metrics.jsonl").write_bytes(rows)
    train(load_recipe(world / "recipe.toml", SHORT), world, run, resume=True)
    assert [row["step"] for row in read_rows(run / "metrics.jsonl")] == [9, 10, 18, 20, 24, 24]


def test_directories_in_the_way_of_files_are_errors_of_one_line(world: Path, tmp_path: Path) -> None:
    recipe = load_recipe(world / "recipe.toml", SHORT)
    for name in ("metrics.jsonl", "recipe.toml", "checkpoint.pt", "broken.jsonl"):
        (tmp_path / name / name / "in the way").mkdir(parents=True)
        if name == "broken.jsonl":  # it is needed only for broken samples
            continue
        with pytest.raises((OutputError, TrainingError)) as caught:
            train(recipe, world, tmp_path / name, resume=True)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


FULL_DISK = """
import resource, sys
from wordsight.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize("share", [0.5, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.1, 0.98))])
def test_a_full_disk_is_one_line_and_the_previous_checkpoint_survives(
    world: Path, tmp_path: Path, share: float
) -> None:
    """The limit on the size of files fails in the middle of the file, where torch raises errors of its own."""
    pytest.importorskip("resource")
    recipe = load_recipe(world / "recipe.toml", SHORT)
    run = stopped_run(world, tmp_path, recipe)
    before = (run / "checkpoint.pt").read_bytes()
    options = [part for change in SHORT for part in ("--set", change)]
    command = [
        "train",
        str(world / "recipe.toml"),
        "--data",
        str(world),
        "--out",
        str(run),
        "--resume",
        "--quiet",
        *options,
    ]
    limit = str(int(len(before) * share))
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, limit, *command], capture_output=True, text=True, check=False
    )
    assert process.returncode == 2, process.stderr
    errors = process.stderr.splitlines()
    assert len(errors) == 1, process.stderr
    assert errors[0].startswith("error: ")
    assert "File too large" in errors[0]
    assert (run / "checkpoint.pt").read_bytes() == before
    assert not list(run.glob(".*.partial"))
    assert train(recipe, world, run, resume=True).steps == 24


def test_broken_samples_are_listed_at_every_checkpoint(world: Path, tmp_path: Path) -> None:
    from .conftest import write_tar

    data = tmp_path / "data"
    shutil.copytree(world, data)
    write_tar(data / "squares" / "000001.tar", {"x.png": b"no image", "x.json": b'{"captions": ["a thing"]}'})
    changes = ("max_broken_share=0.5", "batch_size=64", *SHORT)
    run = stopped_run(data, tmp_path, load_recipe(world / "recipe.toml", changes))
    assert b'"key":"x"' in (run / "broken.jsonl").read_bytes()
