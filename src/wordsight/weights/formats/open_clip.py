"""open_clip's directories: `open_clip_config.json` and `open_clip_model.safetensors` or `open_clip_pytorch_model.bin`.

This module reads and writes the directory; `open_clip_config.py` reads the configuration.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wordsight.errors import WeightsError
from wordsight.model import (
    CLIP,
    ModelConfig,
    ModifiedResNetConfig,
    SigLIPConfig,
    TextConfig,
    VisionTransformerConfig,
)
from wordsight.text import TokenizerConfig
from wordsight.weights.card import CLIP_VOCABULARY_SIZE, Card
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.safetensors import write_safetensors
from wordsight.weights.formats.json_files import read_json_object, write_json
from wordsight.weights.formats.key_layouts import Layout, to_ours, to_theirs
from wordsight.weights.formats.open_clip_config import CONFIG_NAME, read_open_clip_config
from wordsight.weights.formats.state_dict import read_first_state_dict, with_averaged
from wordsight.weights.formats.timm_siglip import timm_name_of
from wordsight.weights.formats.tokenizer_files import tokenizer_files, write_tokenizer
from wordsight.weights.formats.tokenizer_json import without_published_clip

__all__ = [
    "CONFIG_NAME",
    "WEIGHTS_NAMES",
    "layout_for_writing",
    "layout_of",
    "open_clip_config_of",
    "read_open_clip",
    "read_open_clip_config",
    "write_open_clip",
]

WEIGHTS_NAMES = ("open_clip_model.safetensors", "open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin")

_INITIAL_SCALE = 2.6592600369327783  # log(1 / 0.07)
_INITIAL_SCALE_WITH_BIAS = 2.302585092994046  # log(10)
_INITIAL_BIAS = -10.0


def read_open_clip(
    directory: str | Path, weights: str | Path | None = None, averaged: bool | None = None
) -> Checkpoint:
    """Read a model in open_clip's directory format.

    Args:
        directory: contains `open_clip_config.json`, the weights, and the tokenizer's files if the model has its own.
        weights: a weights file to read instead of the directory's.
        averaged: for a training checkpoint, whether to take its averaged (EMA) weights.

    Raises:
        WeightsError: a file is missing or broken, the configuration has an unknown key or an unsupported value, or the
            weights contradict it.
    """
    directory = Path(directory)
    path = directory / CONFIG_NAME
    config = read_json_object(path)
    unknown = sorted(config.keys() - {"model_cfg", "preprocess_cfg"})
    preprocess = config.get("preprocess_cfg") or {}
    invalid = [*unknown, *(["model_cfg"] if not isinstance(config.get("model_cfg"), dict) else [])]
    invalid += ["preprocess_cfg"] if not isinstance(preprocess, dict) else []
    if invalid:
        raise WeightsError(
            f"{path}: key {invalid[0]!r}: expected the objects model_cfg and preprocess_cfg; download it again"
        )
    files = tokenizer_files(directory)
    text_cfg = config["model_cfg"].get("text_cfg")
    if isinstance(text_cfg, dict) and text_cfg.get("vocab_size", CLIP_VOCABULARY_SIZE) == CLIP_VOCABULARY_SIZE:
        files = without_published_clip(files, str(directory))
    card = read_open_clip_config(config["model_cfg"], preprocess, files, str(path), directory.name)
    names = WEIGHTS_NAMES if weights is None else (Path(weights).absolute(),)
    state_dict, weights_path = read_first_state_dict(directory, names, averaged)
    tensors, card = state_dict.tensors, with_averaged(card, state_dict.is_averaged)
    used = {card.tokenizer.file: files[card.tokenizer.file]} if card.tokenizer.file else {}
    return Checkpoint(to_ours(tensors, layout_of(card.model, tensors), card.model, str(weights_path)), card, used)


def write_open_clip(checkpoint: Checkpoint, model: CLIP, directory: Path) -> None:
    """Write a model as open_clip's directory.

    Raises:
        WeightsError: open_clip's configuration cannot represent this model.
        OutputError: a file cannot be written.
    """
    config = open_clip_config_of(checkpoint.card)
    tensors = to_theirs(model.state_dict(), layout_for_writing(checkpoint.card.model))
    write_json(directory / CONFIG_NAME, config)
    write_safetensors(directory / WEIGHTS_NAMES[0], tensors, {"format": "pt"})
    if checkpoint.card.tokenizer.family != "clip":
        write_tokenizer(checkpoint, directory)


def layout_of(model: ModelConfig, names: Mapping[str, Any]) -> Layout:
    """The one of open_clip's key layouts that a state dict with these names has."""
    if isinstance(model.image, SigLIPConfig):
        return "open_clip_siglip"
    return "open_clip_text" if any(name.startswith("text.") for name in names) else "open_clip"


def layout_for_writing(model: ModelConfig) -> Layout:
    """The key layout of the class that open_clip builds from `open_clip_config_of`."""
    if isinstance(model.image, SigLIPConfig):
        return "open_clip_siglip"
    return "open_clip_text" if model.text.pool == "class_token" else "open_clip"


