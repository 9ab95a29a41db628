"""Named configurations: the nine published ones (Radford et al. 2021, tables 19 and 20) and small ones for CPUs."""

from wordsight.errors import ConfigError, nearest
from wordsight.model.config import (
    ModelConfig,
    ModifiedResNetConfig,
    ResidualConfig,
    TextConfig,
    VisionTransformerConfig,
)


def _vit(embed_dim: int, image_size_px: int, patch_size_px: int, layers: int, width: int, text: int) -> ModelConfig:
    """Return a published vision transformer: heads are 64 wide, and the text tower has 12 layers."""
    image = VisionTransformerConfig(
        image_size_px=image_size_px, patch_size_px=patch_size_px, layers=layers, width=width, heads=width // 64
    )
    return ModelConfig(image=image, text=TextConfig(width=text, heads=text // 64, layers=12), embed_dim=embed_dim)


def _resnet(
    embed_dim: int, image_size_px: int, layers: tuple[int, int, int, int], width: int, text: int
) -> ModelConfig:
    """Return a published ResNet: all attention heads are 64 wide, and the text tower has 12 layers."""
    image = ModifiedResNetConfig(image_size_px=image_size_px, layers=layers, width=width)
    return ModelConfig(image=image, text=TextConfig(width=text, heads=text // 64, layers=12), embed_dim=embed_dim)


PUBLISHED = {
    "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, 512),
    "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, 512),
    "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, 640),
    "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, 768),
    "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, 1024),
    "ViT-B-32": _vit(512, 224, 32, 12, 768, 512),
    "ViT-B-16": _vit(512, 224, 16, 12, 768, 512),
    "ViT-L-14": _vit(768, 224, 14, 24, 1024, 768),
    "ViT-L-14-336": _vit(768, 336, 14, 24, 1024, 768),
}

SMALL = {
    "residual-tiny": ModelConfig(
        image=ResidualConfig(image_size_px=48, widths=(32, 64, 128), blocks=(1, 1, 1)),
        text=TextConfig(width=128, heads=4, layers=2),
        embed_dim=128,
    ),
    "residual-small": ModelConfig(
        image=ResidualConfig(image_size_px=64, widths=(48, 96, 192, 384), blocks=(1, 1, 1, 1)),
        text=TextConfig(width=192, heads=3, layers=3),
        embed_dim=256,
    ),
    "vit-small": ModelConfig(
        image=VisionTransformerConfig(image_size_px=64, patch_size_px=8, width=192, layers=6, heads=3, stem="conv"),
        text=TextConfig(width=192, heads=3, layers=3),
        embed_dim=256,
    ),
}

PRESETS = PUBLISHED | SMALL


def preset(name: str) -> ModelConfig:
    """Return the configuration of a preset.

    Raises:
        ConfigError: no such preset; the message suggests the nearest one.
    """
    if name not in PRESETS:
        raise ConfigError(f"no model preset {name!r}; known: {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return PRESETS[name]
