"""Files that contain only weights: a state dict, possibly within a training checkpoint, without a configuration.

The user names the architecture, because the activation does not follow from any tensor; the shapes are then checked.
Names are those of open_clip: `ViT-B-32` has GELU, `ViT-B-32-quickgelu` and `openai/ViT-B-32` have the QuickGELU of
OpenAI's models.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
"""Keys under which training checkpoints store their weights."""

AVERAGED_KEYS = ("state_dict_ema", "ema_state_dict", "model_ema", "ema_model", "ema")
"""Keys under which training checkpoints store averaged (EMA) weights."""

_MAX_NESTING = 4
_NOT_WEIGHTS = ("n_averaged", "attn_mask", "input_resolution", "context_length", "vocab_size")
_SCALARS = ("logit_scale", "logit_bias")
_TEXT_PREFIX = "text."
_QUICKGELU_SUFFIX = "-quickgelu"
_OPENAI_PREFIX = "openai/"
_LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of older files


def read_checkpoint(path: Path, architecture: str | None, averaged: bool | None) -> Checkpoint:
    """Read a training checkpoint or a bare state dict.

    Args:
        path: a file that torch wrote, a safetensors file, or the index of several safetensors files.
        architecture: a name of `architectures`. None is always refused, with a message that suggests a name.
        averaged: whether to take the averaged (EMA) weights; None takes whichever the file has, and is refused if it
            has both.

    Returns:
        Tensors in the precision of the file, or in float32 if the file mixes several.

    Raises:
        WeightsError: the file has no weights, or they do not fit the architecture.
    """
    state_dict, release = _read(path, averaged)
    tensors = _renamed(state_dict, str(path))
    shapes = shapes_of(tensors)
    if all(name.startswith("visual.") for name in shapes):
        raise WeightsError(f"{path}: an image tower without a text tower; pass the weights of a whole CLIP model")
    if architecture is None:
        raise WeightsError(f"{path}: the activation does not follow from weights alone; {_advice(shapes)}")
    model = architecture_named(architecture)
    mismatch = differences(shapes, shapes_of(build_empty(model).state_dict()), f"{architecture} has")
    if mismatch:
        raise WeightsError(f"{path}: not {architecture}: {mismatch}; {_advice(shapes)}")
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
    """Read the tensors of a file under the names that they have there.

    Wrappers that training adds are removed: surrounding dictionaries, the prefix `module.` of distributed models, and
    `_orig_mod.` of compiled models.

    Args:
        path: as for `read_checkpoint`.
        averaged: as for `read_checkpoint`.

    Raises:
        WeightsError: the file is missing, is broken, or has no weights.
    """
    return _read(path, averaged)[0]


def read_first_state_dict(directory: Path, names: Sequence[str | Path]) -> tuple[dict[str, Tensor], Path]:
    """Read the first of several files that exists in a directory.

    Args:
        directory: the directory.
        names: names of weights files, preferred first.

    Returns:
        The tensors, as `read_state_dict` returns them, and the path of the file.

    Raises:
        WeightsError: no such file exists, or the first one is broken.
    """
    path = next((directory / name for name in names if (directory / name).exists()), None)
    if path is None:
        raise WeightsError(f"{directory}: no weights; expected {' or '.join(str(name) for name in names)}")
    return read_state_dict(path), path


def architectures() -> dict[str, ModelConfig]:
    """Every architecture that can be named for weights without a configuration, by name."""
    named = {name: config for name, config in PRESETS.items() if name not in PUBLISHED}
    for name, config in PUBLISHED.items():
        named |= {name: _with_gelu(config), f"{name}{_QUICKGELU_SUFFIX}": config, f"{_OPENAI_PREFIX}{name}": config}
    return named


def architecture_named(name: str) -> ModelConfig:
    """The architecture with a name of `architectures`.

    Raises:
        WeightsError: the name is unknown; the message contains the nearest name and all names.
    """
    configs = architectures()
    if name not in configs:
        raise WeightsError(f"unknown architecture {name!r}; known: {', '.join(configs)}{nearest(name, configs)}")
    return configs[name]


def _with_gelu(config: ModelConfig) -> ModelConfig:
    image = config.image
    if isinstance(image, VisionTransformerConfig):
        image = msgspec.structs.replace(image, activation="gelu")
    return msgspec.structs.replace(config, image=image, text=msgspec.structs.replace(config.text, activation="gelu"))


def _advice(shapes: Mapping[str, Shape]) -> str:
    """Advice on which architecture to name for weights with these shapes."""
    try:
        implied = architecture_of(shapes, "quick_gelu")
    except WeightsError:
        implied = None
    names = [name for name, config in PUBLISHED.items() if config == implied]
    if names:
        name, with_quick_gelu = names[0], f"{names[0]}{_QUICKGELU_SUFFIX}"
        return f"the file looks like {name}: pass --as {name} (GELU) or --as {with_quick_gelu} (QuickGELU)"
    # names with OpenAI's prefix are omitted, because they are synonyms of those with the suffix -quickgelu
    choices = [name for name in architectures() if not name.startswith(_OPENAI_PREFIX)]
    return f"name the architecture with --as, one of {', '.join(choices)}"


def _read(path: Path, averaged: bool | None) -> tuple[dict[str, Tensor], Callable[[], None]]:
    """A state dict, and a function that releases the memory pages of the file that were read."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; pass a weights file")
    if not is_archive(path):
        _refuse_legacy(path)
        return _without_prefixes(_select(read_safetensors(path), averaged, str(path)), str(path)), lambda: None
    archive = read_archive(path)
    return _without_prefixes(_select(archive.value, averaged, str(path)), str(path)), archive.release


