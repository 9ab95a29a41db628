"""Files that contain only weights: a state dict, possibly within a training checkpoint, without a configuration.

The user names the architecture, because the activation does not follow from any tensor; the shapes are then checked.
Names are those of open_clip: `ViT-B-32` has GELU, `ViT-B-32-quickgelu` and `openai/ViT-B-32` have the QuickGELU of
OpenAI's models.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor

from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.files import open_regular
from wordsight.image import Preprocessing
from wordsight.model import PRESETS, PUBLISHED, ModelConfig, VisionTransformerConfig, build_empty
from wordsight.weights.card import Card, TokenizerConfig
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import INDEX_SUFFIX, as_one_precision, read_safetensors, read_sharded
from wordsight.weights.containers.torch_archive import is_archive, read_archive
from wordsight.weights.formats.key_layouts import Layout, to_ours
from wordsight.weights.formats.nesting import StateDict, find_state_dict
from wordsight.weights.mistaken import mistaken_for_weights
from wordsight.weights.shapes import architecture_of, differences, first_names, shapes_of

_NOT_WEIGHTS = ("n_averaged", "attn_mask", "input_resolution", "context_length", "vocab_size")
_SCALARS = ("logit_scale", "logit_bias")
_TEXT_PREFIX = "text."
_IMAGE_TOWERS = ("visual.", "vision_model.")
_HUGGING_FACE: Layout = "hugging_face_clip"
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
    state_dict = read_state_dict(path, averaged)
    tensors = renamed(state_dict.tensors, str(path))
    if all(name.startswith(_IMAGE_TOWERS) for name in tensors):
        raise WeightsError(f"{path}: an image tower without a text tower; pass the weights of a whole CLIP model")
    if architecture is None:
        raise WeightsError(f"{path}: the activation does not follow from weights alone; {_advice(tensors)}")
    model = architecture_named(architecture)
    if _is_hugging_face(tensors):
        with suppress(WeightsError):  # the message below is about the named architecture
            tensors = to_ours(tensors, _HUGGING_FACE, model, str(path))
    mismatch = differences(shapes_of(tensors), shapes_of(build_empty(model).state_dict()), f"{architecture} has")
    if mismatch:
        raise WeightsError(f"{path}: not {architecture}: {mismatch}; {_advice(tensors)}")
    try:
        card = Card(
            name=path.stem,
            model=model,
            preprocessing=Preprocessing(size_px=model.image.image_size_px),
            tokenizer=TokenizerConfig(context_length=model.text.context_length),
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error
    return Checkpoint(tensors, with_averaged(card, state_dict.is_averaged))


def read_state_dict(path: Path, averaged: bool | None = None) -> StateDict:
    """Read the tensors of a file under the names that they have there, in one precision.

    Everything that training programs add around a model is removed; see `nesting.py`. Tensors of several precisions,
    or of float64, become float32.

    Args:
        path: as for `read_checkpoint`.
        averaged: as for `read_checkpoint`.

    Raises:
        WeightsError: the file is missing, is broken, or has no weights.
    """
    if path.is_symlink() and not path.exists():
        raise WeightsError(f"{path}: {mistaken_for_weights(path)}")
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; pass a weights file")
    if path.name.endswith(INDEX_SUFFIX):
        return _find(read_sharded(path, lambda part: _content(part)[0]), averaged, str(path))
    content, release = _content(path)
    return _find(content, averaged, str(path), release)


def read_first_state_dict(
    directory: Path, names: Sequence[str | Path], averaged: bool | None = None
) -> tuple[StateDict, Path]:
    """Read the first of several files that exists in a directory.

    Args:
        directory: the directory.
        names: names of weights files, preferred first.
        averaged: as for `read_checkpoint`.

    Returns:
        The tensors, as `read_state_dict` returns them, and the path of the file.

    Raises:
        WeightsError: no such file exists, or the first one is broken.
    """
    paths = [directory / name for name in names]
    path = next((path for path in paths if path.exists() or path.is_symlink()), None)
    if path is None:
        expected = " or ".join(str(name) for name in names)
        raise WeightsError(f"{directory}: no weights; expected {expected}; pass the file itself if it has another name")
    return read_state_dict(path, averaged), path


def with_averaged(card: Card, is_averaged: bool) -> Card:
    """The card of a model whose weights were found in a training checkpoint: it says if they are averaged."""
    return msgspec.structs.replace(card, training=card.training | {"averaged": True}) if is_averaged else card


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


def _is_hugging_face(names: Mapping[str, object]) -> bool:
    return "vision_model.embeddings.class_embedding" in names


def _implied(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the published architectures that have tensors with these names and shapes."""
    if not _is_hugging_face(tensors):
        with suppress(WeightsError):
            implied = architecture_of(shapes_of(tensors), "quick_gelu")
            return [name for name, config in PUBLISHED.items() if config == implied]
        return []
    names = []
    for name, config in PUBLISHED.items():
        with suppress(WeightsError):
            to_ours(tensors, _HUGGING_FACE, config, name)
            names.append(name)
    return names


def _advice(tensors: Mapping[str, Tensor]) -> str:
    """Advice on which architecture to name for these weights."""
    names = _implied(tensors)
    if names:
        name, with_quick_gelu = names[0], f"{names[0]}{_QUICKGELU_SUFFIX}"
        return f"the file looks like {name}: pass --as {name} (GELU) or --as {with_quick_gelu} (QuickGELU)"
    # names with OpenAI's prefix are omitted, because they are synonyms of those with the suffix -quickgelu
    choices = [name for name in architectures() if not name.startswith(_OPENAI_PREFIX)]
    return f"name the architecture with --as, one of {', '.join(choices)}"


def _content(path: Path) -> tuple[Any, Callable[[], None]]:
    """The content of a single file, and a function that releases the memory pages of the file that were read."""
    if is_archive(path):
        archive = read_archive(path)
        return archive.value, archive.release
    _refuse_legacy(path)
    return read_safetensors(path), lambda: None


def _find(value: Any, averaged: bool | None, where: str, release: Callable[[], None] = lambda: None) -> StateDict:
    state_dict = find_state_dict(value, averaged, where)
    return state_dict._replace(tensors=dict(as_one_precision(state_dict.tensors, where, release)))


def _refuse_legacy(path: Path) -> None:
    """Refuse files of torch before 1.6: pickles whose sizes cannot be checked before memory is allocated."""
    with open_regular(path) as file:
        is_legacy = file.read(len(_LEGACY_START)) == _LEGACY_START
    if is_legacy:
        raise WeightsError(
            f"{path}: written by torch before 1.6, in a format that cannot be checked before it is loaded; if you "
            "trust the file, convert it: torch.save(torch.load(old, weights_only=True), new)"
        )


def renamed(tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors under the names of `CLIP`; in open_clip's `CustomTextCLIP` the text tower has the prefix `text.`.

    Args:
        tensors: a state dict, as `read_state_dict` returns it; not modified.
        where: the file, named in errors.

    Raises:
        WeightsError: two names become the same.
    """
    ours: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        new_name = name.removeprefix(_TEXT_PREFIX)
        if new_name in ours:
            raise WeightsError(f"{where}: two tensors are named {first_names([new_name])}; save the state dict again")
        if new_name not in _NOT_WEIGHTS:
            is_scalar = new_name in _SCALARS and tensor.numel() == 1
            ours[new_name] = tensor.reshape(()) if is_scalar else tensor
    return ours
