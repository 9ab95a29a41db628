"""Weights as people have them from training: a state dict somewhere in a file, and no configuration beside it.

The architecture is named by the user and checked against the shapes, because no tensor tells the activation. Names are
open_clip's: `ViT-B-32` has GELU, `ViT-B-32-quickgelu` and `openai/ViT-B-32` have the QuickGELU of the published models.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.image import Preprocessing
from wordsight.model import PRESETS, PUBLISHED, ModelConfig, VisionTransformerConfig, build_empty
from wordsight.weights.card import Card, TokenizerConfig
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import as_float32, read_safetensors
from wordsight.weights.containers.torch_archive import is_archive, read_archive
from wordsight.weights.shapes import Shape, architecture_of, differences, first_names, shapes_of

PLAIN_KEYS = ("state_dict", "model", "module")
AVERAGED_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")

_MAX_WRAPPERS = 4
_NO_WEIGHTS = ("n_averaged", "attn_mask", "input_resolution", "context_length", "vocab_size")
_SCALARS = ("logit_scale", "logit_bias")
_TEXT = "text."
_QUICK = "-quickgelu"
_OPENAI = "openai/"
_OLD_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # a number with which older files of torch begin


def read_checkpoint(path: Path, architecture: str | None, averaged: bool | None) -> Checkpoint:
    """Read a training checkpoint or a bare state dict: a file of torch, safetensors, or an index of those.

    Args:
        architecture: a name of `architectures`; it cannot be left out, but then the refusal says which it may be.
        averaged: whether to take the weights that were averaged over training; None takes those that are there, and is
            refused where both are.

    Returns:
        Tensors in the precision of the file, in float32 if that has several.

    Raises:
        WeightsError: no weights in the file, or not those of the architecture.
    """
    state_dict, release = _read(path, averaged)
    tensors = _named_as_ours(state_dict, str(path))
    shapes = shapes_of(tensors)
    if all(name.startswith("visual.") for name in shapes):
        raise WeightsError(f"{path}: an image tower alone; labels and texts need a text tower too: give the whole CLIP")
    if architecture is None:
        raise WeightsError(f"{path}: weights alone do not say their activation; {_advice(shapes)}")
    model = architecture_named(architecture)
    wrong = differences(shapes, shapes_of(build_empty(model).state_dict()), f"{architecture} has")
    if wrong:
        raise WeightsError(f"{path}: not {architecture}: {wrong}; {_advice(shapes)}")
    if len({tensor.dtype for tensor in tensors.values() if tensor.is_floating_point()}) > 1:
        tensors = as_float32(tensors, str(path), release)
    try:
        card = Card(
            name=path.stem,
            model=model,
            preprocessing=Preprocessing(size_px=model.image.image_size_px),
            tokenizer=TokenizerConfig(context_length=model.text.context_length),
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Checkpoint(tensors, card)


def read_state_dict(path: Path, averaged: bool | None = None) -> dict[str, Tensor]:
    """The tensors of a file of torch, safetensors or an index, under the names they have there.

    What training puts around them is taken off: dictionaries, `module.` of several processes, `_orig_mod.` of compiled
    models.

    Args:
        averaged: as for `read_checkpoint`.

    Raises:
        WeightsError: missing, broken, or without weights.
    """
    return _read(path, averaged)[0]


def architectures() -> dict[str, ModelConfig]:
    """Every architecture that can be named where weights do not say theirs."""
    named = {name: config for name, config in PRESETS.items() if name not in PUBLISHED}
    for name, config in PUBLISHED.items():
        named |= {name: _with_gelu(config), f"{name}{_QUICK}": config, f"{_OPENAI}{name}": config}
    return named


def architecture_named(name: str) -> ModelConfig:
    """The architecture of that name.

    Raises:
        WeightsError: there is none; the message has the nearest one and all others.
    """
    known = architectures()
    if name not in known:
        raise WeightsError(f"no architecture {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    return known[name]


def _with_gelu(config: ModelConfig) -> ModelConfig:
    image = config.image
    if isinstance(image, VisionTransformerConfig):
        image = msgspec.structs.replace(image, activation="gelu")
    return msgspec.structs.replace(config, image=image, text=msgspec.structs.replace(config.text, activation="gelu"))


def _advice(shapes: Mapping[str, Shape]) -> str:
    """What to name the weights, from their shapes."""
    try:
        like = architecture_of(shapes, "quick_gelu")
    except WeightsError:
        like = None
    names = [name for name, config in PUBLISHED.items() if config == like]
    if names:
        return f"the file looks like {names[0]}: name it with --as {names[0]} (GELU) or {names[0]}{_QUICK} (QuickGELU)"
    offered = [name for name in architectures() if not name.startswith(_OPENAI)]  # the same as those with QuickGELU
    return f"name the architecture with --as, one of {', '.join(offered)}"


def _read(path: Path, averaged: bool | None) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """A state dict, and what gives back the pages that were read of it."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a file of weights")
    if not is_archive(path):
        _refuse_old(path)
        return _unwrapped(_chosen(read_safetensors(path), averaged, str(path)), str(path)), lambda: None
    archive = read_archive(path)
    return _unwrapped(_chosen(archive.value, averaged, str(path)), str(path)), archive.release


