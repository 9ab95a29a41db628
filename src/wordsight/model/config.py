"""What a model is made of, as frozen structures that a recipe or a card writes down in TOML.

An image tower is one of three kinds, told apart by the key `kind`: `vit`, `modified_resnet` (both published) and
`residual` (a small dense net that is quick on a CPU). What contradicts itself is refused when the structure is made, so
that a model never fails later for it.
"""

from typing import Annotated, Literal

from msgspec import Meta

from wordsight.config import Config
from wordsight.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Activation = Literal["quick_gelu", "gelu"]


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def _require_positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        _require(value >= 1, f"{owner}: {name} is {value}; it must be at least 1")


class VisionTransformerConfig(Config, frozen=True, tag_field="kind", tag="vit"):
    """A vision transformer with a class token and learnt positions (Radford et al. 2021, 2.4).

    `stem` says how pixels become patches: `patch`, one convolution as published, or `conv`, strided 3x3
    convolutions (Xiao et al. 2021, arXiv 2106.14881), for which the patch size is a power of two.
    """

    image_size_px: Count
    patch_size_px: Count
    width: Count
    layers: Count
    heads: Count
    stem: Literal["patch", "conv"] = "patch"

    def __post_init__(self) -> None:
        owner = "image tower (vit)"
        _require_positive(owner, image_size_px=self.image_size_px, patch_size_px=self.patch_size_px)
        _require_positive(owner, width=self.width, layers=self.layers, heads=self.heads)
        _require(
            self.image_size_px % self.patch_size_px == 0,
            f"{owner}: image_size_px {self.image_size_px} is not a multiple of patch_size_px {self.patch_size_px}",
        )
        _require(self.width % self.heads == 0, f"{owner}: width {self.width} is not a multiple of heads {self.heads}")
        if self.stem == "conv":
            halvings = self.patch_size_px.bit_length() - 1
            _require(
                self.patch_size_px == 2**halvings >= 2,
                f"{owner}: the conv stem halves the picture; patch_size_px {self.patch_size_px} is not a power of two",
            )
            _require(
                self.width % 2 ** (halvings - 1) == 0,
                f"{owner}: the conv stem doubles its width {halvings - 1} times; "
                f"width {self.width} is not a multiple of {2 ** (halvings - 1)}",
            )

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size_px // self.patch_size_px


class ModifiedResNetConfig(Config, frozen=True, tag_field="kind", tag="modified_resnet"):
    """The published ResNet: a stem of three convolutions, anti-aliased strides, attention pooling (2.4)."""

    image_size_px: Count
    layers: tuple[Count, Count, Count, Count]
    width: Count

    def __post_init__(self) -> None:
        owner = "image tower (modified_resnet)"
        _require_positive(owner, image_size_px=self.image_size_px, width=self.width, layers=min(self.layers))
        _require(
            self.image_size_px % 32 == 0,
            f"{owner}: image_size_px {self.image_size_px} is not a multiple of 32, its stride",
        )
        _require(self.width % 2 == 0, f"{owner}: width {self.width} is odd; the stem starts at half of it")

    @property
    def heads(self) -> int:
        """Heads of the attention pooling: each is 64 wide, as published."""
        return self.width * 32 // 64


class ResidualConfig(Config, frozen=True, tag_field="kind", tag="residual"):
    """A dense 3x3 residual net with basic blocks and average pooling, for CPUs; it takes any resolution.

    `image_size_px` is what pictures are prepared to. The stem divides the resolution by `stem_stride` (4: patches that
    do not overlap, a third of the work), each stage after the first halves it.
    """

    image_size_px: Count
    widths: Annotated[tuple[Count, ...], Meta(min_length=1)]
    blocks: Annotated[tuple[Count, ...], Meta(min_length=1)]
    stem_stride: Literal[2, 4] = 2

    def __post_init__(self) -> None:
        owner = "image tower (residual)"
        _require(
            len(self.widths) == len(self.blocks) > 0,
            f"{owner}: {len(self.widths)} widths and {len(self.blocks)} blocks; each stage has one of both",
        )
        _require_positive(owner, image_size_px=self.image_size_px, widths=min(self.widths), blocks=min(self.blocks))


ImageConfig = VisionTransformerConfig | ModifiedResNetConfig | ResidualConfig


class TextConfig(Config, frozen=True):
    """A causal transformer over token ids that is read at the end of text (Radford et al. 2021, 2.4)."""

    width: Count
    heads: Count
    layers: Count
    context_length: Count = 77
    vocabulary_size: Count = 49408

    def __post_init__(self) -> None:
        owner = "text tower"
        _require_positive(owner, width=self.width, heads=self.heads, layers=self.layers)
        _require_positive(owner, context_length=self.context_length, vocabulary_size=self.vocabulary_size)
        _require(self.width % self.heads == 0, f"{owner}: width {self.width} is not a multiple of heads {self.heads}")


class ModelConfig(Config, frozen=True):
    """Two towers and the space that they share."""

    image: ImageConfig
    text: TextConfig
    embed_dim: Count
    activation: Activation = "quick_gelu"

    def __post_init__(self) -> None:
        _require_positive("model", embed_dim=self.embed_dim)
