"""Write the golden files: one example of every file format that later versions must keep reading.

    python -m tests.golden.make [DIRECTORY]

The version that introduces a format writes the files once, and they are committed; they are not rewritten by later
versions, which must read them. `test_golden.py` does so with the current code. Everything is small, less than 1 MB in
all: a vision transformer of width 16, and a vocabulary of a few dozen words in a tokenizer.json.

    images/          six image files
    model/           a model directory: weights, card and tokenizer.json
    shards/pairs/    a directory of shards with manifest and index; the index is valid for SHARD_MTIME_NS
    recipe.toml      the recipe of the run
    run/             a run of 3 steps, interrupted after step 2: checkpoint.pt, best/, last/, metrics.jsonl, recipe.toml
    embeddings.*     the embeddings of images/ as Parquet, and as .npy with its sidecar
    cache/           a cache directory with one classifier
    expected.json    the content of the shards, and numbers that the model computes

Two runs of this script on one machine write equal files.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import signal
import tempfile
from contextlib import chdir, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    import wordsight as ws

DIRECTORY = Path(__file__).parent / "files"
MAX_BYTES = 1_000_000
SHARD_MTIME_NS = 1_700_000_000_000_000_000
NUM_IMAGES, NUM_PAIRS = 6, 16
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220), "yellow": (230, 220, 40)}
POSITIONS = {"top": (0, 0), "bottom": (12, 0), "left": (6, 0), "right": (6, 12)}
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[BEGIN]", "[END]")
WORDS = (
    *COLOURS,
    *POSITIONS,
    *("a", "an", "the", "of", "at", "in", "on", "to", "with", "photo", "picture", "image", "drawing", "square"),
    *("kind", "small", "large", "clean", "bad", "good", "bright", "dark", "number", "my", "itap"),
    *(str(number) for number in range(20)),
)
CONTEXT_LENGTH = 12
CLASS_NAMES = tuple(f"kind {number}" for number in range(13))
"""With the 80 templates of `imagenet` 1,040 texts, which are enough for the classifier to be cached."""

RECIPE = """\
batch_size = 8
ema_decay = 0.9
checkpoint_every_steps = 2
model = "vit-small"

[about]
title = "golden"

[schedule]
steps = 3
warmup_steps = 1

[optimizer]
learning_rate = 1e-3

[loss]
caption_token_weight = 0.5

[validation]
every_steps = 2
selection_metric = "image_to_text_recall@10"

[[validation.retrieval]]
shards = "pairs"

