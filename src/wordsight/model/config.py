"""What a model is made of, as frozen structures that a recipe or a card writes down in TOML.

An image tower is one of four kinds, told apart by the key `kind`: `vit` and `modified_resnet` (CLIP's), `siglip`, and
`residual` (a small dense net that is quick on a CPU). What contradicts itself is refused when the structure is made, so
that a model never fails later for it.
"""

from typing import Annotated, Literal, Protocol

from msgspec import Meta

from wordsight.config import Config
from wordsight.errors import ConfigError

Count = Annotated[int, Meta(ge=1)]
Epsilon = Annotated[float, Meta(gt=0)]
Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]


class TransformerShape(Protocol):
    """What the blocks of a transformer are made of; every tower of transformers says it.

    `mlp_width` is that between the two layers of a perceptron, four times the width where it is None. `epsilon` is
    added to the variance in every normalisation. With `layer_scale` each branch is multiplied by learnt factors.
    """

    @property
    def width(self) -> int: ...  # noqa: D102
    @property
    def heads(self) -> int: ...  # noqa: D102
    @property
    def layers(self) -> int: ...  # noqa: D102
    @property
    def activation(self) -> Activation: ...  # noqa: D102
    @property
    def mlp_width(self) -> int | None: ...  # noqa: D102
    @property
    def epsilon(self) -> float: ...  # noqa: D102
    @property
    def layer_scale(self) -> bool: ...  # noqa: D102


def _require(claim: bool, message: str) -> None:
    if not claim:
        raise ConfigError(message)


def _require_positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        _require(value >= 1, f"{owner}: {name} is {value}; it must be at least 1")


class VisionTransformerConfig(Config, frozen=True, tag_field="kind", tag="vit"):
    """A vision transformer with a class token and learnt positions (Radford et al. 2021, 2.4).

    `stem` says how pixels become patches: `patch`, one convolution as published, or `conv`, strided 3x3
    convolutions (Xiao et al. 2021, arXiv 2106.14881), for which the patch size is a power of two. `norm_before` is the
    normalisation before the first block. `pool` says what stands for the image: the class token, or the mean of the
    patches, which is normalised before or, with `norm_after_pool`, after it is taken.
    """

    image_size_px: Count
    patch_size_px: Count
    width: Count
    layers: Count
    heads: Count
    stem: Literal["patch", "conv"] = "patch"
    activation: Activation = "quick_gelu"
    mlp_width: Count | None = None
    epsilon: Epsilon = 1e-5
    layer_scale: bool = False
    norm_before: bool = True
    pool: Literal["class_token", "mean"] = "class_token"
    norm_after_pool: bool = False

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
                f"{owner}: the conv stem halves the image; patch_size_px {self.patch_size_px} is not a power of two",
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


class SigLIPConfig(Config, frozen=True, tag_field="kind", tag="siglip"):
    """SigLIP's vision transformer: no class token, attention pooling by a learnt probe (arXiv 2303.15343)."""

    image_size_px: Count
    patch_size_px: Count
    width: Count
    layers: Count
    heads: Count
    activation: Activation = "gelu_tanh"
    mlp_width: Count | None = None
    epsilon: Epsilon = 1e-6
    layer_scale: bool = False

    def __post_init__(self) -> None:
        owner = "image tower (siglip)"
        _require_positive(owner, image_size_px=self.image_size_px, patch_size_px=self.patch_size_px)
        _require_positive(owner, width=self.width, layers=self.layers, heads=self.heads)
        _require(
            self.patch_size_px <= self.image_size_px,
            f"{owner}: patch_size_px {self.patch_size_px} is larger than image_size_px {self.image_size_px}",
        )
        _require(self.width % self.heads == 0, f"{owner}: width {self.width} is not a multiple of heads {self.heads}")

    @property
    def grid(self) -> int:
        """Whole patches along one side; what is left over at the right and below is not seen (384 px in 14s: 6)."""
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

    `image_size_px` is what images are prepared to. The stem divides the resolution by `stem_stride` (4: patches that
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


ImageConfig = VisionTransformerConfig | SigLIPConfig | ModifiedResNetConfig | ResidualConfig


class TextConfig(Config, frozen=True):
    """A transformer over token ids; as published it is causal and read at the end of text (Radford et al. 2021, 2.4).

    `pool` says which token stands for the text: the `end` (where `end_id` first stands, or the greatest id if that is
    None), the `first`, the `last` of the whole context (SigLIP, whose padding counts), or a learnt `class_token` behind
    the text (CoCa, arXiv 2205.01917; it does not see ids `pad_id`, but for the first of them, as in open_clip).
    `projection` is the published `matrix`, a `linear` layer with a bias, or `none`.
    """

    width: Count
    heads: Count
    layers: Count
    context_length: Count = 77
    vocabulary_size: Count = 49408
    activation: Activation = "quick_gelu"
    mlp_width: Count | None = None
    epsilon: Epsilon = 1e-5
    layer_scale: bool = False
    is_causal: bool = True
    pool: Literal["end", "first", "last", "class_token"] = "end"
    end_id: int | None = None
    pad_id: int = 0
    projection: Literal["matrix", "linear", "none"] = "matrix"

    def __post_init__(self) -> None:
        owner = "text tower"
        _require_positive(owner, width=self.width, heads=self.heads, layers=self.layers)
        _require_positive(owner, context_length=self.context_length, vocabulary_size=self.vocabulary_size)
        _require(self.width % self.heads == 0, f"{owner}: width {self.width} is not a multiple of heads {self.heads}")

    @property
    def is_trimmed(self) -> bool:
        """Whether ids behind the token that is read change nothing, so that a text may be cut there."""
        return self.is_causal and self.pool in ("end", "first")


class ModelConfig(Config, frozen=True):
    """Two towers and the space that they share; with `logit_bias` a learnt number is added to the logits (SigLIP)."""

    image: ImageConfig
    text: TextConfig
    embed_dim: Count
    logit_bias: bool = False

    def __post_init__(self) -> None:
        _require_positive("model", embed_dim=self.embed_dim)
        _require(
            self.text.projection != "none" or self.text.width == self.embed_dim,
            f"model: a text tower without projection is as wide as the embedding; {self.text.width} is not "
            f"{self.embed_dim}",
        )
        if isinstance(self.image, SigLIPConfig):
            _require(
                self.image.width == self.embed_dim,
                f"model: SigLIP's image tower has no projection; {self.image.width} is not {self.embed_dim}",
            )
