"""Where the tensors of a model lie in the files of other projects: tables of names, read in both directions.

A layout says for each tensor of ours under which name theirs lies, and in which form: as it is, transposed, in several
parts one after the other (queries, keys and values), or under leading axes of one. All of it is exact in bits, so that
`to_ours(to_theirs(x))` is x. `#` in a table stands for a layer's number.

    open_clip              open_clip's `CLIP`, OpenAI's names, which are ours
    open_clip_text         open_clip's `CustomTextCLIP`: the text tower under `text.`
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
_NO_WEIGHTS = re.compile(r"(.*\.)?(position_ids|attn_mask)|input_resolution|context_length|vocab_size")
"""Buffers that files of older versions have: they say nothing that the configuration does not."""


class KeyMapping(NamedTuple):
    """Where one tensor of ours lies in their file.

    Attributes:
        names: one, or several whose tensors are parts of ours, one after the other along the first axis.
        shares: how large these parts are, as small whole numbers.
        is_transposed: whether theirs is the transposed matrix.
        leading_axes: axes of size one that theirs has before ours.
    """

    names: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    is_transposed: bool = False
    leading_axes: int = 0


def mapping_of(layout: Layout, name: str) -> KeyMapping:
    """Where a tensor of ours lies in a layout.

    Raises:
        WeightsError: the layout has no mapping_of for it.
    """
    in_text = not name.startswith(("visual.", "logit_"))
    if layout == "open_clip":
        return KeyMapping((name,))
    if layout == "open_clip_text" or (layout == "open_clip_siglip" and not name.startswith("visual.")):
        return KeyMapping((f"text.{name}" if in_text else name,))
    layer = _LAYER.search(name)
    found = _table(layout).get(_LAYER.sub("#", name))
    if found is None:
        raise WeightsError(
            f"{name}: the layout {layout} has no mapping_of for it; choose a format that can hold this model"
        )
    number = layer[0] if layer else ""
    return found._replace(names=tuple(theirs.replace("#", number) for theirs in found.names))


def to_ours(tensors: Mapping[str, Tensor], layout: Layout, model: ModelConfig, where: str) -> dict[str, Tensor]:
    """Tensors of a file under our names, in our forms; those that need no change are not copied.

    Args:
        tensors: under the names of `layout`; not changed.
        model: what the configuration beside them says.
        where: the file, for errors.

    Raises:
        WeightsError: names are missing or unexpected, or a shape contradicts the configuration.
    """
    try:
        expected = {name: tensor.shape for name, tensor in build_bounded(model, len(tensors)).state_dict().items()}
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from error
    places = {name: mapping_of(layout, name) for name in expected}
    wanted = {theirs for found in places.values() for theirs in found.names}
    present = {name for name in tensors if name in wanted or not _NO_WEIGHTS.fullmatch(name)}
    differences = {"missing": wanted - present, "unexpected": present - wanted}
    wrong = [f"{label} {first_names(names)}" for label, names in differences.items() if names]
    if wrong:
        raise WeightsError(f"{where}: not the model of its configuration: {'; '.join(wrong)}; fetch both again")
    return {name: _read(tensors, places[name], shape, f"{where}: {name}") for name, shape in expected.items()}


def to_theirs(tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Our state dict under their names, in their forms, contiguous.

    Raises:
        WeightsError: the layout has no mapping_of for a tensor.
    """
    written: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        found = mapping_of(layout, name)
        form = tensor.T if found.is_transposed else tensor
        form = form.reshape((1,) * found.leading_axes + tuple(form.shape))
        unit = form.shape[0] // sum(found.shares) if form.ndim else 0
        parts = form.split([unit * share for share in found.shares]) if len(found.shares) > 1 else [form]
        written |= {theirs: part.contiguous() for theirs, part in zip(found.names, parts, strict=True)}
    return written


