"""The jobs that `benchmarks.kills` disturbs: what each prepares, runs, keeps and checks."""

import contextlib
import functools
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from tests.serving import LoopbackServer, QuietHandler
from tests.tiny_clip import tiny_clip, write_images

from wordsight.data import PackOptions, open_shards, open_source, pack
from wordsight.data.inputs import iter_images
from wordsight.embed import job as embed_job
from wordsight.embed.previous import DamagedEmbeddingsError, read_embeddings
from wordsight.encoder import DualEncoder
from wordsight.errors import OutputError
from wordsight.files import newest_complete, sha256_file
from wordsight.training.checkpoint import save_checkpoint
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert
from wordsight.weights.formats.wordsight import read_wordsight
from wordsight.weights.hub import download

NUM_WEIGHTS_BYTES = 4_000_000


@dataclass(frozen=True)
class Job:
    """One kind of work in a directory.

    Attributes:
        name: for the table.
        prepare: writes the inputs and the output of an earlier run.
        run: does the work; may be called again after it was killed.
        kept: raises AssertionError unless the output of the earlier run, or of this one, is complete.
        check: raises AssertionError unless the output is that of an undisturbed run.
        outputs: the names that the directory may contain in the end.
    """

    name: str
    prepare: Callable[[Path], object]
    run: Callable[[Path], object]
    kept: Callable[[Path], object]
    check: Callable[[Path], object]
    outputs: frozenset[str]


@functools.cache
def encoder() -> DualEncoder:
    """The model, which `benchmarks.kills` builds before it forks."""
    clip = tiny_clip()
    clip.batch_size = 4
    return clip


def prepare_embed(suffix: str, directory: Path) -> None:
    images = write_images(directory / "images", 24)
    for path in images[16:]:
        path.rename(path.with_suffix(".later"))
    (directory / "images" / "broken_once.png").write_bytes(b"hello")
    (directory / "images" / "broken.png").write_bytes(b"hello")
    run_embed(suffix, directory)
    (directory / "images" / "broken_once.png").unlink()  # so that the lists of unreadable images differ
    for path in images[16:]:
        path.with_suffix(".later").rename(path)
    for path in images[:3]:
        path.unlink()


def run_embed(suffix: str, directory: Path) -> embed_job.EmbedSummary:
    embed_job._ROWS_PER_PART = 3  # so that kills happen between parts, too
    images = iter_images([directory / "images"])
    return embed_job.embed_files(encoder(), images, directory / f"out{suffix}")


def embed_kept(suffix: str, directory: Path) -> None:
    """The next run computes nothing that the earlier run had computed."""
    copy = Path(tempfile.mkdtemp(dir=directory.parent))
    shutil.copytree(directory, copy, dirs_exist_ok=True)
    with contextlib.suppress(DamagedEmbeddingsError):
        assert len(read_embeddings(copy / f"out{suffix}", encoder().fingerprint)) in (16, 21)
        shutil.rmtree(copy)
        return
    raise AssertionError("the earlier embeddings are lost")


def check_embed(suffix: str, directory: Path) -> None:
    out = directory / f"out{suffix}"
    paths = [str(path) for path in sorted((directory / "images").iterdir()) if path.name != "broken.png"]
    if suffix == ".npy":
        sidecar = json.loads(Path(f"{out}.json").read_text())
        stored_paths, stored, unreadable = sidecar["paths"], np.load(out), sidecar["unreadable"]
    else:
        import pyarrow.parquet as pq

        table, listed = pq.read_table(out), out.with_suffix(".unreadable.jsonl")
        stored_paths, stored = table["path"].to_pylist(), np.array(table["embedding"].to_pylist(), np.float32)
        unreadable = [json.loads(line) for line in listed.read_text().splitlines()]
        stated = pq.read_metadata(out).metadata[b"wordsight.unreadable_sha256"]
        assert stated.decode() == sha256_file(listed), "a list of another run"
    assert [image["path"] for image in unreadable] == [str(directory / "images" / "broken.png")], (
        "other unreadable images"
    )
    assert stored_paths == paths, "other paths"
    fresh = encoder().embed_images(paths)
    assert np.abs(stored - fresh).max() < 1e-5, "an embedding under another image's path"
    assert run_embed(suffix, directory).num_computed == 0, "embeddings that are not found again"


def prepare_shards(directory: Path) -> None:
    for name in ("old", "new"):
        for path in write_images(directory / name, 12):
            path.with_suffix(".txt").write_text(f"{name} {path.stem}")
    for name in ("old", "new"):
        pack(open_source(directory / name), directory / f"expected_{name}", PackOptions(max_samples=4))
    shutil.copytree(directory / "expected_old", directory / "out")


def run_shards(directory: Path) -> None:
    pack(open_source(directory / "new"), directory / "out", PackOptions(max_samples=4))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".index"}


