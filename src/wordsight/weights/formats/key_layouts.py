"""Key layouts: how other projects name and store the tensors of a model, as tables that are read in both directions.

For each tensor of `wordsight.model.CLIP`, a layout gives the other project's name and form: unchanged, transposed,
split along the first axis into several tensors (queries, keys and values), or with leading axes of size one. Every
conversion is exact, so `to_ours(to_theirs(x))` equals x bit for bit. In the tables, `#` is the number of a layer.

    open_clip              open_clip's `CLIP`; OpenAI's names, which wordsight uses too
    open_clip_text         open_clip's `CustomTextCLIP`: the text tower has the prefix `text.`
    open_clip_siglip       the same with timm's names in the image tower
    hugging_face_clip      transformers' `CLIPModel`
    hugging_face_siglip    transformers' `SiglipModel`

Source: the state dicts of open_clip 3.3.0, timm and transformers 5.24.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.model import ModelConfig
from wordsight.weights.shapes import build_bounded, first_names

Layout = Literal["open_clip", "open_clip_text", "open_clip_siglip", "hugging_face_clip", "hugging_face_siglip"]

_LAYER = re.compile(r"(?<=resblocks\.)\d+(?=\.)")
_NOT_WEIGHTS = re.compile(r"(.*\.)?(position_ids|attn_mask)|input_resolution|context_length|vocab_size")
"""Buffers in files that older versions wrote; they only repeat the configuration."""


class KeyMapping(NamedTuple):
    """How one tensor of `CLIP` is stored in a layout.

    Attributes:
        names: names in the layout; several if the tensor is split along its first axis.
        shares: relative sizes of these parts, as small integers.
        is_transposed: whether the layout stores the transposed matrix.
        leading_axes: number of leading axes of size one that the layout adds.
    """

    names: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    is_transposed: bool = False
    leading_axes: int = 0


def mapping_of(layout: Layout, name: str) -> KeyMapping:
    """How a layout stores a tensor.

    Args:
        layout: the layout.
        name: name of the tensor in the state dict of `CLIP`.

    Raises:
        WeightsError: the layout cannot represent this tensor.
    """
    in_text = not name.startswith(("visual.", "logit_"))
    if layout == "open_clip":
        return KeyMapping((name,))
    if layout == "open_clip_text" or (layout == "open_clip_siglip" and not name.startswith("visual.")):
        return KeyMapping((f"text.{name}" if in_text else name,))
    layer = _LAYER.search(name)
    mapping = _table(layout).get(_LAYER.sub("#", name))
    if mapping is None:
        raise WeightsError(
            f"{name}: the key layout {layout} has no such tensor; choose a format that can represent this model"
        )
    number = layer[0] if layer else ""
    return mapping._replace(names=tuple(theirs.replace("#", number) for theirs in mapping.names))


def to_ours(tensors: Mapping[str, Tensor], layout: Layout, model: ModelConfig, where: str) -> dict[str, Tensor]:
    """Convert the tensors of a file to the state dict of `CLIP`; tensors that need no change are not copied.

    Args:
        tensors: under the names of `layout`; not modified.
        layout: the layout of the file.
        model: the architecture according to the file's configuration.
        where: the file, named in errors.

    Raises:
        WeightsError: names are missing or unexpected, or a shape contradicts the configuration.
    """
    try:
        expected = {name: tensor.shape for name, tensor in build_bounded(model, len(tensors)).state_dict().items()}
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from error
    mappings = {name: mapping_of(layout, name) for name in expected}
    required = {theirs for mapping in mappings.values() for theirs in mapping.names}
    present = {name for name in tensors if name in required or not _NOT_WEIGHTS.fullmatch(name)}
    differences = {"missing": required - present, "unexpected": present - required}
    mismatches = [f"{label} {first_names(names)}" for label, names in differences.items() if names]
    if mismatches:
        raise WeightsError(
            f"{where}: not the model that its configuration describes: {'; '.join(mismatches)}; download both again"
        )
    return {name: _convert(tensors, mappings[name], shape, f"{where}: {name}") for name, shape in expected.items()}


def to_theirs(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Convert a state dict of `CLIP` to a layout; all tensors become contiguous.

    Args:
        tensors: the state dict; not modified.
        layout: the layout to write.

    Raises:
        WeightsError: the layout cannot represent a tensor.
    """
    converted: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        mapping = mapping_of(layout, name)
        whole = tensor.T if mapping.is_transposed else tensor
        whole = whole.reshape((1,) * mapping.leading_axes + tuple(whole.shape))
        unit = whole.shape[0] // sum(mapping.shares) if whole.ndim else 0
        parts = whole.split([unit * share for share in mapping.shares]) if len(mapping.shares) > 1 else [whole]
        converted |= {theirs: part.contiguous() for theirs, part in zip(mapping.names, parts, strict=True)}
    return converted


