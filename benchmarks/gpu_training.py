"""The training step on a GPU: pairs/s and model FLOPs utilisation (MFU), next to open_clip's step in the same run.

Both sides have the same initial weights and batches, and their steps alternate. The step is that of
`benchmarks.train_step`: forward, loss, backward and AdamW, with autocast for bfloat16. A batch that does not fit into
the device's memory is halved for both sides.

MFU = FLOPs of one forward and backward pass / (seconds per step x peak rate of the device for the dtype). FLOPs are
counted by `torch.utils.flop_counter` for each side separately: our text tower computes no padding, so that it needs
fewer FLOPs for the same captions. Under torch.compile it computes the padding too, which is not counted.
"""

import statistics
import time
from typing import Any

import torch
from benchmarks.gpu_device import Results, compile_backend, device_type, free_memory, peak_flops, synchronise
from benchmarks.inference_sides import prompts
from benchmarks.train_step import SMALL, Batch, open_clip_model, our_step, peer_step
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wordsight.model import PUBLISHED, ModelConfig, build
from wordsight.text import tokenize

NUM_BATCHES = 2
STEPS, REHEARSAL_STEPS = 14, 3
WARM_UP_SHARE = 0.3
PAIRS_IN_COUNT = 32  # FLOPs are counted on parts of a batch, with attention computed in plain matrix products
VARIANTS = (
    # architecture, dtype, whether compiled, pairs in a batch to begin with; the most informative first
    ("ViT-B-32", "bfloat16", False, 1024),
    ("ViT-B-32", "float32", False, 1024),
    ("ViT-B-16", "bfloat16", False, 512),
    ("ViT-B-16", "float32", False, 256),
    ("ViT-B-32", "bfloat16", True, 1024),
    ("ViT-B-16", "bfloat16", True, 512),
    ("ViT-B-32", "float32", True, 1024),
    ("ViT-B-16", "float32", True, 256),
)
REHEARSAL = (("small", "float32", False, 4), ("small", "bfloat16", False, 4), ("small", "float32", True, 4))


def random_batches(config: ModelConfig, size: int, device: str) -> list[Batch]:
    """Random pixels, and captions of 8 to 19 tokens, which is about the length of real captions."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.from_numpy(tokenize(prompts(NUM_BATCHES * size, range(8, 20)))).long()
    side = config.image.image_size_px
    return [
        (torch.randn(size, 3, side, side, generator=generator).to(device), part.to(device)) for part in ids.split(size)
    ]


def count_flops(model: nn.Module, batch: Batch) -> int:
    """The FLOPs of forward and backward passes of both towers for a batch; the loss is negligible."""
    total = 0
    for pixels, ids in zip(*(tensor.split(PAIRS_IN_COUNT) for tensor in batch), strict=True):
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            (model.encode_image(pixels).sum() + model.encode_text(ids).sum()).backward()
        total += counter.get_total_flops()
        model.zero_grad(set_to_none=True)
    return total


def measure_step(config: ModelConfig, size: int, dtype: str, compiled: bool, steps: int) -> dict[str, Any]:
    """Measure one variant; the batch is halved until it fits."""
    while True:
        try:
            return _measure_step(config, size, dtype, compiled, steps)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
        free_memory()  # outside the handler, whose traceback keeps tensors alive


def _measure_step(config: ModelConfig, size: int, dtype: str, compiled: bool, steps: int) -> dict[str, Any]:
    device = device_type()
    model = build(config, torch.Generator().manual_seed(0)).to(device)
    peer = open_clip_model(model)
    peer.to(device)
    data = random_batches(config, size, device)
    flops = {"ours": count_flops(model, data[0]), "peer": count_flops(peer, data[0])}
    autocast = None if dtype == "float32" else getattr(torch, dtype)
    backend = compile_backend() if compiled else None
    sides = {"ours": our_step(model, autocast, backend), "peer": peer_step(peer, autocast, backend)}
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    difference, begin_all = 0.0, time.perf_counter()
    for number in range(steps):
        losses = {}
        for name in sorted(sides, reverse=bool(number % 2)):
            synchronise()
            begin = time.perf_counter()
            losses[name] = sides[name](*data[number % NUM_BATCHES])
            synchronise()
            seconds[name].append(time.perf_counter() - begin)
        difference = max(difference, abs(losses["ours"] - losses["peer"]))
    peak = peak_flops(dtype)
    result: dict[str, Any] = {"batch_size": size, "largest_loss_difference": difference}
    for name in sides:
        median = statistics.median(seconds[name][int(WARM_UP_SHARE * steps) :])
        result[name] = {
            "pairs_per_s": size / median,
            "seconds_per_step": median,
            "first_step_s": seconds[name][0],
            "flops_per_pair": flops[name] / size,
            "mfu": None if peak is None else flops[name] / (median * peak),
        }
    result["ratio"] = result["ours"]["pairs_per_s"] / result["peer"]["pairs_per_s"]
    result["total_s"] = time.perf_counter() - begin_all
    if torch.cuda.is_available():
        result["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return result


def run(results: Results, rehearsal: bool, deadline: float) -> None:
    """Measure all variants; those that would begin after `deadline` (by `time.monotonic`) are recorded as skipped."""
    for name, dtype, compiled, size in REHEARSAL if rehearsal else VARIANTS:
        title = f"{name}, {dtype}, {'compiled' if compiled else 'eager'}"
        config = SMALL if rehearsal else PUBLISHED[name]
        if time.monotonic() > deadline:
            results.record(title, {"skipped": "no time left"})
            continue
        steps = REHEARSAL_STEPS if rehearsal else STEPS
        results.measure(title, measure_step, config, size, dtype, compiled, steps)
        torch._dynamo.reset()
        free_memory()
