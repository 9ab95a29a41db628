"""Write a model in another format, with proof that it is the same model.

    openai       model.pt, a state dict that OpenAI's code can read
    open_clip    open_clip_config.json, open_clip_model.safetensors
    hf           config.json, preprocessor_config.json, model.safetensors and the tokenizer, for transformers' CLIPModel
                 or SiglipModel
    onnx         image.onnx, text.onnx, wordsight.json
    wordsight    wordsight.json, model.safetensors

For every target except ONNX, the written files are read again before the output directory appears. If the card that is
read back differs, the format cannot represent the model, and the conversion is refused with the key that would be lost.
Then the outputs of both models are compared (`certificate.py`), and those of the target's own library, if it is
installed (`target_library.py`). The directory appears complete, including `certificate.json`, or not at all.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from wordsight.config import differing_keys, plain
from wordsight.errors import OutputError, WeightsError, nearest
from wordsight.files import atomic_directory, write_atomic
from wordsight.model import CLIP
from wordsight.progress import phase
from wordsight.weights.card import CARD_NAME, Card, read_card, read_tokenizer_file
from wordsight.weights.certificate import CERTIFICATE_NAME, Certificate, compare, hash_files
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats.onnx_directory import Exported, write_beside_graphs
from wordsight.weights.formats.registry import FORMATS
from wordsight.weights.formats.wordsight import hash_weights
from wordsight.weights.target_library import with_library

ONNX = "onnx"
TARGETS = (*FORMATS, ONNX)
"""Formats that can be written."""

_IMPLIED_KEY = "preprocessing.crop"
"""The rounding of an odd crop margin, which a format may prescribe; the certificate reports a change."""

_CLEANING_KEYS = {f"tokenizer.{key}" for key in ("lower_case", "removes_punctuation", "repairs", "file", "file_sha256")}
"""Keys that `--to hf` makes part of a `tokenizer.json`; the certificate compares the ids."""

_PROVENANCE_KEYS = {"name", "source", "licence", "weights_sha256", "training", "format"}
"""Keys of a card that do not affect embeddings and that other formats cannot store."""


def convert(checkpoint: Checkpoint, out: Path, target: str) -> Certificate:
    """Write a model in another format and prove that it is the same.

    Args:
        checkpoint: the source; half precision is written as float32.
        out: the output directory, which must not exist.
        target: one of `TARGETS`; see the module docstring.

    Returns:
        The certificate, which is also stored in the directory, with the hashes of its files.

    Raises:
        WeightsError: the format cannot represent this model, or the written model computes different values; no files
            are left behind.
        OutputError: the directory already exists or cannot be written.
        MissingExtraError: ONNX needs packages that are not installed.
    """
    if target not in TARGETS:
        raise WeightsError(f"--to {target}: expected one of {', '.join(TARGETS)}{nearest(target, TARGETS)}")
    if out.exists():
        raise OutputError(f"{out}: already exists; choose a new directory")
    tensors = {name: _as_float32(tensor) for name, tensor in checkpoint.tensors.items()}
    checkpoint = Checkpoint(tensors, checkpoint.card, checkpoint.files)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise WeightsError(
                f"{checkpoint.card.name}: {name} has values that are not finite: the weights are damaged, or their "
                "training diverged"
            )
    model = checkpoint.build(checkpoint.card.name)
    with atomic_directory(out.absolute()) as directory:
        if target == ONNX:
            certificate = _write_onnx(checkpoint, model, directory)
        else:
            certificate = _write(checkpoint, model, directory, target)
        certificate.require(out)
        stored = msgspec.structs.replace(certificate, files=hash_files(directory))
        write_atomic(directory / CERTIFICATE_NAME, stored.as_json())
    return certificate


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


@phase("writing and comparing")
def _write(checkpoint: Checkpoint, model: CLIP, directory: Path, target: str) -> Certificate:
    FORMATS[target].write(checkpoint, model, directory)
    try:
        written = FORMATS[target].read(directory)
    except WeightsError as error:
        reason = str(error).replace(str(directory), target)
        raise WeightsError(f"{target} cannot represent this model: {reason}") from error
    _require_same_card(checkpoint.card, written.card, target)
    certificate = compare(target, checkpoint, model, written, written.build(str(directory)))
    return with_library(certificate, directory, checkpoint, model, written.card)


def _require_same_card(card: Card, written: Card, target: str) -> None:
    """Refuse a target whose files would be read as another model.

    Raises:
        WeightsError: the format cannot represent a key; the message names the first such key and the value that would
            be read instead.
    """
    before, after = (
        {key: value for key, value in plain(_with_implied_end(each)).items() if key not in _PROVENANCE_KEYS}
        for each in (card, written)
    )
    in_file = _CLEANING_KEYS if target == "hf" and card.tokenizer.family == "tokenizers" else ()
    for key in differing_keys(before, after):
        if key == _IMPLIED_KEY or key in in_file:
            continue
        raise WeightsError(
            f"{target} cannot represent {key} {_value(before, key)!r}: its files would be read with "
            f"{_value(after, key)!r}; choose another format, such as wordsight"
        )


def _with_implied_end(card: Card) -> Card:
    """The card without an end id that is the highest id, which a text tower without an end id uses.

    Both find the first end of a text, so the embeddings are equal.
    """
    text = card.model.text
    if text.end_id is None or text.end_id != text.vocabulary_size - 1:
        return card
    model = msgspec.structs.replace(card.model, text=msgspec.structs.replace(text, end_id=None))
    return msgspec.structs.replace(card, model=model)


def _value(tree: Any, key: str) -> Any:
    """The value of a dotted key in nested dictionaries."""
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


@phase("exporting to ONNX and comparing")
def _write_onnx(checkpoint: Checkpoint, model: CLIP, directory: Path) -> Certificate:
    from wordsight.weights.formats.onnx import max_differences, write_graphs

    write_graphs(model, directory)
    bias = model.logit_bias.item() if model.config.logit_bias else 0.0
    exported = Exported(scale=model.scale.item(), bias=bias, weights=hash_weights(model.state_dict()))
    write_beside_graphs(directory, checkpoint.card, exported, checkpoint.files)
    card = read_card(directory / CARD_NAME)
    written = Checkpoint(checkpoint.tensors, card, read_tokenizer_file(directory, card))
    images, texts = max_differences(model, directory)
    certificate = compare(ONNX, checkpoint, model, written, model)
    library = f"onnxruntime {version('onnxruntime')}"  # `images` and `texts` are its outputs
    return msgspec.structs.replace(certificate, images=images, texts=texts, library=library)
