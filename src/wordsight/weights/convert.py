"""A model from one format to another, with the proof that it is the same model.

    openai       model.pt, a state dict as OpenAI's code reads it
    open_clip    open_clip_config.json, open_clip_model.safetensors
    hf           config.json, preprocessor_config.json, model.safetensors, for transformers' CLIPModel or SiglipModel
    onnx         image.onnx, text.onnx, wordsight.json
    wordsight    wordsight.json, model.safetensors

Every target but ONNX is read again by its own reader before the directory appears: a card that comes back changed is one
that the format cannot say, and the conversion is refused with the keys that would be lost. Then numbers are compared
(`certificate.py`). The directory appears whole, with `certificate.json`, or not at all.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import msgspec
import torch
from safetensors.torch import save_file
from torch import Tensor

from wordsight.config import differing_keys, plain
from wordsight.errors import OutputError, WeightsError, nearest
from wordsight.files import atomic_directory, write_atomic
from wordsight.model import CLIP
from wordsight.weights.card import CARD_NAME, Card, read_card, read_tokenizer
from wordsight.weights.certificate import NAME as CERTIFICATE_NAME
from wordsight.weights.certificate import Certificate, compare
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats.hugging_face import CONFIG_NAME as HUGGING_FACE_NAME
from wordsight.weights.formats.hugging_face import PREPROCESSOR_NAMES, hugging_face_files_of, read_hugging_face
from wordsight.weights.formats.hugging_face import WEIGHTS_NAMES as HUGGING_FACE_WEIGHTS
from wordsight.weights.formats.key_layouts import to_theirs
from wordsight.weights.formats.onnx_directory import Exported, write_beside_graphs
from wordsight.weights.formats.open_clip import CONFIG_NAME as OPEN_CLIP_NAME
from wordsight.weights.formats.open_clip import WEIGHTS_NAMES as OPEN_CLIP_WEIGHTS
from wordsight.weights.formats.open_clip import layout_for_writing, open_clip_config_of, read_open_clip
from wordsight.weights.formats.openai import METADATA, read_openai
from wordsight.weights.formats.tokenizer_files import tokenizer_settings
from wordsight.weights.formats.wordsight import hash_weights, read_wordsight, save_directory

Target = Literal["openai", "open_clip", "hf", "onnx", "wordsight"]

OPENAI_NAME = "model.pt"

_IMPLIED = "preprocessing.crop"
"""What a format decides by itself: where the half pixel of an odd margin goes. The certificate says it."""

_FORM = {"name", "source", "licence", "weights_sha256", "training", "format"}
"""Keys of a card that only say where a model comes from: other formats have no place for them."""


class _Format(NamedTuple):
    """How a target is written into a directory, and read again."""

    write: Callable[[Checkpoint, CLIP, Path], None]
    read: Callable[[Path], Checkpoint]


def convert(found: Checkpoint, out: Path, target: str) -> Certificate:
    """Write a model in another format and prove that it is the same.

    Args:
        found: what was read; half precision is written as float32.
        out: a directory that is not there yet.
        target: see the top of this file.

    Returns:
        The certificate, which lies in the directory too.

    Raises:
        WeightsError: the format cannot say this model, or the written files answer otherwise; nothing is left behind.
        OutputError: the directory is there already, or cannot be written.
        MissingExtraError: ONNX needs packages that are not installed.
    """
    if target not in get_args(Target):
        known = get_args(Target)
        raise WeightsError(f"--to {target}: expected one of {', '.join(known)}{nearest(target, known)}")
    if out.exists():
        raise OutputError(f"{out}: is there already; choose a directory that is not")
    found = Checkpoint({name: _whole(tensor) for name, tensor in found.tensors.items()}, found.card, found.files)
    model = found.build(found.card.name)
    with atomic_directory(out.absolute()) as directory:
        certificate = (
            _write_onnx(found, model, directory) if target == "onnx" else _write(found, model, directory, target)
        )
        certificate.require(out)
        write_atomic(directory / CERTIFICATE_NAME, certificate.as_json())
    return certificate


def _whole(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def _write(found: Checkpoint, model: CLIP, directory: Path, target: str) -> Certificate:
    form = _FORMATS[target]
    form.write(found, model, directory)
    try:
        again = form.read(directory)
    except WeightsError as error:
        raise WeightsError(f"{target} cannot say this model: {str(error).replace(str(directory), target)}") from error
    _require_same(found.card, again.card, target)
    return compare(target, found, model, again, again.build(str(directory)))


def _require_same(card: Card, again: Card, target: str) -> None:
    """Refuse a target whose files would be read as another model.

    Raises:
        WeightsError: names the first key that the format cannot say, and as what it would be read.
    """
    before, after = ({k: v for k, v in plain(one).items() if k not in _FORM} for one in (card, again))
    for key in differing_keys(before, after):
        if key == _IMPLIED:
            continue
        raise WeightsError(
            f"{target} cannot say that {key} is {_value(before, key)!r}: its files would be read as "
            f"{_value(after, key)!r}; choose another format, such as wordsight"
        )


def _value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _write_openai(found: Checkpoint, model: CLIP, directory: Path) -> None:
    """The flat state dict, with the three numbers by which OpenAI's files are known."""
    text = found.card.model.text
    numbers = (found.card.model.image.image_size_px, text.context_length, text.vocabulary_size)
    metadata = {name: torch.tensor(number) for name, number in zip(METADATA, numbers, strict=True)}
    _saved(directory / OPENAI_NAME, lambda path: torch.save(dict(model.state_dict()) | metadata, path))


