"""Rows of the inference benchmark that start from image files: decoding, directories, and the command line."""

import io
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import msgspec
import numpy as np
from benchmarks.inference_sides import Side, Sides, photo_files, race, untrained_clip
from benchmarks.table import Row
from numpy.typing import NDArray
from PIL import Image

import wordsight as ws
from wordsight.image import Preprocessing, load_pixels, normalise, preprocess
from wordsight.parallel import ordered_map
from wordsight.training import load_recipe
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert


def pillow_preprocess(content: bytes, preprocessing: Preprocessing, draft: bool = False) -> NDArray[np.float32]:
    """Preprocess with Pillow as the transforms of OpenAI and open_clip do; `draft` uses Pillow's scaled decoding."""
    size_px = preprocessing.size_px
    image = Image.open(io.BytesIO(content))
    if draft:
        image.draft("RGB", (size_px, size_px))
    width, height = image.size
    shorter = min(width, height)
    size = (int(size_px * width / shorter), int(size_px * height / shorter))
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    left, top = (round((side - size_px) / 2) for side in size)
    return normalise(np.asarray(image.crop((left, top, left + size_px, top + size_px))), preprocessing)


def jpeg(sides: Sides) -> list[Row]:
    """Preprocess JPEG files into normalised tensors on one core."""
    files, exact = photo_files(sides.data, 24), sides.clip.card.preprocessing
    cropped, scaled = (msgspec.structs.replace(exact, decoding=decoding) for decoding in ("cropped", "scaled"))
    runs: dict[str, Side] = {
        "exact": lambda: [preprocess(content, exact) for content in files],
        "cropped": lambda: [preprocess(content, cropped) for content in files],
        "scaled": lambda: [preprocess(content, scaled) for content in files],
        "pillow": lambda: [pillow_preprocess(content, exact) for content in files],
        "draft": lambda: [pillow_preprocess(content, exact, draft=True) for content in files],
    }
    std = np.array(exact.std, np.float32)[:, None, None]
    differences = [np.abs(one - other) * std for one, other in zip(runs["cropped"](), runs["pillow"](), strict=True)]
    assert all((one == other).all() for one, other in zip(runs["exact"](), runs["pillow"](), strict=True))
    rates = {name: len(files) / seconds for name, seconds in race(runs, sides.rounds).items()}
    title = "JPEG 1024x768, bytes to tensor, one core (images/s)"
    return [
        Row.compare(f"{title}: exact, Pillow's path", rates["exact"], rates["pillow"]),
        Row.compare(f"{title}: cropped, Pillow's path", rates["cropped"], rates["pillow"], 1.2),
        Row.at_most("the same, largest difference (of 1)", max(float(d.max()) for d in differences), 1 / 255 + 1e-6),
        Row.compare(f"{title}: scaled decoding, Pillow's path", rates["scaled"], rates["pillow"], 2.3),
        Row.compare(f"{title}: scaled decoding, Pillow's draft", rates["scaled"], rates["draft"], 1.0),
    ]


def scaled_embeddings(sides: Sides) -> list[Row]:
    """Measure how much scaled decoding changes the embeddings of a trained model, on 1024x768 photographs."""
    if sides.trained is None:
        return []
    files, clip = photo_files(sides.data, 1000), ws.load(sides.trained)
    scaled = ws.load(sides.trained, decoding="scaled")
    cosines = (clip.embed_images(files) * scaled.embed_images(files)).sum(axis=1)
    title = "scaled decoding, 1,000 photographs, the trained model: cosine to the exact embedding"
    return [
        Row.compare(f"{title}, {name}", float(np.percentile(cosines, percentile)), 1.0)
        for name, percentile in (("minimum", 0), ("1st percentile", 1), ("median", 50))
    ]


def overlap(clip: ws.DualEncoder, files: list[Path], title: str) -> Row:
    """Compare decoding and encoding together with each of them alone, all on all cores.

    The three alternate over four parts of the files. Without any overlap the combined rate would be
    1 / (1 / decoding rate + 1 / encoding rate).
    """
    seconds = {"decode": 0.0, "encode": 0.0, "both": 0.0}
    preprocessing = clip.card.preprocessing
    for start in range(0, len(files), -(-len(files) // 4)):
        part = files[start : start + -(-len(files) // 4)]
        pixels: list[NDArray[np.uint8]] = []

        def decode(part: list[Path] = part, pixels: list[NDArray[np.uint8]] = pixels) -> None:
            pixels[:] = ordered_map(lambda path: load_pixels(path, preprocessing), part, ahead=64)

        def encode(pixels: list[NDArray[np.uint8]] = pixels) -> None:
            for first in range(0, len(pixels), 64):
                clip.runtime.encode_pixels(np.stack(pixels[first : first + 64]))

        sides: dict[str, Side] = {"decode": decode, "encode": encode, "both": lambda part=part: clip.embed_images(part)}
        for name, side in sides.items():
            begin = time.perf_counter()
            side()
            seconds[name] += time.perf_counter() - begin
    ours, sequential = len(files) / seconds["both"], len(files) / (seconds["decode"] + seconds["encode"])
    return Row.compare(f"{title} (images/s): 1/(1/decode + 1/encode)", ours, sequential, 0.95)


def directories(sides: Sides) -> list[Row]:
    """Embed a directory of large files with a large model, and one of small files with a small model."""
    large, small = sides.work / "large", sides.work / "small"
    large.mkdir(), small.mkdir()
    for number, content in enumerate(photo_files(sides.data, 500)):
        for copy in range(4):
            (large / f"{number:04d}-{copy}.jpg").write_bytes(content)
    with tarfile.open(sides.data / "tiny-imagenet-train.tar") as archive:
        members = (member for member in archive if member.isfile() and not member.name.endswith((".jsonl", ".json")))
        for number, member in enumerate(members):
            (small / f"{number:05d}.jpg").write_bytes(archive.extractfile(member).read())  # type: ignore[union-attr]
    small_files = sorted(small.iterdir())
    small_clip = untrained_clip(load_recipe("flickr8k").architecture, "small")
    return [
        overlap(sides.clip, sorted(large.iterdir()), "2,000 files of 1024x768, ViT-B/32"),
        overlap(small_clip, small_files, f"{len(small_files):,} files of 64 px, the small model"),
    ]


def processes(sides: Sides) -> list[Row]:
    """Run `wordsight classify` on one image in a fresh process, with a model of the demo's architecture."""
    clip = untrained_clip(load_recipe("demo").architecture, "demo")
    clip.save(sides.work / "demo")
    convert(Checkpoint(clip.model.state_dict(), clip.card, {}), sides.work / "demo-onnx", "onnx")
    image = sides.work / "one.jpg"
    image.write_bytes(photo_files(sides.data, 1)[0])
    command = [str(Path(sys.executable).parent / "wordsight"), "classify", str(image), "--labels", "cat,dog", "--model"]
    commands = {
        "torch": [sys.executable, "-c", "import torch"],
        "classify": [*command, str(sides.work / "demo")],
        "onnx": [*command, str(sides.work / "demo-onnx")],
    }
    runs: dict[str, Side] = {
        name: lambda command=command: subprocess.run(command, check=True, capture_output=True)
        for name, command in commands.items()
    }
    seconds = race(runs, sides.rounds)
    beyond_import = seconds["classify"] - seconds["torch"]
    return [
        Row.at_most("classify one image, fresh process: seconds beyond import torch", beyond_import, 1),
        Row.at_most("the same exported to ONNX, torch never imported: seconds", seconds["onnx"], 1.2, seconds["torch"]),
    ]
