"""`wordsight embed` end to end on a GPU: images/s, and the share of the time that the device waits for decoding."""

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.gpu_device import Results, synchronise
from benchmarks.inference_sides import random_clip, untrained_clip
from benchmarks.train_step import SMALL
from PIL import Image

from wordsight.cli import main as wordsight
from wordsight.encoder.torch_runtime import TorchRuntime
from wordsight.image import load_pixels
from wordsight.parallel import available_cpus, ordered_map

NUM_FILES, REHEARSAL_NUM_FILES = 5000, 60
SIZE = (500, 375)


def jpeg_file(seed: int) -> bytes:
    """A JPEG file of 500x375 pixels: large smooth areas with some noise, about as large as a photograph's file."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC)).astype(np.int16)
    noise = generator.integers(-12, 13, pixels.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


@contextmanager
def timed_encoding() -> Iterator[list[float]]:
    """Collect the seconds of each call of `TorchRuntime.encode_pixels`."""
    seconds: list[float] = []
    encode_pixels = TorchRuntime.encode_pixels

    def timed(self: TorchRuntime, pixels: Any) -> Any:
        begin = time.perf_counter()
        embeddings = encode_pixels(self, pixels)
        synchronise()
        seconds.append(time.perf_counter() - begin)
        return embeddings

    with mock.patch.object(TorchRuntime, "encode_pixels", timed):
        yield seconds


def measure_embed(images: Path, model: Path, out: Path, runtime: str) -> dict[str, float]:
    """Run the command in this process, with torch imported and the device initialised before."""
    num_files = len(list(images.iterdir()))
    arguments = ["embed", str(images), "--model", str(model), "--out", str(out), "--runtime", runtime, "--json"]
    with timed_encoding() as seconds:
        begin = time.perf_counter()
        code = wordsight(arguments)
        total = time.perf_counter() - begin
    if code:
        raise RuntimeError(f"wordsight {' '.join(arguments)} exited with {code}")
    return {
        "num_files": num_files,
        "images_per_s": num_files / total,
        "seconds": total,
        "encoding_s": sum(seconds),
        "share_waiting_for_decoding": 1 - sum(seconds) / total,
    }


def measure_decoding(images: Path, clip: Any) -> dict[str, float]:
    """The rate of reading, decoding and resizing alone, with one thread per CPU."""
    files = sorted(images.iterdir())
    begin = time.perf_counter()
    for _ in ordered_map(lambda path: load_pixels(path, clip.card.preprocessing), files, ahead=256):
        pass
    return {"images_per_s": len(files) / (time.perf_counter() - begin), "threads": available_cpus()}


def run(results: Results, rehearsal: bool, deadline: float) -> None:
    """Write the files and the model, and run the command in float32 and half precision."""
    num_files = REHEARSAL_NUM_FILES if rehearsal else NUM_FILES
    with TemporaryDirectory() as directory:
        images, model = Path(directory) / "images", Path(directory) / "model"
        images.mkdir()
        for number, content in enumerate(ordered_map(jpeg_file, range(num_files), ahead=64)):
            (images / f"{number:05d}.jpg").write_bytes(content)
        clip = untrained_clip(SMALL, "small") if rehearsal else random_clip("ViT-B-32")
        clip.save(model)
        torch.zeros(1, device="cuda" if torch.cuda.is_available() else "cpu")
        results.measure("decoding alone", measure_decoding, images, clip)
        for runtime, name in (("torch", "one.parquet"), ("half", "two.parquet"), ("half", "three.npy")):
            out = Path(directory) / name
            title = f"embed, {runtime}, {out.suffix}"
            if time.monotonic() > deadline:
                results.record(title, {"skipped": "no time left"})
                continue
            results.measure(title, measure_embed, images, model, out, runtime)
