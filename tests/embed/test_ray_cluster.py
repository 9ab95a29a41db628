"""The same command on a cluster of Ray that the test starts: equal files, and a killed worker costs time only."""

import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.tiny_clip import random_image, tiny_clip, write_images

from wordsight.cli import main
from wordsight.embed.ray_cluster import Worker
from wordsight.encoder import load
from wordsight.errors import ConfigError

NEEDS_RAY = [
    pytest.mark.slow,
    pytest.mark.skipif(
        subprocess.run([sys.executable, "-c", "import daft, ray"], capture_output=True, check=False).returncode != 0,
        reason="needs Daft and Ray, extra scale (make slow)",
    ),
]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_clip().save(tmp_path / "model")
    write_images(tmp_path / "photos", 300)[1].write_bytes(b"hello")
    return tmp_path


def embed(out: str, *more: str, model: str = "model") -> list[str]:
    return [sys.executable, "-m", "wordsight", "embed", "photos", "--out", out, "--model", model, "--json", *more]


def run(out: str, *more: str) -> dict[str, object]:
    done = subprocess.run(embed(out, *more), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_same(out: str, other: str) -> None:
    """Equal rows, equal fingerprints, embeddings equal to 1e-6."""
    one, two = pq.read_table(out), pq.read_table(other)
    assert one.schema.metadata == two.schema.metadata
    assert one.drop(["embedding"]).equals(two.drop(["embedding"]))
    for first, second in zip(one["embedding"].to_pylist(), two["embedding"].to_pylist(), strict=True):
        assert (first is None) == (second is None)
        np.testing.assert_allclose(first or [], second or [], atol=1e-6)


def descendants(process: int) -> Iterator[tuple[int, str]]:
    """Process numbers below one, and their titles."""
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        for child in path.read_text().split():
            yield int(child), Path(f"/proc/{child}/cmdline").read_bytes().rstrip(b"\0").decode()
            yield from descendants(int(child))


def working(process: int) -> list[int]:
    """The workers of a run that have images in hand."""
    try:
        return [number for number, title in descendants(process) if title.startswith("ray::UDFActor.eval_input")]
    except OSError:  # one has just ended
        return []


@pytest.mark.parametrize("test", [pytest.param("local", marks=NEEDS_RAY)])
def test_files_are_equal_and_only_what_is_new_is_done(place, test):
    run("here.parquet")
    done = run("there.parquet", "--ray", test)
    assert (done["embeddings"], done["computed"], done["num_broken"]) == (299, 299, 1)
    assert_same("here.parquet", "there.parquet")
    (place / "photos" / "001.png").write_bytes((place / "photos" / "002.png").read_bytes())
    write_images(place / "photos" / "more", 310)[0].unlink()
    done = run("there.parquet", "--ray", test)
    assert (done["embeddings"], done["computed"]) == (300 + 309, 11)  # but for the broken one the first 300 were known
    run("here.parquet")
    assert_same("here.parquet", "there.parquet")


@pytest.mark.parametrize("test", [pytest.param("local", marks=NEEDS_RAY)])
def test_a_killed_worker_costs_time_only(place, test):
    for path in (place / "photos").iterdir():
        path.unlink()
    for number in range(8):  # so large that there is time to kill
        Image.fromarray(random_image(number, 3000, 2000)).save(place / "photos" / f"{number}.jpg")
        for copy in range(70):
            os.link(place / "photos" / f"{number}.jpg", place / "photos" / f"{number}-{copy:02d}.jpg")
    with subprocess.Popen(embed("there.parquet", "--ray", test), stdout=subprocess.PIPE, text=True) as process:
        while not (workers := working(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1)
        assert process.poll() is None
        os.kill(workers[0], signal.SIGKILL)
        answer = process.communicate()[0].splitlines()[-1]
    assert process.returncode == 0
    assert json.loads(answer)["embeddings"] == 568
    run("here.parquet")
    assert_same("here.parquet", "there.parquet")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        pytest.param("127.0.0.1:1", "no cluster of Ray there (Connection refused)", marks=NEEDS_RAY),
        pytest.param("ray://127.0.0.1:1", "no cluster of Ray there (Connection refused)", marks=NEEDS_RAY),
        pytest.param("nonsense", "expected host:port, ray://host:port, auto or local", marks=NEEDS_RAY),
        pytest.param("auto", "no cluster of Ray there (Could not find any running Ray", marks=NEEDS_RAY),
    ],
)
def test_an_address_without_a_cluster_is_one_line(place, address, message):
    done = subprocess.run(embed("out.npy", "--ray", address), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: --ray {address}: {message}")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (
            partial(tiny_clip, seed=1),
            f"on a worker: the model is .*, not {tiny_clip().fingerprint}; give all machines one",
        ),
        (partial(load, "nowhere"), "on a worker: nowhere: no such model"),
    ],
)
def test_a_worker_with_another_model_or_none_ends_the_work(place, monkeypatch, load, message):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    worker = Worker(load, tiny_clip().fingerprint, str(place))
    error = pickle.loads(worker.rows(pickle.dumps([])))
    assert isinstance(error, ConfigError)
    assert re.search(message, str(error))


def test_without_daft_and_ray_there_is_a_hint(place, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "daft", None)
    assert main(embed("out.npy", "--ray", "local")[3:]) == 2
    assert "--ray needs optional packages: pip install 'wordsight[scale]'" in capsys.readouterr().err
