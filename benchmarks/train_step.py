"""One training step (forward, loss, backward, AdamW) compared with open_clip's classes, in pairs/s.

    python -m benchmarks.train_step [--quick] [--steps N] [--json FILE]

Both sides have the same initial weights, batches and two threads, and their steps alternate; a rate is computed from
the median time of a step. The peer is open_clip's CLIP and ClipLoss with the optimiser and the step of its trainer, in
float32. Pairs are photographs and captions of flickr8k-train. The losses of the two sides are compared at every step.
`--quick` takes 4 steps instead of 20.
"""

import io
import json
import statistics
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import torch
from benchmarks.table import Row, finish, parser
from PIL import Image
from tests.parity.peers import open_clip
from torch import Tensor, nn

from wordsight.image import CLIP_MEAN, CLIP_STD
from wordsight.loss import softmax_loss
from wordsight.model import CLIP, PUBLISHED, ModelConfig, TextConfig, VisionTransformerConfig, build, to_float
from wordsight.text import tokenize
from wordsight.training.optimizer import build_optimizer
from wordsight.training.recipe import OptimizerConfig

OPTIMIZER = OptimizerConfig(learning_rate=1e-4)
SMALL = ModelConfig(
    image=VisionTransformerConfig(image_size_px=96, patch_size_px=16, width=256, layers=6, heads=4),
    text=TextConfig(width=256, heads=4, layers=6),
    embed_dim=256,
)
STEPS = 20
QUICK_STEPS = 4
TARGET_RATIO = 2.5
TARGET_DIFFERENCE = 1e-4

Batch = tuple[Tensor, Tensor]
Step = Callable[[Tensor, Tensor], float]


def pairs(archive_path: Path, size_px: int, max_tokens: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images (H, W, 3) of the archive with the ids (77,) of their first caption of at most `max_tokens` tokens."""
    with tarfile.open(archive_path) as archive:
        for line in archive.extractfile("flickr8k-train/captions.jsonl"):
            row = json.loads(line)
            short = [ids for ids in tokenize(row["captions"]) if (ids != 0).sum() <= max_tokens]
            if short:
                content = archive.extractfile(f"flickr8k-train/{row['file']}").read()
                image = (
                    Image.open(io.BytesIO(content)).convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC)
                )
                yield np.asarray(image), short[0]


def batches(archive_path: Path, count: int, size: int, size_px: int, max_tokens: int = 77) -> list[Batch]:
    """Batches of float32 pixels (size, 3, H, W) and ids (size, 77)."""
    source = pairs(archive_path, size_px, max_tokens)
    result = []
    for _ in range(count):
        images, ids = zip(*(next(source) for _ in range(size)), strict=True)
        pixels = to_float(torch.from_numpy(np.stack(images)), CLIP_MEAN, CLIP_STD).contiguous()
        result.append((pixels, torch.from_numpy(np.stack(ids)).long()))
    return result


def autocast(pixels: Tensor, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """Autocast to `dtype` on the device of the pixels; None computes in float32."""
    return nullcontext() if dtype is None else torch.autocast(pixels.device.type, dtype)


def our_step(model: CLIP, dtype: torch.dtype | None = None, backend: str | None = None) -> Step:
    """Our training step; as in `wordsight.training`, autocast covers the towers and the loss is float32.

    Args:
        dtype: of the towers' products; None for float32.
        backend: of torch.compile; None does not compile.
    """
    optimizer = build_optimizer(model, OPTIMIZER)
    forward = torch.compile(model, backend=backend) if backend else model

    def step(pixels: Tensor, ids: Tensor) -> float:
        optimizer.zero_grad(set_to_none=True)
        with autocast(pixels, dtype):
            image_NE, text_NE, scale = forward(pixels, ids)
        loss = softmax_loss(image_NE.float(), text_NE.float(), scale)
        loss.backward()
        optimizer.step()
        model.bound_scale_()
        return loss.item()

    return step


def open_clip_model(model: CLIP) -> nn.Module:
    """open_clip's model with the same weights."""
    image, text = model.config.image, model.config.text
    peer = open_clip().CLIP(
        model.config.embed_dim,
        {
            "image_size": image.image_size_px,
            "patch_size": image.patch_size_px,
            "width": image.width,
            "layers": image.layers,
            "head_width": image.width // image.heads,
        },
        {"width": text.width, "heads": text.heads, "layers": text.layers},
        quick_gelu=True,
        output_dict=True,
    )
    peer.load_state_dict(model.state_dict())
    return peer


def peer_step(model: nn.Module, dtype: torch.dtype | None = None, backend: str | None = None) -> Step:
    """The training step of open_clip's trainer, where autocast covers the towers and the loss.

    Source: `open_clip_train.main` and `open_clip_train.train`, version 3.3.0.
    """
    without_decay = ("bn", "ln", "bias", "logit_scale")
    named = list(model.named_parameters())
    excluded = [tensor for name, tensor in named if tensor.ndim < 2 or any(part in name for part in without_decay)]
    rest = [tensor for name, tensor in named if not (tensor.ndim < 2 or any(part in name for part in without_decay))]
    optimizer = torch.optim.AdamW(
        [{"params": excluded, "weight_decay": 0.0}, {"params": rest, "weight_decay": OPTIMIZER.weight_decay}],
        lr=OPTIMIZER.learning_rate,
        betas=(OPTIMIZER.beta1, OPTIMIZER.beta2),
        eps=OPTIMIZER.epsilon,
    )
    compute_loss = open_clip().ClipLoss()
    forward = torch.compile(model, backend=backend) if backend else model

    def step(pixels: Tensor, ids: Tensor) -> float:
        optimizer.zero_grad()
        with autocast(pixels, dtype):
            losses = compute_loss(**forward(pixels, ids), output_dict=True)
            loss = sum(losses.values())
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, np.log(100))
        return loss.item()

    return step