def open_clip_config_of(card: Card) -> dict[str, Any]:
    """The content of `open_clip_config.json`, from which open_clip builds this model and its preprocessing.

    Raises:
        WeightsError: the configuration cannot represent the card.
    """
    model, text = card.model, card.model.text
    has_bias = model.logit_bias
    has_custom_text = layout_for_writing(model) != "open_clip"
    model_cfg: dict[str, Any] = {
        "embed_dim": model.embed_dim,
        "init_logit_scale": _INITIAL_SCALE_WITH_BIAS if has_bias else _INITIAL_SCALE,
        **({"init_logit_bias": _INITIAL_BIAS} if has_bias else {}),
        **({"custom_text": True} if has_custom_text else {}),
        **({"quick_gelu": True} if text.activation == "quick_gelu" else {}),
        "vision_cfg": _vision_cfg(model),
        "text_cfg": _text_cfg(text) | _tokenizer_cfg(card.tokenizer, card.name),
    }
    images = card.preprocessing
    preprocess_cfg = {
        "size": [images.size_px, images.size_px],
        "mode": "RGB",
        "mean": list(images.mean),
        "std": list(images.std),
        "interpolation": images.interpolation,
        "resize_mode": images.resize,
        "fill_color": 0,
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}


def _vision_cfg(model: ModelConfig) -> dict[str, Any]:
    image = model.image
    if isinstance(image, SigLIPConfig):
        name = timm_name_of(image)
        if name is None:
            raise WeightsError(
                "open_clip builds SigLIP's image towers by timm's names, and this tower has none; choose the format hf"
            )
        return {
            "image_size": image.image_size_px,
            "timm_model_name": name,
            "timm_model_pretrained": False,
            "timm_pool": "map",
            "timm_proj": "none",
        }
    if isinstance(image, ModifiedResNetConfig):
        return {"image_size": image.image_size_px, "layers": list(image.layers), "width": image.width}
    if not isinstance(image, VisionTransformerConfig) or image.stem != "patch":
        raise WeightsError("open_clip has no such image tower; choose the format wordsight")
    if "quick_gelu" in (image.activation, model.text.activation) and image.activation != model.text.activation:
        raise WeightsError("open_clip has quick_gelu in both towers or in neither; choose the format wordsight")
    return {
        "image_size": image.image_size_px,
        "patch_size": image.patch_size_px,
        "width": image.width,
        "layers": image.layers,
        "head_width": image.width // image.heads,
        **_tower_cfg(image),
        **({} if image.norm_before else {"no_ln_pre": True}),
        **({"pool_type": "avg"} if image.pool == "mean" else {}),
        **({"final_ln_after_pool": True} if image.norm_after_pool else {}),
    }


def _text_cfg(text: TextConfig) -> dict[str, Any]:
    pools = {"end": "argmax" if text.end_id is None else "eos", "first": "first", "last": "last"}
    return {
        "context_length": text.context_length,
        "vocab_size": text.vocabulary_size,
        "width": text.width,
        "heads": text.heads,
        "layers": text.layers,
        **_tower_cfg(text),
        **({} if text.is_causal else {"no_causal_mask": True}),
        **({"embed_cls": True} if text.pool == "class_token" else {"pool_type": pools[text.pool]}),
        **({"eos_id": text.end_id} if text.end_id is not None else {}),
        "pad_id": text.pad_id,
        **({"proj_bias": True} if text.projection == "linear" else {}),
        **({"proj_type": "none"} if text.projection == "none" else {}),
    }


def _tower_cfg(tower: VisionTransformerConfig | TextConfig) -> dict[str, Any]:
    """The keys that both towers have; values equal to open_clip's defaults are omitted."""
    options: dict[str, Any] = {}
    if tower.mlp_width not in (None, 4 * tower.width):
        options["mlp_ratio"] = _mlp_ratio(tower.width, tower.mlp_width or 0)
    if tower.layer_scale:
        options["ls_init_value"] = 1e-5
    if tower.epsilon != 1e-5:
        options["norm_kwargs"] = {"eps": tower.epsilon}
    if tower.activation == "gelu_tanh":
        options["act_kwargs"] = {"approximate": "tanh"}
    return options


def _mlp_ratio(width: int, inner: int) -> float:
    """A ratio whose product with the width, truncated to an integer, is the inner width, as open_clip computes it."""
    for ratio in (inner / width, (inner + 0.5) / width):
        if int(width * ratio) == inner:
            return ratio
    raise WeightsError(
        f"open_clip: no mlp_ratio yields the inner width {inner} for width {width}; choose the format wordsight"
    )


def _tokenizer_cfg(tokenizer: TokenizerConfig, name: str) -> dict[str, Any]:
    if tokenizer.family == "clip":
        return {}
    cleanings = {(False, False): "whitespace", (True, False): "lower", (True, True): "canonicalize"}
    clean = cleanings.get((tokenizer.lower_case, tokenizer.removes_punctuation))
    if clean is None or not tokenizer.repairs:
        raise WeightsError(
            "open_clip repairs texts before tokenizing them, and lower-cases them if it removes punctuation; "
            "this tokenizer does not: choose the format hf or wordsight"
        )
    strips_end = tokenizer.end_id == tokenizer.pad_id == 0
    kwargs = {"clean": clean, **({"strip_sep_token": True} if strips_end else {})}
    return {"hf_tokenizer_name": name, "tokenizer_kwargs": kwargs}
