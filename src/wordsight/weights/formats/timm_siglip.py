"""SigLIP's image towers under timm's names, to which open_clip's configurations refer.

Source: timm's `vision_transformer.py`.
"""

import re
from typing import NamedTuple

from wordsight.model import SigLIPConfig

_SIGLIP_NAME = re.compile(r"vit_(base|large|so400m|giantopt)_patch(\d+)_siglip_(\d+)")


class _Size(NamedTuple):
    """Towers that differ only in patch size, image size and GELU.

    Attributes:
        width: of the residual stream.
        layers: number of blocks.
        heads: number of attention heads.
        mlp_ratio: ratio of the inner width of the MLPs to `width`.
        patches_and_sides: patch size and image size in pixels of every tower.
        tanh: those of the towers with the tanh approximation of GELU.
    """

    width: int
    layers: int
    heads: int
    mlp_ratio: float
    patches_and_sides: tuple[tuple[int, int], ...]
    tanh: tuple[tuple[int, int], ...]


_SIZES = {
    "base": _Size(768, 12, 12, 4.0, ((32, 256), (16, 224), (16, 256), (16, 384), (16, 512)), ((32, 256),)),
    "large": _Size(1024, 24, 16, 4.0, ((16, 256), (16, 384), (16, 512)), ((16, 512),)),
    "so400m": _Size(
        1152,
        27,
        16,
        3.7362,
        ((14, 224), (14, 378), (14, 384), (16, 256), (16, 384), (16, 512)),
        ((16, 256), (16, 384), (16, 512)),
    ),
    "giantopt": _Size(1536, 40, 16, 4.0, ((16, 256), (16, 384)), ((16, 256), (16, 384))),
}
"""The towers that timm names `vit_<size>_patch<patch>_siglip_<side>`, by size."""


def timm_image(name: str) -> SigLIPConfig | None:
    """The image tower that timm builds for a name; None unless it is one of SigLIP's with attention pooling."""
    match = _SIGLIP_NAME.fullmatch(name)
    if match is None:
        return None
    size, shape = _SIZES[match[1]], (int(match[2]), int(match[3]))
    if shape not in size.patches_and_sides:
        return None
    return SigLIPConfig(
        image_size_px=shape[1],
        patch_size_px=shape[0],
        width=size.width,
        layers=size.layers,
        heads=size.heads,
        activation="gelu_tanh" if shape in size.tanh else "gelu",
        mlp_width=mlp_width(size.width, size.mlp_ratio),
    )


def timm_names() -> list[str]:
    """The names of timm's SigLIP towers that are supported."""
    sizes = _SIZES.items()
    return [f"vit_{name}_patch{patch}_siglip_{side}" for name, size in sizes for patch, side in size.patches_and_sides]


def timm_name_of(image: SigLIPConfig) -> str | None:
    """The name for which timm builds an image tower; None if there is no such name."""
    names = (f"vit_{size}_patch{image.patch_size_px}_siglip_{image.image_size_px}" for size in _SIZES)
    return next((name for name in names if timm_image(name) == image), None)


def mlp_width(width: int, ratio: float) -> int | None:
    """The inner width of an MLP, truncated to an integer as in timm and open_clip; None for the default, 4 x width."""
    inner = int(width * ratio)
    return None if inner == 4 * width else inner
