"""The current code reads the files in `files/`, written by `make.py` in the version that introduced their formats."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.golden.make import CLASS_NAMES, DIRECTORY, MAX_BYTES, SHARD_MTIME_NS

import wordsight as ws
from wordsight.cli import main as wordsight
from wordsight.data import open_shards
from wordsight.encoder import DualEncoder

pytestmark = pytest.mark.skipif(
    not DIRECTORY.exists(), reason="the golden files are not written yet: python -m tests.golden.make"
)


@pytest.fixture
def golden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the golden files as the working directory, with the cache that is among them."""
    directory = tmp_path / "golden"
    shutil.copytree(DIRECTORY, directory)
    for shard in (directory / "shards").rglob("*.tar"):  # version control does not keep the time of the index
        os.utime(shard, ns=(SHARD_MTIME_NS, SHARD_MTIME_NS))
    monkeypatch.chdir(directory)
    monkeypatch.setenv("WORDSIGHT_CACHE", str(directory / "cache"))
    return directory


@pytest.fixture
def expected(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "expected.json").read_text())


def test_golden_files_are_small() -> None:
    assert sum(path.stat().st_size for path in DIRECTORY.rglob("*") if path.is_file()) <= MAX_BYTES


def test_a_model_directory_loads_and_computes_the_same(golden: Path, expected: dict[str, Any]) -> None:
    clip = ws.load("model", device="cpu")
    assert clip.tokenize(expected["texts"]).tolist() == expected["tokens"]
    np.testing.assert_allclose(clip.embed_texts(expected["texts"]), expected["text_embeddings"], atol=1e-5)
    images = sorted((golden / "images").iterdir())
    np.testing.assert_allclose(clip.embed_images(images), expected["image_embeddings"], atol=1e-5)


def test_shards_open_with_the_same_samples(golden: Path, expected: dict[str, Any]) -> None:
    shards = open_shards("shards/pairs")
    samples = [shards.sample(number) for number in range(len(shards))]
    assert [sample.key for sample in samples] == [pair["key"] for pair in expected["pairs"]]
    assert [list(sample.captions) for sample in samples] == [pair["captions"] for pair in expected["pairs"]]


def test_a_shard_index_is_used_and_not_rebuilt(golden: Path) -> None:
    (index,) = (golden / "shards" / "pairs").glob("*.index")
    os.utime(index, ns=(SHARD_MTIME_NS, SHARD_MTIME_NS))
    assert len(open_shards("shards/pairs"))
    assert index.stat().st_mtime_ns == SHARD_MTIME_NS


@pytest.mark.parametrize("path", ["run", "run/best", "run/last"])
def test_a_run_loads_as_a_model(golden: Path, path: str) -> None:
    clip = ws.load(path, device="cpu")
    assert clip.card.name == "golden"
    assert clip.card.training["steps"] == 2
    assert np.isfinite(clip.embed_texts(["a red square"])).all()


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the checkpoint is one of a CPU")
def test_a_run_resumes_and_takes_its_last_step(golden: Path) -> None:
    before = Path("run/metrics.jsonl").read_text().splitlines()
    run = ws.train("recipe.toml", data=["shards"], out="run", start="model", resume=True)
    assert run.steps == 3
    rows = Path("run/metrics.jsonl").read_text().splitlines()
    assert rows[: len(before)] == before
    assert {json.loads(row)["step"] for row in rows[len(before) :]} == {3}
    assert ws.load("run/last", device="cpu").card.training["steps"] == 3


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the checkpoint is one of a CPU")
def test_a_run_that_does_not_remember_its_data_resumes_by_its_recipe(
    golden: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert wordsight(["train", "--resume", "--out", "run"]) == 2
    assert "run: the run does not say where its data is; pass it with --data DIR" in capsys.readouterr().err
    shutil.rmtree("model")  # the start model is not needed
    assert wordsight(["train", "--resume", "--out", "run", "--data", "shards"]) == 0
    assert ws.load("run/last", device="cpu").card.training["steps"] == 3
    assert wordsight(["train", "--resume", "--out", "run", "--set", "schedule.steps=4"]) == 0
    assert ws.load("run/last", device="cpu").card.training["steps"] == 4


@pytest.mark.parametrize("name", ["embeddings.parquet", "embeddings.npy"])
def test_embeddings_are_reused(golden: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["embed", "images", "--model", "model", "--out", name, "--json"]
    assert wordsight(arguments) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["embeddings"], summary["computed"]) == (6, 0)


def test_a_cached_classifier_is_used(golden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def embed_texts(self: DualEncoder, texts: list[str]) -> np.ndarray:
        raise AssertionError("the classifier was computed instead of read from the cache")

    monkeypatch.setattr(DualEncoder, "embed_texts", embed_texts)
    classifier = ws.ZeroShotClassifier(ws.load("model", device="cpu"), CLASS_NAMES, "imagenet")
    assert classifier.weights.shape == (13, 16)
