"""Encoding on a GPU: images/s and texts/s by precision and batch size, and parity with the CPU.

The sweeps over batch sizes are the source of the defaults in `wordsight.encoder.batch_sizes`: `best` is the smallest
size whose rate is within 3 % of the highest. Rates of images include the copy of uint8 pixels to the device and of the
embeddings back; rates of texts include arranging them in prefix trees, but not tokenization.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from benchmarks.gpu_device import Results, compile_backend, device_type, free_memory, median_seconds
from benchmarks.inference_sides import labels, prompts, random_clip, untrained_clip
from benchmarks.train_step import SMALL

import wordsight as ws
from wordsight.encoder import prefix_tree
from wordsight.text import tokenize

CLOSE_TO_BEST = 0.97
IMAGE_SIZES = (1, 16, 64, 128, 256, 512, 1024, 2048)
TEXT_COUNTS = (1, 64, 256, 1024, 4096, 16384)
NODE_COUNTS = (2048, 4096, 8192, 16384, 32768, 65536)
TEMPLATES = ("a photo of a {}.", "a blurry photo of a {}.", "a drawing of a {}.", "itap of my {}.", "a {} in a game.")


def make_clip(name: str, runtime: str, rehearsal: bool) -> ws.DualEncoder:
    """A model with random weights on the device; `half` converts it to float16."""
    clip = untrained_clip(SMALL, "small") if rehearsal else random_clip(name)
    clip.model.to(device_type())
    if runtime == "half":
        clip.model.half()
    return clip


def sweep(sizes: Sequence[int], seconds: Callable[[int], float]) -> dict[str, Any]:
    """Measure `seconds(size)` for each size, until the device's memory is full."""
    rates = {}
    for size in sizes:
        try:
            rates[size] = size / seconds(size)
        except torch.OutOfMemoryError:
            break
        finally:
            free_memory()
    highest = max(rates.values())
    best = min(size for size, rate in rates.items() if rate >= CLOSE_TO_BEST * highest)
    return {"best": best, "best_rate": rates[best], "rates": rates}


def image_sweep(clip: ws.DualEncoder, sizes: Sequence[int]) -> dict[str, Any]:
    """Images/s of `encode_pixels` by batch size."""
    side = clip.card.preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (max(sizes), side, side, 3), dtype=np.uint8)
    return sweep(sizes, lambda size: median_seconds(lambda: clip.runtime.encode_pixels(pixels[:size]), 5))


def text_sweep(clip: ws.DualEncoder, sizes: Sequence[int]) -> dict[str, Any]:
    """Texts/s of `encode_ids` by number of distinct texts of 8 to 19 tokens."""
    ids = tokenize(prompts(max(sizes), range(8, 20)))
    return sweep(sizes, lambda size: median_seconds(lambda: clip.runtime.encode_ids(ids[:size]), 3))


def node_sweep(clip: ws.DualEncoder, counts: Sequence[int], num_labels: int) -> dict[str, Any]:
    """Texts/s by the number of prefix tree nodes that are computed together, for prompts of a zero-shot classifier."""
    texts = [template.format(label) for template, label in itertools.product(TEMPLATES, labels(num_labels))]
    ids = tokenize(texts)
    defaults = prefix_tree.batch_sizes(device_type())

    def seconds(count: int) -> float:
        with mock.patch.object(prefix_tree, "batch_sizes", return_value=defaults._replace(nodes=count)):
            return median_seconds(lambda: clip.runtime.encode_ids(ids), 2, warm_up=1) * count / len(ids)

    return sweep(counts, seconds) | {"unit": "texts/s", "num_texts": len(ids)}


