"""OpenAI's archives: TorchScript modules whose attributes are the weights, mostly in half precision.

The code in an archive is not run. Its objects are records of attributes; the attributes that are tensors, named by
their path in the module, form the state dict. Everything else is as published: QuickGELU, preprocessing, tokenizer.

Source: OpenAI's `clip/clip.py: load` and `clip/model.py: build_model`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordsight.errors import ConfigError, OutputError, WeightsError
from wordsight.image import Preprocessing
from wordsight.model import CLIP, ModelConfig, VisionTransformerConfig
from wordsight.weights.card import Card, TokenizerConfig
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.pickle import Record
from wordsight.weights.containers.safetensors import as_float32
from wordsight.weights.containers.torch_archive import read_archive
from wordsight.weights.formats.nesting import require_averaged
from wordsight.weights.shapes import architecture_of, first_names, shapes_of

WEIGHTS_NAME = "model.pt"

METADATA = ("input_resolution", "context_length", "vocab_size")
"""Integers that the published archives contain in addition to the weights."""

_MAX_PARTS = 1 << 17
_MAX_DEPTH = 32
_MAX_NAME_LENGTH = 256
_MAX_MASK_SIZE = 4096
_MASK = "attn_mask"
_GELU_CALL = "torch.gelu("


def read_openai(path: Path) -> Checkpoint:
    """Read an OpenAI archive, or a flat state dict with the same names; half precision becomes float32.

    Raises:
        WeightsError: the file has another format or is broken, or its tensors contradict one another.
    """
    archive = read_archive(path)
    if archive.has_code(_GELU_CALL):
        raise WeightsError(
            f"{path}: its code computes GELU, but OpenAI's models have QuickGELU; "
            "save its state dict alone and name the architecture with --as"
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(archive.value, str(path)):
        if name in tensors:
            raise WeightsError(f"{path}: two tensors are named {first_names([name])}; download the file again")
        tensors[name] = tensor
    stated = {name: _integer(tensors.pop(name), f"{path}: {name}") for name in METADATA if name in tensors}
    for name in [name for name in tensors if name == _MASK or name.endswith(f".{_MASK}")]:
        _require_causal(tensors.pop(name), f"{path}: {name}")
    is_script = isinstance(archive.value, Record)
    try:
        model = architecture_of(shapes_of(tensors), "quick_gelu")
        card = Card(
            name=path.stem,
            model=model,
            preprocessing=Preprocessing(size_px=model.image.image_size_px),
            tokenizer=TokenizerConfig(context_length=model.text.context_length),
        )
    except (WeightsError, ConfigError) as error:
        advice = "save its state dict alone and" if is_script else "for another layout"
        raise WeightsError(
            f"{path}: not a model in OpenAI's layout: {error}; {advice} name the architecture with --as"
        ) from error
    _check_stated(path, stated, model)
    return Checkpoint(as_float32(tensors, str(path), archive.release), card)


def read_openai_directory(directory: Path, weights: Path | None = None, averaged: bool | None = None) -> Checkpoint:
    """Read the file that `write_openai` writes into a directory, or another one; see `read_openai`.

    Raises:
        WeightsError: as for `read_openai`, or averaged weights are requested, which the format does not have.
    """
    path = weights or directory / WEIGHTS_NAME
    if averaged:
        require_averaged(False, averaged, str(path))
    return read_openai(path)


def write_openai(checkpoint: Checkpoint, model: CLIP, directory: Path) -> None:
    """Write the flat state dict and the three integers by which OpenAI's files are recognised.

    Raises:
        WeightsError: the format cannot represent the size of the image.
        OutputError: the file cannot be written.
    """
    image, text = checkpoint.card.model.image, checkpoint.card.model.text
    if isinstance(image, VisionTransformerConfig) and image.image_size_px % image.patch_size_px:
        raise WeightsError(
            f"openai cannot represent image_size_px {image.image_size_px}: it is implied by the number of patches of "
            f"{image.patch_size_px} px; choose another format, such as wordsight"
        )
    integers = (checkpoint.card.model.image.image_size_px, text.context_length, text.vocabulary_size)
    metadata = {name: torch.tensor(integer) for name, integer in zip(METADATA, integers, strict=True)}
    path = directory / WEIGHTS_NAME
    try:
        torch.save(dict(model.state_dict()) | metadata, path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(
            f"{path.name}: cannot be written: {reason}; choose another output directory or free some space"
        ) from error


def is_openai(value: Any) -> bool:
    """Whether an archive's content is in OpenAI's format: a TorchScript module, or weights with `METADATA`."""
    if isinstance(value, Record):
        return value.is_script
    return isinstance(value, dict) and all(isinstance(value.get(name), Tensor) for name in METADATA)


def _tensors(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module or of a flat dictionary, by name."""
    if isinstance(value, Record) and value.is_script:
        yield from _attributes(value, where)
    elif isinstance(value, dict) and all(isinstance(part, Tensor) and type(key) is str for key, part in value.items()):
        yield from value.items()
    else:
        raise WeightsError(
            f"{where}: neither a module nor a flat state dict in OpenAI's layout; name its architecture with --as"
        )


def _attributes(module: Record, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors in a module and its submodules, by dotted path, as torch names parameters and buffers."""
    pending: list[tuple[tuple[str, ...], Any]] = [((), module)]
    num_parts = 0
    while pending:
        path, part = pending.pop()
        if isinstance(part, Tensor):
            yield ".".join(path), part
        elif isinstance(part, Record) and part.is_script and isinstance(part.state, dict):
            num_parts += len(part.state)
            names = [str(name) for name in part.state]
            max_length = max(map(len, names), default=0)
            if num_parts > _MAX_PARTS or len(path) == _MAX_DEPTH or max_length > _MAX_NAME_LENGTH:
                raise WeightsError(
                    f"{where}: too many modules, modules nested too deeply, or names that are too long; "
                    "the file is broken or hostile: download it again"
                )
            pending += [((*path, name), inner) for name, inner in zip(names, part.state.values(), strict=True)][::-1]


def _integer(tensor: Tensor, where: str) -> int:
    if tensor.numel() != 1 or tensor.is_floating_point():
        raise WeightsError(f"{where} is not a single integer; the file is broken: download it again")
    return int(tensor.item())


def _check_stated(path: Path, stated: Mapping[str, int], model: ModelConfig) -> None:
    """Compare the integers of `METADATA` with the architecture that the shapes imply."""
    integers = (model.image.image_size_px, model.text.context_length, model.text.vocabulary_size)
    for name, integer in zip(METADATA, integers, strict=True):
        if stated.get(name, integer) != integer:
            raise WeightsError(
                f"{path}: {name} is {stated[name]}, but its tensors imply {integer}; download the file again"
            )


def _require_causal(mask: Tensor, where: str) -> None:
    """Refuse a mask other than the causal one: masks are not weights, but they affect the embeddings."""
    has_equal_sides = mask.ndim == 2 and mask.shape[0] == mask.shape[1] <= _MAX_MASK_SIZE
    if not has_equal_sides or not torch.equal(mask.float(), torch.full(mask.shape, -torch.inf).triu(1)):
        raise WeightsError(f"{where} is not the causal mask of the published text tower; other masks are not supported")
