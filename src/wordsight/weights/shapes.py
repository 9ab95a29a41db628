"""Shapes of tensors: the architecture that they imply in OpenAI's layout, and how they differ from a configuration."""

import math
import re
from collections.abc import Iterable, Mapping

import msgspec
from torch import Tensor

from wordsight.config import integers_of
from wordsight.errors import ConfigError, WeightsError
from wordsight.model import (
    CLIP,
    ModelConfig,
    ModifiedResNetConfig,
    TextConfig,
    VisionTransformerConfig,
    build_empty,
)
from wordsight.model.config import Activation

Shape = tuple[int, ...]

_HEAD_WIDTH = 64
_RESNET_STRIDE = 32
_TENSORS_PER_LAYER = 12
_MAX_LAYERS = 1024
_MAX_COUNT = 1 << 24
_NAMES_IN_ERROR = 5


def architecture_of(shapes: Mapping[str, Shape], activation: Activation) -> ModelConfig:
    """The architecture of weights in OpenAI's layout: one of the nine published ones, or one of another size.

    Args:
        shapes: shapes of all tensors, by name.
        activation: activation of both towers, which does not follow from shapes.

    Raises:
        WeightsError: tensors are missing or unexpected, or contradict one another; the message names the first.

    Source: OpenAI's `clip/model.py: build_model`; heads are 64 wide, as published.
    """
    embed_dim = _shape(shapes, "text_projection", 2)[1]
    try:
        config = ModelConfig(image=_image(shapes, activation), text=_text(shapes, activation), embed_dim=embed_dim)
    except ConfigError as error:
        raise WeightsError(f"no model has these shapes: {error}") from error
    mismatch = differences(shapes, shapes_of(build_bounded(config, len(shapes)).state_dict()), "the other tensors say")
    if mismatch:
        raise WeightsError(mismatch)
    return config


def build_bounded(config: ModelConfig, num_tensors: int) -> CLIP:
    """Build a model from an untrusted configuration without allocating memory, as `build_empty` does.

    Args:
        config: the configuration.
        num_tensors: number of tensors in the file; a model whose layers have more is not built.

    Raises:
        WeightsError: building would take too long: a size is implausibly large, or there are more layers than tensors.
    """
    counts = list(integers_of(msgspec.to_builtins(config)))
    for key, count in counts:
        if count > _MAX_COUNT:
            raise WeightsError(f"the architecture has {key} {count}, which is more than any model has")
    num_layers = sum(count for key, count in counts if key in ("layers", "blocks"))
    if num_layers > min(num_tensors // _TENSORS_PER_LAYER, _MAX_LAYERS):
        raise WeightsError(f"the architecture has {num_layers} layers, but the file has only {num_tensors} tensors")
    return build_empty(config)


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    """The shapes of tensors, by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def differences(shapes: Mapping[str, Shape], expected: Mapping[str, Shape], authority: str) -> str:
    """Describe how tensors differ from the expected ones.

    Args:
        shapes: shapes of the tensors, by name.
        expected: the expected shapes.
        authority: where the expected shapes come from, such as `the card says`.

    Returns:
        The missing and unexpected names; if there are none, the first shape that differs; empty if all are equal.
    """
    names_by_label = {"missing": expected.keys() - shapes.keys(), "unexpected": shapes.keys() - expected.keys()}
    mismatches = [f"{label} {first_names(names)}" for label, names in names_by_label.items() if names]
    if mismatches:
        return "; ".join(mismatches)
    for name, shape in expected.items():
        if shapes[name] != shape:
            return f"{name} is {short_shape(shapes[name])}, {authority} {shape}"
    return ""


def short_shape(shape: Iterable[int]) -> str:
    """A shape for error messages: at most six axes, each of at most 64 bits."""
    sizes = list(shape)
    shown = ", ".join(str(size) if abs(size) < 1 << 64 else "..." for size in sizes[:6])
    return f"({shown}{', ...' if len(sizes) > 6 else ',' if len(sizes) == 1 else ''})"


def first_names(names: Iterable[str]) -> str:
    """The first five names in sorted order, and the total if there are more; for error messages."""
    ordered = sorted(names)
    shown = ", ".join(name[:80] if name.isprintable() else ascii(name)[:80] for name in ordered[:_NAMES_IN_ERROR])
    return shown + (f", ... ({len(ordered)} in all)" if len(ordered) > _NAMES_IN_ERROR else "")


def _shape(shapes: Mapping[str, Shape], name: str, num_axes: int) -> Shape:
    if name not in shapes:
        raise WeightsError(f"missing {name}: not in OpenAI's layout")
    if len(shapes[name]) != num_axes or 0 in shapes[name]:
        raise WeightsError(f"{name} is {shapes[name]}; expected {num_axes} axes, each of at least 1")
    return shapes[name]


def _image(shapes: Mapping[str, Shape], activation: Activation) -> VisionTransformerConfig | ModifiedResNetConfig:
    if "visual.layer1.0.conv1.weight" in shapes:
        return _resnet(shapes)
    width, _, patch_size_px, _ = _shape(shapes, "visual.conv1.weight", 4)
    return VisionTransformerConfig(
        image_size_px=_grid(shapes, "visual.positional_embedding") * patch_size_px,
        patch_size_px=patch_size_px,
        width=width,
        layers=_count(shapes, "visual.transformer.resblocks"),
        heads=_heads("visual.conv1.weight", width),
        activation=activation,
    )


def _resnet(shapes: Mapping[str, Shape]) -> ModifiedResNetConfig:
    one, two, three, four = (_count(shapes, f"visual.layer{stage}") for stage in range(1, 5))
    return ModifiedResNetConfig(
        image_size_px=_grid(shapes, "visual.attnpool.positional_embedding") * _RESNET_STRIDE,
        layers=(one, two, three, four),
        width=_shape(shapes, "visual.layer1.0.conv1.weight", 4)[0],
    )


def _text(shapes: Mapping[str, Shape], activation: Activation) -> TextConfig:
    context_length, width = _shape(shapes, "positional_embedding", 2)
    return TextConfig(
        width=width,
        heads=_heads("positional_embedding", width),
        layers=_count(shapes, "transformer.resblocks"),
        context_length=context_length,
        vocabulary_size=_shape(shapes, "token_embedding.weight", 2)[0],
        activation=activation,
    )


def _heads(name: str, width: int) -> int:
    if width % _HEAD_WIDTH:
        raise WeightsError(f"{name} is {width} wide, which is not a multiple of the published head width {_HEAD_WIDTH}")
    return width // _HEAD_WIDTH


def _grid(shapes: Mapping[str, Shape], name: str) -> int:
    """Number of patches along one side, from the positional embedding of a square grid and a class token."""
    shape = _shape(shapes, name, 2)
    grid = math.isqrt(shape[0] - 1)
    if grid**2 + 1 != shape[0]:
        raise WeightsError(
            f"{name} is {shape}; expected the positions of a square grid of patches and of one class token"
        )
    return grid


def _count(shapes: Mapping[str, Shape], prefix: str) -> int:
    """Number of layers whose names start with a prefix and a number."""
    numbered = re.compile(re.escape(prefix) + r"\.(\d{1,9})\.")
    numbers = {match[1] for name in shapes if (match := numbered.match(name))}
    if not numbers:
        raise WeightsError(f"missing {prefix}.0: not in OpenAI's layout")
    return len(numbers)
