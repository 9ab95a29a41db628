"""Digests of everything numeric that a change of names or layout must leave alone, bit for bit.

Run it on two commits with the same files and compare the outputs:

    python -m benchmarks.identity make DIR      # once: models, images and captions to compare with
    python -m benchmarks.identity digest DIR    # on each commit: one line per digest
    python -m benchmarks.identity digest DIR --train    # the demo's training too, three minutes

Only the public API and the command line are used, so that the script runs on commits with other module names.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import wordsight as ws

SEED = 20210226
FORMATS = {"openai": "vit", "open_clip": "resnet", "hf": "vit-narrow-heads"}
CAPTION_WORDS = [
    *("a", "the", "two", "dogs", "dog", "cat", "running", "over", "wet", "sand", "photo", "of", "man's", "red,"),
    *("(blue)", "42", "été", "狗", "don't", "jumping!"),
]


def run(*arguments: str) -> None:
    """Run the command line of the commit that is imported."""
    subprocess.run([sys.executable, "-m", "wordsight", *arguments], check=True, stdout=subprocess.DEVNULL)


def make(directory: Path) -> None:
    """Write random models in three formats, images in three file formats, and 1,000 captions."""
    from wordsight.image import Preprocessing
    from wordsight.model import ModelConfig, ModifiedResNetConfig, TextConfig, VisionTransformerConfig, build
    from wordsight.text import TokenizerConfig
    from wordsight.weights import Card

    text = TextConfig(width=64, heads=1, layers=2, context_length=16)
    vit = VisionTransformerConfig(image_size_px=32, patch_size_px=16, width=64, layers=2, heads=1)
    narrow = VisionTransformerConfig(image_size_px=32, patch_size_px=16, width=64, layers=2, heads=2, activation="gelu")
    gelu_text = TextConfig(width=64, heads=4, layers=2, context_length=16, activation="gelu")
    resnet = ModifiedResNetConfig(image_size_px=64, layers=(1, 1, 1, 1), width=8)
    models = {
        "vit": ModelConfig(image=vit, text=text, embed_dim=32),
        "resnet": ModelConfig(image=resnet, text=text, embed_dim=32),
        "vit-narrow-heads": ModelConfig(image=narrow, text=gelu_text, embed_dim=32),
    }
    for number, (target, name) in enumerate(FORMATS.items()):
        config = models[name]
        card = Card(
            name=name,
            model=config,
            preprocessing=Preprocessing(size_px=config.image.image_size_px),
            tokenizer=TokenizerConfig(context_length=16),
        )
        model = build(config, torch.Generator().manual_seed(SEED + number)).eval()
        saved = directory / "models" / f"wordsight-{name}"
        ws.DualEncoder(model, card).save(saved)
        run("convert", str(saved), str(directory / "models" / target), "--to", target)
    generator = np.random.default_rng(SEED)
    images = directory / "images"
    images.mkdir()
    for number in range(24):
        height, width = generator.integers(20, 200, 2)
        coarse = generator.integers(0, 256, (5, 7, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        suffix = ("png", "jpg", "webp")[number % 3]
        buffer = io.BytesIO()
        image.save(buffer, {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[suffix])
        (images / f"{number:03d}.{suffix}").write_bytes(buffer.getvalue())
    captions = [" ".join(generator.choice(CAPTION_WORDS, generator.integers(1, 30))) for _ in range(1000)]
    (directory / "captions.json").write_text(json.dumps(captions))
    run("demo", "--out", str(directory / "demo"))


def sha256(array: np.ndarray) -> str:
    """Digest of an array's type, shape and bytes."""
    return hashlib.sha256(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def graph_digest(path: Path) -> str:
    """Digest of an ONNX graph without the metadata in which torch's exporter names the modules that it came from."""
    import onnx

    model = onnx.load(path)
    for part in [*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph]:
        del part.metadata_props[:]
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()


def digests(directory: Path, train: bool) -> Iterator[tuple[str, str]]:
    """Pairs of a name and a digest."""
    captions: list[str] = json.loads((directory / "captions.json").read_text())
    yield "tokens of 1,000 captions", sha256(ws.tokenize(captions))
    images = sorted((directory / "images").iterdir())
    models = {name: directory / "models" / name for name in FORMATS} | {"demo": directory / "demo" / "run"}
    for name, path in models.items():
        for runtime in ("torch", "onnx") if name == "demo" else ("torch", "onnx", "int8"):
            if runtime == "int8" and name == "open_clip":
                continue  # a ResNet, for which there is no int8
            clip = ws.load(path, device="cpu", runtime=runtime)
            yield f"{name}, {runtime}: images", sha256(clip.embed_images(images))
            yield f"{name}, {runtime}: texts", sha256(clip.embed_texts(captions))
            yield (
                f"{name}, {runtime}: logits",
                sha256(clip.logits(clip.embed_images(images), clip.embed_texts(captions))),
            )
    for name in FORMATS:
        with tempfile.TemporaryDirectory() as out:
            run("convert", str(models[name]), f"{out}/onnx", "--to", "onnx")
            for graph in sorted(Path(out, "onnx").glob("*.onnx")):
                yield f"{name}: {graph.name} without metadata", graph_digest(graph)
            clip = ws.load(f"{out}/onnx")
            yield f"{name}, exported: images", sha256(clip.embed_images(images))
    if train:
        with tempfile.TemporaryDirectory() as out:
            run("demo", "--out", f"{out}/demo")
            weights = Path(out, "demo", "run", "best", "model.safetensors")
            yield "demo's final weights", hashlib.sha256(weights.read_bytes()).hexdigest()
            run("classify", f"{out}/demo/images", "--labels", "dog,house", "--model", f"{out}/demo/run", "--json")


def main() -> None:
    """Make the files or print the digests."""
    command = argparse.ArgumentParser(description=__doc__)
    command.add_argument("action", choices=["make", "digest"])
    command.add_argument("directory", type=Path)
    command.add_argument("--train", action="store_true", help="train the demo's model again, three minutes")
    options = command.parse_args()
    torch.set_num_threads(2)
    if options.action == "make":
        make(options.directory)
        return
    for name, digest in digests(options.directory, options.train):
        print(f"{digest}  {name}", flush=True)


if __name__ == "__main__":
    main()