def _refuse_legacy(path: Path) -> None:
    """Refuse files of torch before 1.6: pickles whose sizes cannot be checked before memory is allocated."""
    with path.open("rb") as file:
        is_legacy = file.read(len(_LEGACY_START)) == _LEGACY_START
    if is_legacy:
        raise WeightsError(
            f"{path}: written by torch before 1.6, in a format that cannot be checked before it is loaded; if you "
            "trust the file, convert it: torch.save(torch.load(old, weights_only=True), new)"
        )


def _select(value: Any, averaged: bool | None, where: str) -> Mapping[str, Tensor]:
    """Select the plain or the averaged state dict of a training checkpoint."""
    is_averaged = False
    for _ in range(_MAX_NESTING):
        plain, ema = _first_dictionary(value, PLAIN_KEYS), _first_dictionary(value, AVERAGED_KEYS)
        if plain is None and ema is None:
            break
        if plain is not None and ema is not None and averaged is None:
            raise WeightsError(f"{where}: has both plain and averaged weights; choose with --averaged or --plain")
        takes_ema = ema is not None and (plain is None or averaged is True)
        is_averaged = is_averaged or takes_ema
        value = ema if takes_ema else plain
    tensors = dict(_checked(value, where))
    is_averaged = is_averaged or "n_averaged" in tensors
    if averaged is not None and averaged != is_averaged:
        requested, present = ("averaged", "plain") if averaged else ("plain", "averaged")
        raise WeightsError(f"{where}: has no {requested} weights, only {present} ones; use --{present}")
    return tensors


def _first_dictionary(value: Any, keys: tuple[str, ...]) -> dict[str, Any] | None:
    parts = (value.get(key) for key in keys) if isinstance(value, dict) else ()
    return next((part for part in parts if isinstance(part, dict)), None)


def _checked(value: Any, where: str) -> Iterator[tuple[str, Tensor]]:
    """The items of a state dict; a dictionary that contains anything other than tensors is not one."""
    if not isinstance(value, dict) or not value:
        raise WeightsError(
            f"{where}: contains no state dict; expected tensors by name, possibly under the key 'state_dict'"
        )
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            shown = first_names([str(name)])
            raise WeightsError(f"{where}: contains no state dict: {shown} is not a tensor; save the state dict alone")
        yield name, tensor


def _without_prefixes(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Remove the prefixes of distributed and compiled models from the names, in any order."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        bare = name
        while (shorter := bare.removeprefix("module.").removeprefix("_orig_mod.")) != bare:
            bare = shorter
        bare = bare.replace("._orig_mod.", ".")
        if bare in renamed:
            raise WeightsError(f"{where}: two tensors are named {first_names([bare])}; save the state dict again")
        renamed[bare] = tensor
    return renamed


def _renamed(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors under the names of `CLIP`; in open_clip's `CustomTextCLIP` the text tower has the prefix `text.`."""
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new_name = name.removeprefix(_TEXT_PREFIX)
        if new_name in renamed:
            raise WeightsError(f"{where}: two tensors are named {first_names([new_name])}; save the state dict again")
        if new_name not in _NOT_WEIGHTS:
            is_scalar = new_name in _SCALARS and tensor.numel() == 1
            renamed[new_name] = tensor.reshape(()) if is_scalar else tensor
    return renamed