def _refuse_old(path: Path) -> None:
    """Before 1.6 torch wrote pickles one after the other, whose claims are only found false when memory is taken."""
    with path.open("rb") as file:
        is_old = file.read(len(_OLD_START)) == _OLD_START
    if is_old:
        raise WeightsError(
            f"{path}: written by a torch before 1.6, in a form that cannot be checked before it is read; if you trust "
            "it, save it again with a newer one: torch.save(torch.load(old, weights_only=True), new)"
        )


def _chosen(value: Any, averaged: bool | None, where: str) -> Mapping[str, Tensor]:
    """The plain or the averaged state dict among the dictionaries of a checkpoint."""
    is_averaged = False
    for _ in range(_MAX_WRAPPERS):
        plain, average = _first_dictionary(value, PLAIN_KEYS), _first_dictionary(value, AVERAGED_KEYS)
        if plain is None and average is None:
            break
        if plain is not None and average is not None and averaged is None:
            raise WeightsError(f"{where}: has both plain and averaged weights; say which: averaged or not")
        takes_average = average is not None and (plain is None or averaged is True)
        is_averaged = is_averaged or takes_average
        value = average if takes_average else plain
    tensors = dict(_weights(value, where))
    is_averaged = is_averaged or "n_averaged" in tensors
    if averaged is not None and averaged != is_averaged:
        kinds = ("averaged", "plain") if averaged else ("plain", "averaged")
        raise WeightsError(f"{where}: has no {kinds[0]} weights, only {kinds[1]} ones; ask for those")
    return tensors


def _first_dictionary(value: Any, keys: tuple[str, ...]) -> dict[str, Any] | None:
    found = (value.get(key) for key in keys) if isinstance(value, dict) else ()
    return next((part for part in found if isinstance(part, dict)), None)


def _weights(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a state dict; anything else in it means that it is none."""
    if not isinstance(value, dict) or not value:
        raise WeightsError(f"{where}: no state dict in it; expected tensors by name, or such under 'state_dict'")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            shown = first_names([str(name)])
            raise WeightsError(f"{where}: no state dict in it: {shown} is no tensor; save the state dict alone")
        yield name, tensor


def _unwrapped(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Names without what training puts before them, whichever way round it does."""
    unwrapped: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = name
        while (shorter := bare.removeprefix("module.").removeprefix("_orig_mod.")) != bare:
            bare = shorter
        bare = bare.replace("._orig_mod.", ".")
        if bare in unwrapped:
            raise WeightsError(f"{where}: two tensors are called {first_names([bare])}; save the state dict again")
        unwrapped[bare] = tensor
    return unwrapped


def _named_as_ours(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Names of `CLIP`: those of open_clip's `CustomTextCLIP` have the text tower one floor down."""
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        ours = name.removeprefix(_TEXT)
        if ours in named:
            raise WeightsError(f"{where}: two tensors are called {first_names([ours])}; save the state dict again")
        if ours not in _NO_WEIGHTS:
            named[ours] = tensor.reshape(()) if ours in _SCALARS and tensor.numel() == 1 else tensor
    return named