def _convert(tensors: Mapping[str, Tensor], mapping: KeyMapping, shape: torch.Size, where: str) -> Tensor:
    """One tensor of `CLIP` from the tensors of a file."""
    parts = [tensors[name] for name in mapping.names]
    if len({part.shape[1:] for part in parts}) > 1 or any(not part.ndim for part in parts[1:]):
        raise WeightsError(f"{where}: its parts have incompatible shapes: {[tuple(part.shape) for part in parts]}")
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    if mapping.is_transposed and whole.ndim == 2:
        whole = whole.T
    leading = whole.shape[: max(0, whole.ndim - len(shape))]  # a logit scale is () in some files and (1,) in others
    if whole.numel() and all(size == 1 for size in leading):
        whole = whole.reshape(whole.shape[len(leading) :])
    if whole.shape != shape:
        raise WeightsError(
            f"{where} is {tuple(whole.shape)}, the configuration says {tuple(shape)}; download both again"
        )
    sizes = [part.shape[0] for part in parts] if len(parts) > 1 else []
    if sizes and [size * sum(mapping.shares) for size in sizes] != [share * shape[0] for share in mapping.shares]:
        raise WeightsError(
            f"{where}: its parts have {sizes} rows, expected proportions {list(mapping.shares)}; "
            "download the file again"
        )
    return whole.contiguous()


@functools.cache
def _table(layout: Layout) -> dict[str, KeyMapping]:
    if layout == "open_clip_siglip":
        return dict(_timm_tower())
    towers = [*_tower("visual.", "vision_model."), *_tower("", "text_model.")]
    if layout == "hugging_face_clip":
        return dict([*towers, *_hugging_face_clip()])
    return dict([*towers, *_hugging_face_siglip()])


Row = tuple[str, KeyMapping]


def _both(ours: str, theirs: str) -> Iterator[Row]:
    """Rows for the weight and the bias of a layer."""
    for suffix in ("weight", "bias"):
        yield f"{ours}.{suffix}", KeyMapping((f"{theirs}.{suffix}",))


def _tower(ours: str, theirs: str) -> Iterator[Row]:
    """Rows for the transformer blocks of one tower, as transformers names them."""
    block, layer = f"{ours}transformer.resblocks.#.", f"{theirs}encoder.layers.#."
    for suffix in ("weight", "bias"):
        parts = tuple(f"{layer}self_attn.{part}_proj.{suffix}" for part in "qkv")
        yield f"{block}attn.in_proj_{suffix}", KeyMapping(parts, shares=(1, 1, 1))
    yield from _both(f"{block}attn.out_proj", f"{layer}self_attn.out_proj")
    yield from _both(f"{block}ln_1", f"{layer}layer_norm1")
    yield from _both(f"{block}ln_2", f"{layer}layer_norm2")
    yield from _both(f"{block}mlp.c_fc", f"{layer}mlp.fc1")
    yield from _both(f"{block}mlp.c_proj", f"{layer}mlp.fc2")