def race(config: ModelConfig, data: list[Batch], steps: int) -> tuple[float, float, float]:
    """Alternate steps; return the pairs/s of ours and of the peer, and the largest difference of their losses."""
    model = build(config, torch.Generator().manual_seed(0))
    sides = (our_step(model), peer_step(open_clip_model(model)))
    seconds: tuple[list[float], list[float]] = ([], [])
    difference = 0.0
    for number in range(steps):
        losses = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            begin = time.perf_counter()
            losses[side] = sides[side](*data[number % len(data)])
            seconds[side].append(time.perf_counter() - begin)
        difference = max(difference, abs(losses[0] - losses[1]))
    ours, peer = (len(data[0][1]) / statistics.median(times) for times in seconds)
    return ours, peer, difference


def main() -> None:
    """Measure and print the table."""
    command = parser(__doc__, needs_data=True)
    command.add_argument("--steps", type=int, metavar="N", help=f"steps of the row with a target (default {STEPS})")
    options = command.parse_args()
    steps = options.steps or (QUICK_STEPS if options.quick else STEPS)
    torch.set_num_threads(2)
    archive_path = options.data / "flickr8k-train.tar"
    name = "6 layers, width 256, 96 px, 256 pairs"
    ours, peer, difference = race(SMALL, batches(archive_path, 4, 256, 96, max_tokens=16), steps)
    few = max(2, steps // 4)
    whole = race(SMALL, batches(archive_path, 2, 256, 96), few)
    large = race(PUBLISHED["ViT-B-32"], batches(archive_path, 1, 16, 224), few)
    finish(
        [
            Row.compare(f"{name}, captions of at most 16 tokens (pairs/s)", ours, peer, TARGET_RATIO),
            Row.at_most(f"the same, largest difference of {steps} losses", difference, TARGET_DIFFERENCE),
            Row.compare(f"{name}, captions of any length (pairs/s)", *whole[:2]),
            Row.compare("ViT-B/32 at 224 px, 16 pairs, captions of any length (pairs/s)", *large[:2]),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