def shards_kept(directory: Path) -> None:
    shards = contents(newest_complete(directory / "out"))
    assert shards in [contents(directory / f"expected_{name}") for name in ("old", "new")], (
        "the earlier shards are lost"
    )


def check_shards(directory: Path) -> None:
    assert len(open_shards(directory / "out")) == 12
    assert contents(directory / "out") == contents(directory / "expected_new"), "other shards"


def prepare_convert(directory: Path) -> None:
    encoder().save(directory / "model")


def run_convert(directory: Path) -> None:
    checkpoint: Checkpoint = read_wordsight(directory / "model")
    try:
        convert(checkpoint, directory / "out", "wordsight")
    except OutputError:
        if not (directory / "out").exists():  # otherwise the killed process had finished
            raise


def convert_kept(directory: Path) -> None:
    read_wordsight(directory / "model")
    if (directory / "out").exists():
        check_convert(directory)


def check_convert(directory: Path) -> None:
    assert sorted(contents(directory / "out")) == ["certificate.json", "model.safetensors", "wordsight.json"]
    before, after = (read_wordsight(directory / name).tensors for name in ("model", "out"))
    assert all(torch.equal(before[name], after[name]) for name in before), "other weights"


class WeightsServer(LoopbackServer):
    """Serves one file slowly enough to be interrupted, with ranges."""

    content = random.Random(0).randbytes(NUM_WEIGHTS_BYTES)


class WeightsHandler(QuietHandler):
    def respond(self) -> None:
        begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
        content = WeightsServer.content[begin:]
        self.send_response(206 if begin else 200)
        self.send_header("ETag", '"one"')
        self.send_header("Content-Length", str(len(content)))
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{NUM_WEIGHTS_BYTES - 1}/{NUM_WEIGHTS_BYTES}")
        self.end_headers()
        with contextlib.suppress(OSError):
            for start in range(0, len(content), 1 << 17):
                self.wfile.write(content[start : start + (1 << 17)])
                time.sleep(0.002)


def run_fetch(address: str, directory: Path) -> None:
    os.environ.update({"WORDSIGHT_CACHE": str(directory), "no_proxy": "*"})
    os.environ.pop("HF_HUB_OFFLINE", None)
    card = download.published_card("openai/RN50")
    sha256 = hashlib.sha256(WeightsServer.content).hexdigest()
    url = "https://example.org/model.pt"
    card = msgspec.structs.replace(card, address=url, sha256=sha256, size_bytes=NUM_WEIGHTS_BYTES)
    download.published_card = lambda name: card
    download.resolve("openai/RN50", mirror=address)


def fetch_kept(directory: Path) -> None:
    for path in directory.glob("weights/*/model.pt"):
        assert sha256_file(path) == hashlib.sha256(WeightsServer.content).hexdigest(), "an incomplete file"


def check_fetch(directory: Path) -> None:
    assert [path.name for path in directory.glob("weights/*/*") if not path.name.endswith(".lock")] == ["model.pt"]
    fetch_kept(directory)


@dataclass(frozen=True)
class FakeState:
    """What a checkpoint saves of a training run."""

    step: int

    def parts(self) -> dict[str, Any]:
        return {"step": self.step, "weights": torch.full((200_000,), float(self.step))}


def write_checkpoint(step: int, directory: Path) -> None:
    save_checkpoint(directory / "checkpoint.pt", FakeState(step))  # type: ignore[arg-type]


def check_checkpoint(steps: tuple[int, ...], directory: Path) -> None:
    parts = torch.load(directory / "checkpoint.pt", weights_only=True)
    assert parts["step"] in steps, "another checkpoint"
    assert torch.equal(parts["weights"], FakeState(parts["step"]).parts()["weights"])


def jobs(address: str) -> list[Job]:
    """All jobs; `address` is that of a `WeightsServer`."""
    embeds = [
        Job(
            f"embed {suffix}",
            *(functools.partial(step, suffix) for step in (prepare_embed, run_embed, embed_kept, check_embed)),
            outputs=frozenset({"images", f"out{suffix}", second}),
        )
        for suffix, second in ((".npy", "out.npy.json"), (".parquet", "out.unreadable.jsonl"))
    ]
    shards = {"old", "new", "expected_old", "expected_new", "out"}
    return [
        *embeds,
        Job("shards", prepare_shards, run_shards, shards_kept, check_shards, frozenset(shards)),
        Job("convert", prepare_convert, run_convert, convert_kept, check_convert, frozenset({"model", "out"})),
        Job(
            "models --fetch",
            lambda directory: None,
            functools.partial(run_fetch, address),
            fetch_kept,
            check_fetch,
            frozenset({"weights"}),
        ),
        Job(
            "checkpoint of train",
            functools.partial(write_checkpoint, 1),
            functools.partial(write_checkpoint, 2),
            functools.partial(check_checkpoint, (1, 2)),
            functools.partial(check_checkpoint, (2,)),
            frozenset({"checkpoint.pt"}),
        ),
    ]