def compiled_rates(clip: ws.DualEncoder, num_images: int, num_texts: int) -> dict[str, float]:
    """Images/s and texts/s of the towers under torch.compile, with inputs on the device, next to the eager towers.

    A compiled text tower computes the whole context of every text.
    """
    model = clip.model.eval()
    first = next(model.parameters())
    side = clip.card.preprocessing.size_px
    pixels = torch.randn(num_images, 3, side, side, device=first.device, dtype=first.dtype)
    ids = torch.from_numpy(tokenize(prompts(num_texts, range(8, 20)))).long().to(first.device)
    rates = {}
    with torch.inference_mode():
        for name, function, inputs in (("images", model.encode_image, pixels), ("texts", model.encode_text, ids)):
            compiled = torch.compile(function, backend=compile_backend())
            rates[f"{name}, eager"] = len(inputs) / median_seconds(partial(function, inputs), 5)
            begin = time.perf_counter()
            compiled(inputs)
            rates[f"{name}, seconds to compile"] = time.perf_counter() - begin
            rates[f"{name}, compiled"] = len(inputs) / median_seconds(partial(compiled, inputs), 5)
    torch._dynamo.reset()
    return rates


def parity(name: str, runtime: str, rehearsal: bool, tf32: bool = True) -> dict[str, float]:
    """Compare unit embeddings of the device with those of the CPU in float32.

    Args:
        name: a published architecture.
        runtime: `torch` (float32) or `half`.
        rehearsal: compare a small model on the CPU with itself.
        tf32: torch's default for convolutions; False computes them in float32.
    """
    count = 4 if rehearsal else 16
    exact = untrained_clip(SMALL, "small") if rehearsal else random_clip(name)
    side = exact.card.preprocessing.size_px
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    ids = tokenize(prompts(count, range(4, 40)))
    expected = {"images": exact.runtime.encode_pixels(pixels), "texts": exact.runtime.encode_ids(ids)}
    clip = make_clip(name, runtime, rehearsal)
    default = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = tf32
    try:
        embeddings = {"images": clip.runtime.encode_pixels(pixels), "texts": clip.runtime.encode_ids(ids)}
    finally:
        torch.backends.cudnn.allow_tf32 = default
    result = {}
    for kind, values in embeddings.items():
        result[f"{kind}, largest difference"] = float(np.abs(values - expected[kind]).max())
        result[f"{kind}, smallest cosine"] = float((values.astype(np.float64) * expected[kind]).sum(axis=1).min())
    return result


def run_encoding(results: Results, rehearsal: bool, deadline: float) -> None:
    """Measure encoding rates and the sweeps over batch sizes."""
    image_sizes, text_counts = (IMAGE_SIZES[:2], TEXT_COUNTS[:2]) if rehearsal else (IMAGE_SIZES, TEXT_COUNTS)
    node_counts = NODE_COUNTS[:1] if rehearsal else NODE_COUNTS
    num_images, num_texts, num_labels = (4, 8, 20) if rehearsal else (512, 1024, 1000)
    for name in ("small",) if rehearsal else ("ViT-B-32", "ViT-B-16", "RN50"):
        for runtime in ("torch", "half"):
            title = f"{name}, {'float16' if runtime == 'half' else 'float32'}"
            if time.monotonic() > deadline:
                results.record(title, {"skipped": "no time left"})
                continue
            clip = make_clip(name, runtime, rehearsal)
            results.measure(f"{title}: images/s by batch size", image_sweep, clip, image_sizes)
            if name in ("small", "ViT-B-32"):  # the text towers of the three are about the same
                results.measure(f"{title}: texts/s by number of texts", text_sweep, clip, text_counts)
                results.measure(f"{title}: texts/s by number of nodes", node_sweep, clip, node_counts, num_labels)
            if name != "RN50" and not (rehearsal and runtime == "half"):
                results.measure(f"{title}: torch.compile", compiled_rates, clip, num_images, num_texts)
            del clip
            free_memory()


def run_parity(results: Results, rehearsal: bool, deadline: float) -> None:
    """Measure the differences between the device and the CPU."""
    precisions = (("float32, TF32 convolutions", "torch", True), ("float32", "torch", False), ("float16", "half", True))
    for name in ("small",) if rehearsal else ("ViT-B-32", "RN50", "ViT-B-16"):
        for precision, runtime, tf32 in precisions:
            title = f"{name}, {precision}"
            if time.monotonic() > deadline:
                results.record(title, {"skipped": "no time left"})
                continue
            results.measure(title, parity, name, runtime, rehearsal, tf32)
            free_memory()