[[sources]]
shards = "pairs"
"""
"""The model and its tokenizer come from `model/`, from which the run starts."""


def image_file(number: int, file_format: str = "PNG") -> bytes:
    """An image of 24x24 pixels: a coloured square on noise."""
    pixels = np.random.default_rng(number).integers(0, 60, (24, 24, 3), dtype=np.uint8)
    top, left = list(POSITIONS.values())[number // 4 % 4]
    pixels[top : top + 12, left : left + 12] = list(COLOURS.values())[number % 4]
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format)
    return buffer.getvalue()


def captions(number: int) -> list[str]:
    """Two captions of an image."""
    colour, position = list(COLOURS)[number % 4], list(POSITIONS)[number // 4 % 4]
    return [f"a {colour} square at the {position}", f"a photo of the number {number}"]


def tokenizer_file() -> bytes:
    """A tokenizer.json with a vocabulary of whole words, in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    vocabulary = {word: id for id, word in enumerate((*SPECIAL_TOKENS, *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer.to_str().encode()


def build_encoder(seed: int = 0) -> "ws.DualEncoder":
    """A model with random weights and the small vocabulary."""
    import torch

    import wordsight as ws
    from wordsight.image import Preprocessing
    from wordsight.model import ModelConfig, TextConfig, VisionTransformerConfig, build
    from wordsight.text import TokenizerConfig
    from wordsight.weights import Card

    begin_id, end_id = (SPECIAL_TOKENS.index(token) for token in ("[BEGIN]", "[END]"))
    text = TextConfig(
        width=16,
        heads=2,
        layers=2,
        context_length=CONTEXT_LENGTH,
        vocabulary_size=len(SPECIAL_TOKENS) + len(WORDS),
        end_id=end_id,
    )
    image = VisionTransformerConfig(image_size_px=16, patch_size_px=8, width=16, layers=2, heads=2)
    content = tokenizer_file()
    tokenizer = TokenizerConfig(
        family="tokenizers",
        context_length=CONTEXT_LENGTH,
        begin_id=begin_id,
        end_id=end_id,
        file="tokenizer.json",
        file_sha256=hashlib.sha256(content).hexdigest(),
    )
    card = Card(
        name="golden",
        model=ModelConfig(image=image, text=text, embed_dim=16),
        preprocessing=Preprocessing(size_px=16),
        tokenizer=tokenizer,
        source="tests/golden/make.py",
        licence="MIT",
    )
    model = build(card.model, torch.Generator().manual_seed(seed)).eval()
    return ws.DualEncoder(model, card, files={"tokenizer.json": content})


def write_pairs(directory: Path) -> None:
    """Write images with captions as a directory that `wordsight shards` packs."""
    directory.mkdir(parents=True)
    rows = []
    for number in range(NUM_PAIRS):
        name = f"{number:03d}.png"
        (directory / name).write_bytes(image_file(number))
        rows.append({"file": name, "captions": captions(number)})
    (directory / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_command(*arguments: str) -> None:
    """Run `wordsight` in this process."""
    from wordsight.cli import main as wordsight

    code = wordsight([*arguments])
    if code:
        raise RuntimeError(f"wordsight {' '.join(arguments)} exited with {code}")


def write_shards(directory: Path) -> None:
    """Pack the pairs, and index the shards with the modification time that `test_golden.py` restores."""
    from wordsight.data import open_shards

    with tempfile.TemporaryDirectory() as work:
        write_pairs(Path(work) / "source")
        run_command("shards", str(Path(work) / "source"), str(directory))
    for index in directory.glob("*.index"):
        index.unlink()
    for shard in directory.glob("*.tar"):
        os.utime(shard, ns=(SHARD_MTIME_NS, SHARD_MTIME_NS))
    open_shards(str(directory))
    if not list(directory.glob("*.index")):
        raise RuntimeError(f"{directory}: opening the shards wrote no index")


def interrupt(encoder: "ws.DualEncoder", steps: int) -> tuple[()]:
    """An evaluator without scores that requests the end of the run, as Ctrl-C does."""
    signal.raise_signal(signal.SIGINT)
    return ()


def write_run(directory: Path) -> None:
    """Train until the validation after step 2, which interrupts the run; then its checkpoint is saved."""
    import wordsight as ws

    with suppress(KeyboardInterrupt):
        ws.train("recipe.toml", data=["shards"], out=directory, start="model", evaluators=[interrupt], workers=1)
        raise RuntimeError(f"{directory}: the run was not interrupted")
    (directory / ".lock").unlink(missing_ok=True)
    missing = [name for name in ("checkpoint.pt", "best", "last", "metrics.jsonl") if not (directory / name).exists()]
    if missing:
        raise RuntimeError(f"{directory}: the run did not write {missing[0]}")


def expected_values(encoder: "ws.DualEncoder") -> dict[str, Any]:
    """The content of the shards, and the model's tokens and embeddings."""
    texts = [*captions(0), "An UNKNOWN word"]
    return {
        "pairs": [
            {
                "key": f"{number:03d}",
                "sha256": hashlib.sha256(image_file(number)).hexdigest(),
                "captions": captions(number),
            }
            for number in range(NUM_PAIRS)
        ],
        "texts": texts,
        "tokens": encoder.tokenize(texts).tolist(),
        "text_embeddings": encoder.embed_texts(texts).tolist(),
        "image_embeddings": encoder.embed_images(sorted(Path("images").iterdir())).tolist(),
    }


def make(directory: Path) -> None:
    """Write all files into an empty directory."""
    import torch

    import wordsight as ws

    torch.set_num_threads(1)
    directory.mkdir(parents=True)
    os.environ["WORDSIGHT_CACHE"] = str(directory.absolute() / "cache")
    with chdir(directory):  # so that the paths in the files are relative
        Path("images").mkdir()
        for number in range(NUM_IMAGES):
            suffix, file_format = (("png", "PNG"), ("jpg", "JPEG"))[number % 2]
            Path("images", f"{number}.{suffix}").write_bytes(image_file(number, file_format))
        build_encoder().save("model")
        encoder = ws.load("model", device="cpu")
        write_shards(Path("shards") / "pairs")
        Path("recipe.toml").write_text(RECIPE)
        write_run(Path("run"))
        for name in ("embeddings.parquet", "embeddings.npy"):
            run_command("embed", "images", "--model", "model", "--out", name)
        shutil.rmtree("cache", ignore_errors=True)
        _ = ws.ZeroShotClassifier(encoder, CLASS_NAMES, "imagenet").weights
        Path("expected.json").write_text(json.dumps(expected_values(encoder), indent=1) + "\n")


def main() -> None:
    """Write the files, unless the directory exists already."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, nargs="?", default=DIRECTORY, help="default: %(default)s")
    directory = parser.parse_args().directory
    if directory.exists():
        parser.error(f"{directory} exists; remove it first, or name another directory")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the files are those of a CPU
    try:
        make(directory)
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    sizes = {
        path.relative_to(directory).as_posix(): path.stat().st_size
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    for name, size in sizes.items():
        print(f"{size:9,}  {name}")
    print(f"{sum(sizes.values()):9,}  in all")
    if sum(sizes.values()) > MAX_BYTES:
        raise SystemExit(f"more than {MAX_BYTES:,} bytes")


if __name__ == "__main__":
    main()
