"""Tiny models with random weights, which run in milliseconds, and images for them."""

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from wordsight.encoder import DualEncoder
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, ResidualConfig, TextConfig, VisionTransformerConfig, build
from wordsight.weights import Card, TokenizerConfig

Kind = Literal["vit", "residual"]

IMAGE_TOWERS = {
    "vit": VisionTransformerConfig(image_size_px=16, patch_size_px=8, width=16, layers=2, heads=2),
    "residual": ResidualConfig(image_size_px=16, widths=(8, 16), blocks=(1, 1)),
}


def tiny_config(kind: Kind = "vit") -> ModelConfig:
    text = TextConfig(width=16, heads=2, layers=2, context_length=12)
    return ModelConfig(image=IMAGE_TOWERS[kind], text=text, embed_dim=8)


def tiny_card(kind: Kind = "vit", **changes: Any) -> Card:
    parts = {
        "name": "tiny",
        "model": tiny_config(kind),
        "preprocessing": Preprocessing(size_px=16),
        "tokenizer": TokenizerConfig(context_length=12),
    }
    return Card(**(parts | changes))


def tiny_clip(kind: Kind = "vit", seed: int = 0) -> DualEncoder:
    """An encoder in which every tensor is random, including the statistics of batch normalisation."""
    generator = torch.Generator().manual_seed(seed)
    model = build(tiny_config(kind), generator)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.add_(torch.rand(tensor.shape, generator=generator) / 2)
    return DualEncoder(model.eval(), tiny_card(kind))


def random_image(seed: int, width: int = 24, height: int = 20) -> np.ndarray:
    """(H, W, 3) uint8: a few large patches, so that two images differ at any resolution."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def png(seed: int, width: int = 24, height: int = 20) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(random_image(seed, width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def write_images(directory: Path, count: int) -> list[Path]:
    directory.mkdir(parents=True, exist_ok=True)
    paths = [directory / f"{number:03d}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(png(number))
    return paths
