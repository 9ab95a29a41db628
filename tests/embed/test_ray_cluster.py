"""`wordsight embed --ray` writes the same files as without, and survives a killed worker.

The tests that start a Ray cluster are slow and need the extra `scale`.
"""

import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.tiny_clip import random_image, tiny_clip, write_images

from wordsight.cli import main
from wordsight.embed import ray_cluster
from wordsight.embed.job import embed_locally
from wordsight.embed.previous import PreviousEmbeddings
from wordsight.embed.ray_cluster import RayEmbedder, Worker
from wordsight.encoder import load
from wordsight.errors import ConfigError
from wordsight.image import ImageRef

NEEDS_RAY = [
    pytest.mark.slow,
    pytest.mark.skipif(
        subprocess.run([sys.executable, "-c", "import daft, ray"], capture_output=True, check=False).returncode != 0,
        reason="needs Daft and Ray, extra scale (make slow)",
    ),
]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "model")
    write_images(tmp_path / "photos", 300)[1].write_bytes(b"hello")
    return tmp_path


def embed(out: str, *more: str, model: str = "model") -> list[str]:
    return [sys.executable, "-m", "wordsight", "embed", "photos", "--out", out, "--model", model, "--json", *more]


def run(out: str, *more: str) -> dict[str, object]:
    process = subprocess.run(embed(out, *more), capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


def assert_same(first_path: str, second_path: str) -> None:
    """Rows and fingerprints are equal, embeddings are equal to 1e-6."""
    one, other = pq.read_table(first_path), pq.read_table(second_path)
    assert one.schema.metadata == other.schema.metadata
    assert one.drop(["embedding"]).equals(other.drop(["embedding"]))
    for first, second in zip(one["embedding"].to_pylist(), other["embedding"].to_pylist(), strict=True):
        assert (first is None) == (second is None)
        np.testing.assert_allclose(first or [], second or [], atol=1e-6)


def descendants(process: int) -> Iterator[tuple[int, str]]:
    """Ids and titles of all processes below one."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            yield int(child), Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").decode()
            yield from descendants(int(child))


def working(process: int) -> list[int]:
    """Ids of the workers that are processing images."""
    try:
        return [pid for pid, title in descendants(process) if title.startswith("ray::UDFActor.eval_input")]
    except OSError:  # a process has just ended
        return []


@pytest.mark.parametrize("address", [pytest.param("local", marks=NEEDS_RAY)])
def test_files_are_equal_and_only_new_images_are_embedded(workspace, address):
    run("local.parquet")
    summary = run("ray.parquet", "--ray", address)
    assert (summary["embeddings"], summary["computed"], summary["num_unreadable"]) == (299, 299, 1)
    assert_same("local.parquet", "ray.parquet")
    (workspace / "photos" / "001.png").write_bytes((workspace / "photos" / "002.png").read_bytes())
    write_images(workspace / "photos" / "more", 310)[0].unlink()
    summary = run("ray.parquet", "--ray", address)
    assert (summary["embeddings"], summary["computed"]) == (300 + 309, 11)  # 299 of the first 300 were embedded before
    run("local.parquet")
    assert_same("local.parquet", "ray.parquet")


@pytest.mark.parametrize("address", [pytest.param("local", marks=NEEDS_RAY)])
def test_a_killed_worker_does_not_change_the_result(workspace, address):
    for path in (workspace / "photos").iterdir():
        path.unlink()
    for number in range(8):  # large, so that there is time to kill a worker
        Image.fromarray(random_image(number, 3000, 2000)).save(workspace / "photos" / f"{number}.jpg")
        for copy in range(70):
            os.link(workspace / "photos" / f"{number}.jpg", workspace / "photos" / f"{number}-{copy:02d}.jpg")
    with subprocess.Popen(embed("ray.parquet", "--ray", address), stdout=subprocess.PIPE, text=True) as process:
        while not (workers := working(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        assert process.poll() is None
        os.kill(workers[0], signal.SIGKILL)
        output = process.communicate()[0].splitlines()[-1]
    assert process.returncode == 0
    assert json.loads(output)["embeddings"] == 568
    run("local.parquet")
    assert_same("local.parquet", "ray.parquet")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("127.0.0.1:1", "no Ray cluster there (Connection refused)", marks=NEEDS_RAY),
        pytest.param("ray://127.0.0.1:1", "no Ray cluster there (Connection refused)", marks=NEEDS_RAY),
        pytest.param("nonsense", "expected host:port, ray://host:port, auto or local", marks=NEEDS_RAY),
        pytest.param("auto", "no Ray cluster there (Could not find any running Ray", marks=NEEDS_RAY),
    ],
)
def test_an_address_without_a_cluster_is_a_one_line_error(workspace, address, message):
    process = subprocess.run(embed("out.npy", "--ray", address), capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stderr.splitlines()[-1].startswith(f"error: --ray {address}: {message}")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            partial(tiny_clip, seed=1),
            f"on a worker: the model is .*, expected {tiny_clip().fingerprint}; install the same model on all machines",
        ),
        (partial(load, "nowhere"), "on a worker: nowhere: no such model"),
    ],
)
def test_a_worker_with_another_model_or_none_ends_the_job(workspace, monkeypatch, load, message):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = Worker(load, tiny_clip().fingerprint, str(workspace))
    error = pickle.loads(worker.embed(pickle.dumps([])))
    assert isinstance(error, ConfigError)
    assert re.search(message, str(error))


def test_without_daft_and_ray_the_error_says_what_to_install(workspace, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "daft", None)
    assert main(embed("out.npy", "--ray", "local")[3:]) == 2
    assert "--ray needs optional packages: pip install 'wordsight[scale]'" in capsys.readouterr().err


def test_rows_are_in_order_although_workers_finish_in_any_order(workspace, monkeypatch):
    """The cluster is replaced by one worker in this process that finishes the last batch first."""
    clip = tiny_clip()
    worker = Worker(tiny_clip, clip.fingerprint, str(workspace))
    calls = []

    def results(daft, workers, pending):
        for number in reversed(pending):
            calls.append(len(pickle.loads(pending[number])))
            yield number, pickle.loads(workers.embed(pending[number]))

    monkeypatch.setattr(ray_cluster, "_connect", lambda address: nullcontext())
    monkeypatch.setattr(ray_cluster, "_start_workers", lambda daft, load, fingerprint: worker)
    monkeypatch.setattr(ray_cluster, "_results", results)
    paths = sorted((workspace / "photos").iterdir())[:150]
    images = [ImageRef(str(path), path.read_bytes, columns={"size": path.stat().st_size}) for path in paths]
    images[0] = images[0]._replace(captions=("a dot",), names=("dot",))
    images.insert(70, ImageRef("film.mp4#t=1.000", lambda: random_image(5), "0123"))  # cannot be pickled
    images.insert(71, ImageRef("film.mp4#t=2.000", lambda: np.zeros(3, np.uint8), "0123"))  # not an image
    local = list(embed_locally(clip, images, PreviousEmbeddings()))
    remote = list(RayEmbedder("local", tiny_clip)(clip, images, PreviousEmbeddings()))
    assert calls == [24, 63, 64]
    assert remote[0].columns == {"captions": ["a dot"], "label": "dot", "size": paths[0].stat().st_size}
    assert_rows_equal(local, remote)
    previous = PreviousEmbeddings()
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths[2:140]]
    previous.add(
        np.full((139, 8), 8**-0.5, np.float32), [*map(str, paths[2:140]), "film.mp4#t=1.000"], [*digests, "0123"]
    )
    calls.clear()
    resumed = list(RayEmbedder("local", tiny_clip)(clip, images, previous))
    assert calls == [10, 2]
    assert_rows_equal(list(embed_locally(clip, images, previous)), resumed)
    assert sum(row.is_new for row in resumed) == 11


def assert_rows_equal(rows, other_rows):
    assert len(rows) == len(other_rows)
    for row, other in zip(rows, other_rows, strict=True):
        assert row._replace(embedding=None) == other._replace(embedding=None)
        np.testing.assert_allclose(
            [] if row.embedding is None else row.embedding,
            [] if other.embedding is None else other.embedding,
            atol=1e-6,
        )
