"""Hugging Face directories: CLIPModel and SiglipModel of transformers, with their processors' settings and tokenizers.

`config.json` says the architecture, `preprocessor_config.json` (or `processor_config.json`) what is done to images,
the tokenizer's files what is done to texts. `hugging_face_config.py` reads the first two; here are the directory, the
tokenizer, and the way back.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torch import Tensor

from wordsight.errors import ConfigError, WeightsError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, SigLIPConfig, TextConfig, VisionTransformerConfig
from wordsight.text import FileTokenizer, TokenizerConfig, TokenizerFile
from wordsight.weights.card import Card
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats.hugging_face_config import ACTIVATIONS, read_model, read_preprocessing
from wordsight.weights.formats.key_layouts import Layout, to_ours, to_theirs
from wordsight.weights.formats.state_dict import read_state_dict

CONFIG_NAME = "config.json"
PREPROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")
WEIGHTS_NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
CLIP_VOCABULARY_SIZE = 49408

_TOKENIZER_FILES = ("spiece.model", "tokenizer.json", "tokenizer.model", "sentencepiece.bpe.model")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_MAX_JSON_BYTES = 1 << 24
_MAX_TOKENIZER_BYTES = 1 << 27
_PADS_LEFT = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")
"""Classes of transformers that pad at the left where their settings do not say."""


def read_hugging_face(directory: str | Path) -> Checkpoint:
    """A model in a directory that transformers' `save_pretrained` writes.

    Raises:
        WeightsError: a file is missing or broken, the configuration has a key that we do not know or a value that we
            cannot honour, or the weights contradict it.
    """
    directory = Path(directory)
    path = directory / CONFIG_NAME
    config, files = read_json(path), tokenizer_files(directory)
    try:
        model, layout = read_model(config, str(path))
        card = Card(
            name=directory.name,
            model=model,
            preprocessing=read_preprocessing(*_preprocessor(directory), layout, model.image.image_size_px),
            tokenizer=_tokenizer(model, layout, files, str(directory)),
        )
    except ConfigError as error:
        message = str(error)
        raise WeightsError(message if message.startswith(str(directory)) else f"{path}: {message}") from error
    tensors, chosen = read_weights(directory, WEIGHTS_NAMES)
    used = {card.tokenizer.file: files[card.tokenizer.file]} if card.tokenizer.file else {}
    return Checkpoint(to_ours(tensors, layout, card.model, str(chosen)), card, used)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that is one table, of at most 16 MiB.

    Raises:
        WeightsError: it is missing, too large, or not such a file.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise WeightsError(f"{path}: larger than {_MAX_JSON_BYTES} bytes, no configuration; fetch it again")
        content = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError as error:
        raise WeightsError(f"{path}: no such file; put it beside the weights") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightsError(f"{path}: not JSON: {error}; fetch it again") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path}: expected a table, found {type(content).__name__}; fetch it again")
    return content


def read_weights(directory: Path, names: Sequence[str | Path]) -> tuple[dict[str, Tensor], Path]:
    """The tensors of the first of these files that a directory has, under the file's names, and which it was.

    Raises:
        WeightsError: there is none, or it is broken.
    """
    path = next((directory / name for name in names if (directory / name).exists()), None)
    if path is None:
        raise WeightsError(f"{directory}: no weights; expected {' or '.join(str(name) for name in names)}")
    return read_state_dict(path), path


def tokenizer_files(directory: Path) -> dict[str, bytes]:
    """The bytes of a directory's files that tokenizers are made of, by name.

    Raises:
        WeightsError: one is larger than any tokenizer, or cannot be read.
    """
    files = {}
    for name in (*_TOKENIZER_FILES, *_SETTINGS):
        path = directory / name
        try:
            if not path.is_file():
                continue
            if path.stat().st_size > _MAX_TOKENIZER_BYTES:
                raise WeightsError(f"{path}: larger than {_MAX_TOKENIZER_BYTES} bytes, no tokenizer; fetch it again")
            files[name] = path.read_bytes()
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error
    return files


def read_tokenizer(
    files: Mapping[str, bytes], context_length: int, vocabulary_size: int, where: str
) -> TokenizerConfig:
    """What the tokenizer's own files say: family, begin, end and pad ids, padding side, case as they lie there.

    A `spiece.model` beside settings that name SiglipTokenizer is read by sentencepiece, as transformers does; else a
    `tokenizer.json` is taken if there is one, else a sentencepiece model. Texts of the latter always have an end.

    Raises:
        WeightsError: no such file, or its ids do not fit the vocabulary of the model.
        ConfigError: the file is broken, or does not know the symbols that the settings name.
    """
    settings = _settings(files, where)
    is_siglip = str(settings.get("tokenizer_class", "")).startswith("SiglipTokenizer")
    names = sorted((name for name in _TOKENIZER_FILES if name in files), key=lambda name: name != "tokenizer.json")
    if is_siglip and "spiece.model" in files:
        names = ["spiece.model"]
    if not names:
        raise WeightsError(
            f"{where}: a vocabulary of {vocabulary_size} needs its own tokenizer: put tokenizer.json or spiece.model"
        )
    family = "tokenizers" if names[0] == "tokenizer.json" else "sentencepiece"
    file = TokenizerFile(family, names[0], files[names[0]])  # type: ignore[arg-type]
    symbols = {key: _symbol(settings.get(f"{key}_token")) for key in ("bos", "eos", "pad")}
    if is_siglip:
        symbols = {"bos": None, "eos": symbols["eos"] or "</s>", "pad": symbols["pad"] or "</s>"}
    if symbols["pad"] is None:
        raise WeightsError(f"{where}: tokenizer_config.json names no pad_token, so rows cannot be filled; add it")
    begin, end = _around(file, settings, symbols)
    side = settings.get("padding_side") or ("left" if settings.get("tokenizer_class") in _PADS_LEFT else "right")
    if side not in ("left", "right"):
        raise WeightsError(f"{where}: padding_side {side!r}: expected left or right")
    config = TokenizerConfig(
        family=family,  # type: ignore[arg-type]
        context_length=context_length,
        begin_id=begin,
        end_id=end,
        pad_id=file.id_of(symbols["pad"]),
        padding_side=side,  # type: ignore[arg-type]
        file=file.name,
        file_sha256=file.sha256,
    )
    if not FileTokenizer(config, files[file.name]).fits(vocabulary_size):
        raise WeightsError(
            f"{where}: {file.name} has ids beyond the vocabulary of {vocabulary_size}; it belongs to another model"
        )
    return config


class HuggingFaceFiles(NamedTuple):
    """What a directory for transformers holds: two tables to be written as JSON, and the tensors under their names."""

    config: dict[str, Any]
    preprocessor: dict[str, Any]
    tensors: dict[str, Tensor]


def hugging_face_files_of(card: Card, tensors: Mapping[str, Tensor]) -> HuggingFaceFiles:
    """A model of ours as transformers' CLIPModel or SiglipModel; the tokenizer's files are the converter's to copy.

    Raises:
        WeightsError: transformers has no class for this model.
    """
    layout = layout_for(card.model)
    config = _siglip_config(card) if layout == "hugging_face_siglip" else _clip_config(card)
    return HuggingFaceFiles(config, _preprocessor_of(card.preprocessing, layout), to_theirs(tensors, layout))


def layout_for(model: ModelConfig) -> Layout:
    """Which of transformers' two classes can hold a model.

    Raises:
        WeightsError: neither, and why.
    """
    image, text = model.image, model.text
    if isinstance(image, SigLIPConfig):
        reasons = {
            "SiglipModel has a logit bias": model.logit_bias,
            "SiglipModel reads the last token": text.pool == "last" and not text.is_causal,
            "SiglipModel's text projection has a bias": text.projection == "linear",
            "SiglipModel has no layer scale": not (image.layer_scale or text.layer_scale),
        }
        layout: Layout = "hugging_face_siglip"
    elif isinstance(image, VisionTransformerConfig):
        reasons = {
            "CLIPModel has no logit bias": not model.logit_bias,
            "CLIPModel reads the end of a causal text": text.pool == "end" and text.is_causal,
            "CLIPModel projects texts by a matrix": text.projection == "matrix",
            "CLIPModel reads the class token": image.pool == "class_token",
            "CLIPModel normalises before its first block": image.norm_before,
            "CLIPModel has one convolution for patches": image.stem == "patch",
            "CLIPModel has no layer scale": not (image.layer_scale or text.layer_scale),
        }
        layout = "hugging_face_clip"
    else:
        raise WeightsError("hf: transformers has no CLIP with an image tower of this kind; choose another format")
    wrong = [reason for reason, holds in reasons.items() if not holds]
    if wrong:
        raise WeightsError(f"hf: {wrong[0]}, and this model differs; choose another format")
    return layout


def _preprocessor(directory: Path) -> tuple[dict[str, Any], str]:
    """The settings of the image processor and the file that has them."""
    for name in PREPROCESSOR_NAMES:
        if (directory / name).exists():
            settings = read_json(directory / name)
            inner = settings.get("image_processor", settings)
            if isinstance(inner, dict):
                return inner, str(directory / name)
    raise WeightsError(
        f"{directory}: no {PREPROCESSOR_NAMES[0]}, which says what is done to images; put it beside config.json"
    )


def _tokenizer(model: ModelConfig, layout: Layout, files: Mapping[str, bytes], where: str) -> TokenizerConfig:
    text = model.text
    if text.vocabulary_size == CLIP_VOCABULARY_SIZE:
        return TokenizerConfig(context_length=text.context_length)
    found = read_tokenizer(files, text.context_length, text.vocabulary_size, where)
    if layout == "hugging_face_clip":
        return found
    settings = _settings(files, where)
    is_siglip = str(settings.get("tokenizer_class", "")).startswith("SiglipTokenizer")
    lower_case = bool(settings.get("do_lower_case", True))  # SigLIP 2 was trained so whatever its class says
    return msgspec.structs.replace(found, lower_case=lower_case, removes_punctuation=is_siglip)


def _settings(files: Mapping[str, bytes], where: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name in reversed(_SETTINGS):
        try:
            content = msgspec.json.decode(files.get(name, b"{}"))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise WeightsError(f"{where}: {name}: not JSON: {error}; fetch it again") from error
        if not isinstance(content, dict):
            raise WeightsError(f"{where}: {name}: expected a table; fetch it again")
        settings |= content
    return settings


def _symbol(value: Any) -> str | None:
    """A symbol, which settings give as a text or as a table with `content`."""
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _around(
    file: TokenizerFile, settings: Mapping[str, Any], symbols: Mapping[str, str | None]
) -> tuple[int | None, int | None]:
    """Begin and end ids: those that a `tokenizer.json` puts there, whatever the settings say, as in transformers."""
    found = file.around()
    if found is not None:
        return found
    bos, eos = symbols["bos"], symbols["eos"]
    return (file.id_of(bos) if settings.get("add_bos_token") and bos else None), (file.id_of(eos) if eos else None)


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
    end = 2 if model.text.end_id is None else model.text.end_id  # 2: the greatest id, as transformers reads it
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
    kind = "Siglip" if layout == "hugging_face_siglip" else "CLIP"
    return settings | {"image_processor_type": f"{kind}ImageProcessor"}
