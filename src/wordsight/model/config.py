"""Model configurations: frozen structs, which recipes and cards contain as TOML and JSON.

The key `kind` selects one of four image towers: `vit` and `modified_resnet` (CLIP's), `siglip`, and `residual` (a small
dense network that is fast on CPUs). Contradictory keys are an error when the struct is created, so that they cannot
cause a failure later. This module does not load torch.
"""

import math
from typing import Annotated, Literal, Protocol

from msgspec import Meta

from wordsight.config import Config
from wordsight.errors import ConfigError

MAX_IMAGE_SIZE_PX = 2048
"""Upper limit of the side of the input image: twice that of the largest published tower; a float32 image has 50 MB."""

_MAX_ID = 1 << 31  # token ids are int32; an id beyond the vocabulary never occurs, as in some published models

Count = Annotated[int, Meta(ge=1)]
ImageSize = Annotated[int, Meta(ge=1, le=MAX_IMAGE_SIZE_PX)]
Epsilon = Annotated[float, Meta(gt=0)]
Activation = Literal["quick_gelu", "gelu", "gelu_tanh"]


class TransformerShape(Protocol):
    """The configuration of transformer blocks, shared by all towers that are transformers.

    Attributes:
        width: of the residual stream.
        heads: number of attention heads.
        layers: number of blocks.
        activation: of the MLPs.
        mlp_width: width of the hidden layer of the MLPs; None is four times `width`.
        epsilon: added to the variance in every layer normalisation.
        layer_scale: whether the output of each branch is multiplied by learnt factors.
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


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def _require_positive(owner: str, **values: int) -> None:
    for name, value in values.items():
        _require(value >= 1, f"{owner}: {name} is {value}; it must be at least 1")
        if name == "image_size_px":
            _require(
                value <= MAX_IMAGE_SIZE_PX, f"{owner}: {name} is {value}; at most {MAX_IMAGE_SIZE_PX} is supported"
            )


def _require_tower(owner: str, tower: TransformerShape) -> None:
    _require_positive(owner, width=tower.width, layers=tower.layers, heads=tower.heads)
    _require_positive(owner, mlp_width=1 if tower.mlp_width is None else tower.mlp_width)
    _require(0 < tower.epsilon < math.inf, f"{owner}: epsilon is {tower.epsilon}; it must be above 0, such as 1e-5")
    _require(tower.width % tower.heads == 0, f"{owner}: width {tower.width} is not a multiple of heads {tower.heads}")


def _require_patches(owner: str, image_size_px: int, patch_size_px: int) -> None:
    _require(
        patch_size_px <= image_size_px,
        f"{owner}: patch_size_px {patch_size_px} is larger than image_size_px {image_size_px}",
    )


class VisionTransformerConfig(Config, frozen=True, tag_field="kind", tag="vit"):
    """A vision transformer with a class token and a learnt positional embedding (Radford et al. 2021, 2.4).

    Attributes:
        image_size_px: side of the input image. Pixels beyond the last whole patch are ignored.
        patch_size_px: side of a patch.
        width: of the residual stream, a multiple of `heads`.
        layers: number of blocks.
        heads: number of attention heads.
        stem: how pixels become patches: `patch`, one convolution as published; or `conv`, strided 3x3 convolutions
            (Xiao et al. 2021, arXiv 2106.14881), for which the patch size must be a power of two and divide the image
            size.
        activation: of the MLPs.
        mlp_width: width of the hidden layer of the MLPs; by default four times `width`.
        epsilon: added to the variance in every layer normalisation.
        layer_scale: whether the output of each branch is multiplied by learnt factors.
        norm_before: whether there is a layer normalisation before the first block.
        pool: the output of the `class_token`, or the `mean` over the patches.
        norm_after_pool: whether the mean is taken before the final normalisation instead of after it.

    Raises:
        ConfigError: sizes do not fit together.
    """

    image_size_px: ImageSize
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
        _require_patches(owner, self.image_size_px, self.patch_size_px)
        _require_tower(owner, self)
        if self.stem == "conv":
            _require(
                self.image_size_px % self.patch_size_px == 0,
                f"{owner}: the conv stem needs whole patches; image_size_px {self.image_size_px} is not a multiple of "
                f"patch_size_px {self.patch_size_px}",
            )
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
        """Number of whole patches along one side."""
        return self.image_size_px // self.patch_size_px


class SigLIPConfig(Config, frozen=True, tag_field="kind", tag="siglip"):
    """SigLIP's vision transformer: no class token, attention pooling with a learnt query (arXiv 2303.15343).

    Attributes:
        image_size_px: side of the input image.
        patch_size_px: side of a patch.
        width: of the residual stream and of the embedding, a multiple of `heads`.
        layers: number of blocks.
        heads: number of attention heads.
        activation: of the MLPs.
        mlp_width: width of the hidden layer of the MLPs; by default four times `width`.
        epsilon: added to the variance in every layer normalisation.
        layer_scale: whether the output of each branch is multiplied by learnt factors.

    Raises:
        ConfigError: sizes do not fit together.
    """

    image_size_px: ImageSize
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
        _require_patches(owner, self.image_size_px, self.patch_size_px)
        _require_tower(owner, self)

    @property
    def grid(self) -> int:
        """Number of whole patches along one side; the rest is cut off at the right and bottom (384 px in 14s: 6 px)."""
        return self.image_size_px // self.patch_size_px


class ModifiedResNetConfig(Config, frozen=True, tag_field="kind", tag="modified_resnet"):
    """The published ResNet: a stem of three convolutions, anti-aliased strides, attention pooling (section 2.4).

    Attributes:
        image_size_px: side of the input image, a multiple of 32.
        layers: number of bottleneck blocks in each of the four stages.
        width: number of channels after the stem; even.

    Raises:
        ConfigError: sizes do not fit together.
    """

    image_size_px: ImageSize
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
        """Number of heads of the attention pooling; each is 64 wide, as published."""
        return self.width * 32 // 64


class ResidualConfig(Config, frozen=True, tag_field="kind", tag="residual"):
    """A residual network of dense 3x3 convolutions with average pooling, for CPUs; it accepts any resolution.

    Attributes:
        image_size_px: side to which images are preprocessed.
        widths: number of channels of each stage; each stage after the first halves the resolution.
        blocks: number of basic blocks of each stage.
        stem_stride: stride of the stem; 4 uses patches that do not overlap and needs a third of the operations.

    Raises:
        ConfigError: `widths` and `blocks` differ in length.
    """

    image_size_px: ImageSize
    widths: Annotated[tuple[Count, ...], Meta(min_length=1)]
    blocks: Annotated[tuple[Count, ...], Meta(min_length=1)]
    stem_stride: Literal[2, 4] = 2

    def __post_init__(self) -> None:
        owner = "image tower (residual)"
        _require(
            len(self.widths) == len(self.blocks) > 0,
            f"{owner}: {len(self.widths)} widths and {len(self.blocks)} blocks; expected one of each for every stage",
        )
        _require_positive(owner, image_size_px=self.image_size_px, widths=min(self.widths), blocks=min(self.blocks))


ImageConfig = VisionTransformerConfig | SigLIPConfig | ModifiedResNetConfig | ResidualConfig


class TextConfig(Config, frozen=True):
    """A transformer over token ids; as published, causal and pooled at the end of text (Radford et al. 2021, 2.4).

    Attributes:
        width: of the residual stream, a multiple of `heads`.
        heads: number of attention heads.
        layers: number of blocks.
        context_length: number of tokens of a text, padding included.
        vocabulary_size: number of token ids.
        activation: of the MLPs.
        mlp_width: width of the hidden layer of the MLPs; by default four times `width`.
        epsilon: added to the variance in every layer normalisation.
        layer_scale: whether the output of each branch is multiplied by learnt factors.
        is_causal: whether each token attends only to itself and earlier tokens.
        pool: the token whose output represents the text: the `end` of text, the `first`, the `last` of the whole
            context (SigLIP, where padding is attended to), or a learnt `class_token` after the text (CoCa, arXiv
            2205.01917; it does not attend to padding, except for the first padding token, as in open_clip).
        end_id: the token id of the end of text; by default the highest id of each text.
        pad_id: the token id of padding, which a `class_token` does not attend to.
        projection: the published `matrix`, a `linear` layer with a bias, or `none`.

    Raises:
        ConfigError: sizes do not fit together.
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
        _require_positive(owner, context_length=self.context_length, vocabulary_size=self.vocabulary_size)
        _require_tower(owner, self)
        for name, id in (("end_id", self.end_id), ("pad_id", self.pad_id)):
            _require(
                id is None or 0 <= id < _MAX_ID, f"{owner}: {name} is {id}; expected an id from 0 to {_MAX_ID - 1}"
            )

    @property
    def is_trimmed(self) -> bool:
        """Whether tokens after the pooled one have no influence, so that a text may be trimmed there."""
        return self.is_causal and self.pool in ("end", "first")


class ModelConfig(Config, frozen=True):
    """Two towers and their joint embedding space.

    Attributes:
        image: the image tower; its key `kind` is `vit`, `siglip`, `modified_resnet` or `residual`.
        text: the text tower.
        embed_dim: number of dimensions of the embeddings.
        logit_bias: whether a learnt bias is added to the logits (SigLIP).

    Raises:
        ConfigError: a tower without projection is not as wide as the embedding.
    """

    image: ImageConfig
    text: TextConfig
    embed_dim: Count
    logit_bias: bool = False

    def __post_init__(self) -> None:
        _require_positive("model", embed_dim=self.embed_dim)
        _require(
            self.text.projection != "none" or self.text.width == self.embed_dim,
            f"model: a text tower without projection must be as wide as the embedding; {self.text.width} is not "
            f"{self.embed_dim}",
        )
        if isinstance(self.image, SigLIPConfig):
            _require(
                self.image.width == self.embed_dim,
                f"model: SigLIP's image tower must be as wide as the embedding; {self.image.width} is not "
                f"{self.embed_dim}",
            )
