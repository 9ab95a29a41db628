"""Data so small that a run takes seconds: 96 images of coloured squares whose captions name colour and position."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 40, 220), "yellow": (230, 220, 40)}
POSITIONS = {"top": (0, 0), "bottom": (12, 0), "left": (6, 0), "right": (6, 12)}

RECIPE = """
batch_size = 32
ema_decay = 0.9
checkpoint_every_steps = 7
[about]
title = "squares"
[model]
embed_dim = 16
[model.image]
kind = "residual"
image_size_px = 16
widths = [8, 16]
blocks = [1, 1]
[model.text]
width = 16
heads = 2
layers = 1
context_length = 16
[schedule]
steps = 20
warmup_steps = 2
[optimizer]
learning_rate = 1e-2
[loss]
mask_equal_texts = true
caption_token_weight = 0.5
[validation]
every_steps = 10
selection_metric = "image_to_text_recall@10"
[[sources]]
shards = "squares"
[[validation.retrieval]]
shards = "squares"
[[validation.labels]]
shards = "labels"
templates = ["a {} square at the top", "a {} square at the left"]
"""


def image(colour: str, position: str, noise: np.random.Generator) -> bytes:
    array = noise.integers(0, 60, (24, 24, 3), dtype=np.uint8)
    top, left = POSITIONS[position]
    array[top : top + 12, left : left + 12] = COLOURS[colour]
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the shards `squares` and `labels`, and a `recipe.toml` that trains on the former."""
    root = tmp_path_factory.mktemp("world")
    noise = np.random.default_rng(1)
    pairs, labels = {}, {}
    for number in range(96):
        colour = list(COLOURS)[number % 4]
        position = list(POSITIONS)[number // 4 % 4]
        texts = [f"a {colour} square at the {position}", f"{position} {colour} square number {number}"]
        pairs[f"{number:03}.png"] = image(colour, position, noise)
        pairs[f"{number:03}.json"] = json.dumps({"captions": texts}).encode()
        labels[f"{number:03}.png"] = image(colour, position, noise)
        labels[f"{number:03}.json"] = json.dumps({"label": colour, "names": [colour]}).encode()
    write_tar(root / "squares" / "000000.tar", pairs)
    write_tar(root / "labels" / "000000.tar", labels)
    (root / "recipe.toml").write_text(RECIPE)
    return root
