"""Directories of transformers' CLIPModel and SiglipModel.

`config.json` describes the architecture, `preprocessor_config.json` (or `processor_config.json`) the preprocessing of
images, and the tokenizer's files the tokenizer. This module reads and writes the directory; the configuration files are
read by `hugging_face_config.py`, the tokenizer by `tokenizer_files.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import Tensor

from wordsight.errors import ConfigError, WeightsError
from wordsight.image import Preprocessing
from wordsight.model import CLIP, ModelConfig, SigLIPConfig, TextConfig, VisionTransformerConfig
from wordsight.text import TokenizerConfig
from wordsight.weights.card import CLIP_VOCABULARY_SIZE, Card
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import write_safetensors
from wordsight.weights.formats.hugging_face_config import ACTIVATIONS, read_model, read_preprocessing
from wordsight.weights.formats.json_files import read_json_object, write_json
from wordsight.weights.formats.key_layouts import Layout, to_ours, to_theirs
from wordsight.weights.formats.state_dict import read_first_state_dict, with_averaged
from wordsight.weights.formats.tokenizer_files import (
    has_vocabulary,
    is_siglip_tokenizer,
    read_settings,
    read_tokenizer,
    tokenizer_files,
    write_tokenizer,
)
from wordsight.weights.formats.tokenizer_json import END, without_published_clip

CONFIG_NAME = "config.json"
PREPROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")
WEIGHTS_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_hugging_face(
    directory: str | Path, weights: str | Path | None = None, averaged: bool | None = None
) -> Checkpoint:
    """Read a model in a directory that transformers' `save_pretrained` wrote.

    Args:
        directory: contains `config.json`, `preprocessor_config.json`, the weights and the tokenizer's files.
        weights: a weights file to read instead of the directory's.
        averaged: for a training checkpoint, whether to take its averaged (EMA) weights.

    Raises:
        WeightsError: a file is missing or broken, the configuration has an unknown key or an unsupported value, or the
            weights contradict it.
    """
    directory = Path(directory)
    path = directory / CONFIG_NAME
    config, files = read_json_object(path), tokenizer_files(directory)
    try:
        model, layout = read_model(config, str(path))
        if model.text.vocabulary_size == CLIP_VOCABULARY_SIZE:
            files = without_published_clip(files, str(directory))
        card = Card(
            name=directory.name,
            model=model,
            preprocessing=read_preprocessing(*_preprocessor(directory), layout, model.image.image_size_px),
            tokenizer=_tokenizer(model, layout, files, str(directory)),
        )
    except ConfigError as error:
        message = str(error)
        raise WeightsError(message if message.startswith(str(directory)) else f"{path}: {message}") from error
    names = WEIGHTS_NAMES if weights is None else (Path(weights).absolute(),)
    state_dict, weights_path = read_first_state_dict(directory, names, averaged)
    card = with_averaged(card, state_dict.is_averaged)
    used = {card.tokenizer.file: files[card.tokenizer.file]} if card.tokenizer.file else {}
    return Checkpoint(to_ours(state_dict.tensors, layout, card.model, str(weights_path)), card, used)


class HuggingFaceFiles(NamedTuple):
    """The contents of a directory for transformers, except for the tokenizer.

    Attributes:
        config: content of `config.json`.
        preprocessor: content of `preprocessor_config.json`.
        tensors: contents of `model.safetensors` under transformers' names.
    """

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    tensors: dict[str, Tensor]


def hugging_face_files_of(card: Card, tensors: Mapping[str, Tensor]) -> HuggingFaceFiles:
    """Represent a model as transformers' CLIPModel or SiglipModel.

    Args:
        card: describes the model.
        tensors: the state dict of the model.

    Raises:
        WeightsError: transformers has no class for this model.
    """
    layout = layout_for(card.model)
    config = _siglip_config(card) if layout == "hugging_face_siglip" else _clip_config(card)
    return HuggingFaceFiles(config, _preprocessor_of(card.preprocessing, layout), to_theirs(tensors, layout))


def write_hugging_face(checkpoint: Checkpoint, model: CLIP, directory: Path) -> None:
    """Write a model as a directory for transformers.

    Raises:
        WeightsError: transformers has no class for this model.
        OutputError: a file cannot be written.
    """
    files = hugging_face_files_of(checkpoint.card, model.state_dict())
    write_json(directory / CONFIG_NAME, files.config)
    write_json(directory / PREPROCESSOR_NAMES[0], files.preprocessor)
    write_safetensors(directory / WEIGHTS_NAMES[0], files.tensors, {"format": "pt"})
    write_tokenizer(checkpoint, directory, _processor_of(layout_for(checkpoint.card.model)))


def layout_for(model: ModelConfig) -> Layout:
    """The key layout of the transformers class that can represent a model.

    Raises:
        WeightsError: neither class can; the message says why.
    """
    image, text = model.image, model.text
    if isinstance(image, SigLIPConfig):
        reasons = {
            "SiglipModel has a logit bias": model.logit_bias,
            "SiglipModel pools the last token of a text that is not causal": text.pool == "last" and not text.is_causal,
            "SiglipModel's text projection has a bias": text.projection == "linear",
            "SiglipModel has no layer scale": not (image.layer_scale or text.layer_scale),
        }
        layout: Layout = "hugging_face_siglip"
    elif isinstance(image, VisionTransformerConfig):
        reasons = {
            "CLIPModel has no logit bias": not model.logit_bias,
            "CLIPModel pools the end token of a causal text": text.pool == "end" and text.is_causal,
            "CLIPModel projects texts without a bias": text.projection == "matrix",
            "CLIPModel pools the class token of an image": image.pool == "class_token",
            "CLIPModel normalises patches before the first block": image.norm_before,
            "CLIPModel embeds patches by a single convolution": image.stem == "patch",
            "CLIPModel has no layer scale": not (image.layer_scale or text.layer_scale),
        }
        layout = "hugging_face_clip"
    else:
        raise WeightsError("hf: transformers has no CLIP with this kind of image tower; choose another format")
    differing = [reason for reason, holds in reasons.items() if not holds]
    if differing:
        raise WeightsError(f"hf: {differing[0]}, but this model differs; choose another format")
    return layout


def _preprocessor(directory: Path) -> tuple[dict[str, Any], str]:
    """The settings of the image processor, and the path of their file."""
    for name in PREPROCESSOR_NAMES:
        if (directory / name).exists():
            settings = read_json_object(directory / name)
            inner = settings.get("image_processor", settings)
            if isinstance(inner, dict):
                return inner, str(directory / name)
    raise WeightsError(
        f"{directory}: no {PREPROCESSOR_NAMES[0]}, which describes the preprocessing; put it next to {CONFIG_NAME}"
    )


def _tokenizer(model: ModelConfig, layout: Layout, files: Mapping[str, bytes], where: str) -> TokenizerConfig:
    text = model.text
    if text.vocabulary_size == CLIP_VOCABULARY_SIZE and not has_vocabulary(files):
        return TokenizerConfig(context_length=text.context_length)
    pad_token = END if layout == "hugging_face_clip" else None
    tokenizer = read_tokenizer(files, text.context_length, text.vocabulary_size, where, pad_token)
    if layout == "hugging_face_clip":
        return tokenizer
    settings = read_settings(files, where)
    # SigLIP 2 was trained on lower-cased texts, but its settings do not say so
    lower_case = bool(settings.get("do_lower_case", True))
    return msgspec.structs.replace(tokenizer, lower_case=lower_case, removes_punctuation=is_siglip_tokenizer(settings))


def _tower_config(tower: VisionTransformerConfig | SigLIPConfig | TextConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "intermediate_size": tower.mlp_width or 4 * tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "hidden_act": {ours: theirs for theirs, ours in ACTIVATIONS.items()}[tower.activation],
        "layer_norm_eps": tower.epsilon,
        "attention_dropout": 0.0,
    }


def _vision_config(image: VisionTransformerConfig | SigLIPConfig) -> dict[str, Any]:
    sizes = {"image_size": image.image_size_px, "patch_size": image.patch_size_px, "num_channels": 3}
    return _tower_config(image) | sizes


def _text_config(card: Card) -> dict[str, Any]:
    text = card.model.text
    return _tower_config(text) | {"vocab_size": text.vocabulary_size, "max_position_embeddings": text.context_length}


def _clip_config(card: Card) -> dict[str, Any]:
    model, tokenizer = card.model, card.tokenizer
    assert isinstance(model.image, VisionTransformerConfig)
    end = 2 if model.text.end_id is None else model.text.end_id  # 2: transformers then takes the largest id
    begin = CLIP_VOCABULARY_SIZE - 2 if tokenizer.family == "clip" else tokenizer.begin_id
    ids = {"bos_token_id": begin, "eos_token_id": end, "pad_token_id": tokenizer.pad_id}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": model.embed_dim,
        "text_config": _text_config(card) | ids | {"model_type": "clip_text_model", "projection_dim": model.embed_dim},
        "vision_config": _vision_config(model.image)
        | {"model_type": "clip_vision_model", "projection_dim": model.embed_dim},
    }


def _siglip_config(card: Card) -> dict[str, Any]:
    model, tokenizer = card.model, card.tokenizer
    assert isinstance(model.image, SigLIPConfig)
    ids = {"bos_token_id": tokenizer.begin_id, "eos_token_id": tokenizer.end_id, "pad_token_id": tokenizer.pad_id}
    text = _text_config(card) | ids | {"model_type": "siglip_text_model", "projection_size": model.embed_dim}
    vision = _vision_config(model.image) | {"model_type": "siglip_vision_model"}
    return {"architectures": ["SiglipModel"], "model_type": "siglip", "text_config": text, "vision_config": vision}


def _preprocessor_of(images: Preprocessing, layout: Layout) -> dict[str, Any]:
    side = {"height": images.size_px, "width": images.size_px}
    crops = images.resize == "shortest"
    settings = {
        "do_resize": True,
        "size": {"shortest_edge": images.size_px} if crops else side,
        "resample": {"bicubic": 3, "bilinear": 2}[images.interpolation],
        "do_center_crop": crops,
        **({"crop_size": side} if crops else {}),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(images.mean),
        "image_std": list(images.std),
        "do_convert_rgb": True,
    }
    processor = _processor_of(layout)
    return settings | {
        "image_processor_type": processor.replace("Processor", "ImageProcessor"),
        "processor_class": processor,
    }


def _processor_of(layout: Layout) -> str:
    return "SiglipProcessor" if layout == "hugging_face_siglip" else "CLIPProcessor"