def _write_open_clip(found: Checkpoint, model: CLIP, directory: Path) -> None:
    config = open_clip_config_of(found.card)
    tensors = to_theirs(model.state_dict(), layout_for_writing(found.card.model))
    _write_json(directory / OPEN_CLIP_NAME, config)
    _saved(directory / OPEN_CLIP_WEIGHTS[0], lambda path: save_file(tensors, path, {"format": "pt"}))
    if found.card.tokenizer.family != "clip":
        _write_tokenizer(found, directory)


def _write_hugging_face(found: Checkpoint, model: CLIP, directory: Path) -> None:
    files = hugging_face_files_of(found.card, model.state_dict())
    _write_json(directory / HUGGING_FACE_NAME, files.config)
    _write_json(directory / PREPROCESSOR_NAMES[0], files.preprocessor)
    _saved(directory / HUGGING_FACE_WEIGHTS[0], lambda path: save_file(files.tensors, path, {"format": "pt"}))
    _write_tokenizer(found, directory)


def _write_tokenizer(found: Checkpoint, directory: Path) -> None:
    for name, content in {**found.files, **tokenizer_settings(found.card.tokenizer, found.files)}.items():
        write_atomic(directory / name, content)


def _write_own(found: Checkpoint, model: CLIP, directory: Path) -> None:
    save_directory(directory, model.state_dict(), found.card, found.files)


def _write_onnx(found: Checkpoint, model: CLIP, directory: Path) -> Certificate:
    from wordsight.weights.formats.onnx import greatest_differences, write_graphs

    write_graphs(model, directory)
    exported = Exported(scale=model.scale.item(), bias=_bias(model), weights=hash_weights(model.state_dict()))
    write_beside_graphs(directory, found.card, exported, found.files)
    card = read_card(directory / CARD_NAME)
    again = Checkpoint(found.tensors, card, read_tokenizer(directory, card))
    images, texts = greatest_differences(model, directory)
    return msgspec.structs.replace(compare("onnx", found, model, again, model), images=images, texts=texts)


def _bias(model: CLIP) -> float:
    return model.logit_bias.item() if model.config.logit_bias else 0.0


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_atomic(path, msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n")


def _saved(path: Path, save: Callable[[Path], None]) -> None:
    """Write a file of tensors with a library, whose words for a full disk become ours."""
    try:
        save(path)
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{path.name}: cannot be written: {reason}; choose another place or make room") from error


_FORMATS: dict[str, _Format] = {
    "openai": _Format(_write_openai, lambda directory: read_openai(directory / OPENAI_NAME)),
    "open_clip": _Format(_write_open_clip, read_open_clip),
    "hf": _Format(_write_hugging_face, read_hugging_face),
    "wordsight": _Format(_write_own, read_wordsight),
}