def _read(tensors: Mapping[str, Tensor], found: KeyMapping, shape: torch.Size, where: str) -> Tensor:
    parts = [tensors[name] for name in found.names]
    if len({part.shape[1:] for part in parts}) > 1 or any(not part.ndim for part in parts[1:]):
        raise WeightsError(f"{where}: its parts do not fit one another: {[tuple(part.shape) for part in parts]}")
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    if found.is_transposed and whole.ndim == 2:
        whole = whole.T
    leading = whole.shape[: max(0, whole.ndim - len(shape))]  # a scale is () in some files and (1,) in others
    if whole.numel() and all(size == 1 for size in leading):
        whole = whole.reshape(whole.shape[len(leading) :])
    if whole.shape != shape:
        raise WeightsError(f"{where} is {tuple(whole.shape)}, the configuration says {tuple(shape)}; fetch both again")
    sizes = [part.shape[0] for part in parts] if len(parts) > 1 else []
    if sizes and [size * sum(found.shares) for size in sizes] != [share * shape[0] for share in found.shares]:
        raise WeightsError(f"{where}: its parts are {sizes} rows, expected shares {list(found.shares)}; fetch it again")
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
    """Weight and bias of a layer."""
    for kind in ("weight", "bias"):
        yield f"{ours}.{kind}", KeyMapping((f"{theirs}.{kind}",))


def _tower(ours: str, theirs: str) -> Iterator[Row]:
    """The blocks of either tower, as transformers names them."""
    block, layer = f"{ours}transformer.resblocks.#.", f"{theirs}encoder.layers.#."
    for kind in ("weight", "bias"):
        parts = tuple(f"{layer}self_attn.{part}_proj.{kind}" for part in "qkv")
        yield f"{block}attn.in_proj_{kind}", KeyMapping(parts, shares=(1, 1, 1))
    yield from _both(f"{block}attn.out_proj", f"{layer}self_attn.out_proj")
    yield from _both(f"{block}ln_1", f"{layer}layer_norm1")
    yield from _both(f"{block}ln_2", f"{layer}layer_norm2")
    yield from _both(f"{block}mlp.c_fc", f"{layer}mlp.fc1")
    yield from _both(f"{block}mlp.c_proj", f"{layer}mlp.fc2")


def _hugging_face_embeddings() -> Iterator[Row]:
    """What both of transformers' models have around the blocks."""
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
    """SigLIP's image tower as timm names it, in open_clip's wrapper."""
    trunk, block = "visual.trunk.", "visual.transformer.resblocks.#."
    layer = f"{trunk}blocks.#."
    yield from _both("visual.conv1", f"{trunk}patch_embed.proj")
    yield "visual.positional_embedding", KeyMapping((f"{trunk}pos_embed",), leading_axes=1)
    yield from _both("visual.ln_post", f"{trunk}norm")
    for kind in ("weight", "bias"):
        yield f"{block}attn.in_proj_{kind}", KeyMapping((f"{layer}attn.qkv.{kind}",))
    yield from _both(f"{block}attn.out_proj", f"{layer}attn.proj")
    yield from _both(f"{block}ln_1", f"{layer}norm1")
    yield from _both(f"{block}ln_2", f"{layer}norm2")
    yield from _both(f"{block}mlp.c_fc", f"{layer}mlp.fc1")
    yield from _both(f"{block}mlp.c_proj", f"{layer}mlp.fc2")
    pool, head = "visual.attn_pool.", f"{trunk}attn_pool."
    yield f"{pool}probe", KeyMapping((f"{head}latent",), leading_axes=2)
    for kind in ("weight", "bias"):
        yield f"{pool}attn.in_proj_{kind}", KeyMapping((f"{head}q.{kind}", f"{head}kv.{kind}"), shares=(1, 2))
    yield from _both(f"{pool}attn.out_proj", f"{head}proj")
    yield from _both(f"{pool}ln", f"{head}norm")
    yield from _both(f"{pool}mlp.c_fc", f"{head}mlp.fc1")
    yield from _both(f"{pool}mlp.c_proj", f"{head}mlp.fc2")