def _hugging_face_embeddings() -> Iterator[Row]:
    """Rows for everything outside the blocks that CLIPModel and SiglipModel name alike."""
    vision, text = "vision_model.", "text_model."
    yield "visual.conv1.weight", KeyMapping((f"{vision}embeddings.patch_embedding.weight",))
    yield "visual.positional_embedding", KeyMapping((f"{vision}embeddings.position_embedding.weight",))
    yield from _both("visual.ln_post", f"{vision}post_layernorm")
    yield "token_embedding.weight", KeyMapping((f"{text}embeddings.token_embedding.weight",))
    yield "positional_embedding", KeyMapping((f"{text}embeddings.position_embedding.weight",))
    yield from _both("ln_final", f"{text}final_layer_norm")


def _hugging_face_clip() -> Iterator[Row]:
    yield from _hugging_face_embeddings()
    yield "visual.class_embedding", KeyMapping(("vision_model.embeddings.class_embedding",))
    yield from _both("visual.ln_pre", "vision_model.pre_layrnorm")
    yield "visual.proj", KeyMapping(("visual_projection.weight",), is_transposed=True)
    yield "text_projection", KeyMapping(("text_projection.weight",), is_transposed=True)
    yield "logit_scale", KeyMapping(("logit_scale",))


def _hugging_face_siglip() -> Iterator[Row]:
    yield from _hugging_face_embeddings()
    yield "visual.conv1.bias", KeyMapping(("vision_model.embeddings.patch_embedding.bias",))
    pool, head = "visual.attn_pool.", "vision_model.head."
    yield f"{pool}probe", KeyMapping((f"{head}probe",), leading_axes=2)
    yield f"{pool}attn.in_proj_weight", KeyMapping((f"{head}attention.in_proj_weight",))
    yield f"{pool}attn.in_proj_bias", KeyMapping((f"{head}attention.in_proj_bias",))
    yield from _both(f"{pool}attn.out_proj", f"{head}attention.out_proj")
    yield from _both(f"{pool}ln", f"{head}layernorm")
    yield from _both(f"{pool}mlp.c_fc", f"{head}mlp.fc1")
    yield from _both(f"{pool}mlp.c_proj", f"{head}mlp.fc2")
    yield from _both("text_projection", "text_model.head")
    yield "logit_scale", KeyMapping(("logit_scale",), leading_axes=1)
    yield "logit_bias", KeyMapping(("logit_bias",), leading_axes=1)


def _timm_tower() -> Iterator[Row]:
    """Rows for SigLIP's image tower as timm names it, within open_clip's wrapper."""
    trunk, block = "visual.trunk.", "visual.transformer.resblocks.#."
    layer = f"{trunk}blocks.#."
    yield from _both("visual.conv1", f"{trunk}patch_embed.proj")
    yield "visual.positional_embedding", KeyMapping((f"{trunk}pos_embed",), leading_axes=1)
    yield from _both("visual.ln_post", f"{trunk}norm")
    for suffix in ("weight", "bias"):
        yield f"{block}attn.in_proj_{suffix}", KeyMapping((f"{layer}attn.qkv.{suffix}",))
    yield from _both(f"{block}attn.out_proj", f"{layer}attn.proj")
    yield from _both(f"{block}ln_1", f"{layer}norm1")
    yield from _both(f"{block}ln_2", f"{layer}norm2")
    yield from _both(f"{block}mlp.c_fc", f"{layer}mlp.fc1")
    yield from _both(f"{block}mlp.c_proj", f"{layer}mlp.fc2")
    pool, head = "visual.attn_pool.", f"{trunk}attn_pool."
    yield f"{pool}probe", KeyMapping((f"{head}latent",), leading_axes=2)
    for suffix in ("weight", "bias"):
        yield f"{pool}attn.in_proj_{suffix}", KeyMapping((f"{head}q.{suffix}", f"{head}kv.{suffix}"), shares=(1, 2))
    yield from _both(f"{pool}attn.out_proj", f"{head}proj")
    yield from _both(f"{pool}ln", f"{head}norm")
    yield from _both(f"{pool}mlp.c_fc", f"{head}mlp.fc1")
    yield from _both(f"{pool}mlp.c_proj", f"{head}mlp.fc2")
