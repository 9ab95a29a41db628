"""OpenAI's archives: a TorchScript module whose attributes are the tensors, in half precision, on a device of theirs.

The archive's code is not run. Its objects are records of attributes; those that are tensors, named by the way to them,
are the state dict. Everything else is known: QuickGELU, preprocessing and tokenizer are the published ones.

Source: OpenAI's `clip/clip.py: load` and `clip/model.py: build_model`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wordsight.errors import ConfigError, WeightsError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig
from wordsight.weights.card import Card, TokenizerConfig
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.pickle import Record
from wordsight.weights.containers.safetensors import as_float32
from wordsight.weights.containers.torch_archive import read_archive
from wordsight.weights.shapes import architecture_of, first_names, shapes_of

METADATA = ("input_resolution", "context_length", "vocab_size")
"""Numbers that the published archives hold beside the weights."""

_MAX_PARTS = 1 << 17
_MAX_DEPTH = 32
_MAX_NAME = 256
_MAX_MASK = 4096
_MASK = "attn_mask"
_GELU = "torch.gelu("


def read_openai(path: Path) -> Checkpoint:
    """Read an archive of OpenAI's, or a flat state dict with its names; halves become float32.

    Raises:
        WeightsError: not such a file, broken, or its tensors contradict one another.
    """
    archive = read_archive(path)
    if archive.has_code(_GELU):
        raise WeightsError(
            f"{path}: its code computes GELU, OpenAI's models have QuickGELU; "
            "save its state dict alone and name the architecture with --as"
        )
    tensors: dict[str, Tensor] = {}
    for name, tensor in _tensors(archive.value, str(path)):
        if name in tensors:
            raise WeightsError(f"{path}: two tensors are called {first_names([name])}; fetch the file again")
        tensors[name] = tensor
    stated = {name: _number(tensors.pop(name), f"{path}: {name}") for name in METADATA if name in tensors}
    for name in [name for name in tensors if name == _MASK or name.endswith(f".{_MASK}")]:
        _require_causal(tensors.pop(name), f"{path}: {name}")
    try:
        model = architecture_of(shapes_of(tensors), "quick_gelu")
        card = Card(
            name=path.stem,
            model=model,
            preprocessing=Preprocessing(size_px=model.image.image_size_px),
            tokenizer=TokenizerConfig(context_length=model.text.context_length),
        )
    except (WeightsError, ConfigError) as error:
        raise WeightsError(
            f"{path}: not a model in OpenAI's layout: {error}; for another layout name the architecture with --as"
        ) from error
    _check_stated(path, stated, model)
    return Checkpoint(as_float32(tensors, str(path), archive.release), card)


def is_openai(path: Path) -> bool:
    """Whether a file of torch is OpenAI's by what it says: a TorchScript module, or weights with its `METADATA`.

    Raises:
        WeightsError: not a file of torch, or broken.
    """
    value = read_archive(path).value
    if isinstance(value, Record):
        return value.is_script
    return isinstance(value, dict) and all(isinstance(value.get(name), Tensor) for name in METADATA)


def _tensors(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module, or of a flat dictionary, by name."""
    if isinstance(value, Record) and value.is_script:
        yield from _attributes(value, where)
    elif isinstance(value, dict) and all(isinstance(part, Tensor) and type(key) is str for key, part in value.items()):
        yield from value.items()
    else:
        raise WeightsError(
            f"{where}: neither a module nor a flat state dict in OpenAI's layout; name its architecture with --as"
        )


def _attributes(module: Record, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors below a module by the way to them, as torch names parameters and buffers."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), module)]
    num_parts = 0
    while waiting:
        way, part = waiting.pop()
        if isinstance(part, Tensor):
            yield ".".join(way), part
        elif isinstance(part, Record) and part.is_script and isinstance(part.state, dict):
            num_parts += len(part.state)
            names = [str(name) for name in part.state]
            if num_parts > _MAX_PARTS or len(way) == _MAX_DEPTH or max(map(len, names), default=0) > _MAX_NAME:
                raise WeightsError(f"{where}: its modules have no end; the file is broken or hostile: fetch it again")
            waiting += [((*way, name), inner) for name, inner in zip(names, part.state.values(), strict=True)][::-1]


def _number(tensor: Tensor, where: str) -> int:
    if tensor.numel() != 1 or tensor.is_floating_point():
        raise WeightsError(f"{where} is not one whole number; the file is broken: fetch it again")
    return int(tensor.item())


def _check_stated(path: Path, stated: Mapping[str, int], model: ModelConfig) -> None:
    numbers = (model.image.image_size_px, model.text.context_length, model.text.vocabulary_size)
    for name, number in zip(METADATA, numbers, strict=True):
        if stated.get(name, number) != number:
            raise WeightsError(f"{path}: {name} is {stated[name]}, its tensors say {number}; fetch the file again")


def _require_causal(mask: Tensor, where: str) -> None:
    """A mask is no weight, but a tower of another one would see other texts."""
    is_square = mask.ndim == 2 and mask.shape[0] == mask.shape[1] <= _MAX_MASK
    if not is_square or not torch.equal(mask.float(), torch.full(mask.shape, -torch.inf).triu(1)):
        raise WeightsError(f"{where} is not the causal mask of the published text tower; no such model is known")
