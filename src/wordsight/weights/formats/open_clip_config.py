"""Read open_clip's configuration, `open_clip_config.json`, as a card.

Keys that are omitted have the defaults of open_clip's data classes, which are repeated here. An unknown key is an
error, and so is a known key whose value describes a model that wordsight does not support.

Source: open_clip 3.3.0 `model.py: CLIPVisionCfg, CLIPTextCfg`, `transform.py: PreprocessCfg`, `factory.py`.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from wordsight.config import MAX_SHOWN, Config, decode
from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.image import CLIP_MEAN, CLIP_STD, Preprocessing
from wordsight.model import ModelConfig, ModifiedResNetConfig, SigLIPConfig, TextConfig, VisionTransformerConfig
from wordsight.model.config import Activation
from wordsight.text import TokenizerConfig
from wordsight.weights.card import CLIP_VOCABULARY_SIZE, Card
from wordsight.weights.formats.timm_siglip import mlp_width, timm_image, timm_names
from wordsight.weights.formats.tokenizer_files import has_vocabulary, read_tokenizer

CONFIG_NAME = "open_clip_config.json"

_HEAD_WIDTH = 64


class _Attention(Config, frozen=True):
    """Options of both towers that select other kinds of blocks; no published model of these classes uses them."""

    block_type: str | None = None
    qk_norm: bool = False
    scaled_cosine_attn: bool = False
    scale_heads: bool = False
    scale_attn_inner: bool = False
    scale_attn: bool = False
    scale_fc: bool = False


class _Vision(_Attention, frozen=True):
    layers: int | tuple[int, int, int, int] = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int | None = 16  # None in configurations of ResNets
    image_size: int | tuple[int, int] = 224
    ls_init_value: float | None = None
    patch_dropout: float = 0.0
    attentional_pool: bool | str = False
    attn_pooler_queries: int = 256
    attn_pooler_heads: int = 8
    no_ln_pre: bool = False
    pos_embed_type: str = "learnable"
    final_ln_after_pool: bool = False
    pool_type: str = "tok"
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None
    timm_model_name: str | None = None
    timm_model_pretrained: bool = False
    timm_pool: str | None = "avg"
    timm_proj: str | None = "linear"
    timm_proj_bias: bool = False
    timm_drop: float = 0.0
    timm_drop_path: float | None = None


class _Text(_Attention, frozen=True):
    context_length: int = 77
    vocab_size: int = 49408
    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0
    ls_init_value: float | None = None
    embed_cls: bool = False
    pad_id: int = 0
    eos_id: int = 2
    no_causal_mask: bool = False
    final_ln_after_pool: bool = False
    pool_type: str = "argmax"
    proj_bias: bool = False
    proj_type: str = "linear"
    output_tokens: bool = False
    act_kwargs: dict[str, Any] | None = None
    norm_kwargs: dict[str, Any] | None = None
    hf_model_name: str | None = None
    hf_model_pretrained: bool = True
    hf_proj_type: str = "mlp"
    hf_pooler_type: str = "mean_pooler"


class _Model(Config, frozen=True):
    embed_dim: int
    vision_cfg: _Vision
    text_cfg: _Text
    quick_gelu: bool = False
    custom_text: bool = False
    init_logit_scale: float | None = None
    init_logit_bias: float | None = None
    nonscalar_logit_scale: bool = False
    multimodal_cfg: dict[str, Any] | None = None
    output_dict: bool = False


class _Preprocess(Config, frozen=True):
    size: int | tuple[int, ...] | None = None
    mode: str = "RGB"
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int | tuple[int, ...] = 0


def read_open_clip_config(
    model_cfg: Mapping[str, Any],
    preprocess_cfg: Mapping[str, Any],
    files: Mapping[str, bytes] | None = None,
    where: str = CONFIG_NAME,
    name: str = "",
) -> Card:
    """Convert open_clip's configuration to a card.

    Args:
        model_cfg: as in open_clip's `model_configs`.
        preprocess_cfg: preprocessing; if it is empty, open_clip's defaults apply.
        files: the tokenizer's files by name; models with the vocabulary of 49,408 need none.
        where: the file, named in errors.
        name: name of the card.

    Raises:
        WeightsError: an unknown key, with the nearest known one, or a value that is not supported.
    """
    try:
        config = decode(dict(model_cfg), _Model, f"{where}: model_cfg")
        preprocess = decode(dict(preprocess_cfg), _Preprocess, f"{where}: preprocess_cfg")
        _refuse(config, where)
        activation = _activation(config, config.text_cfg.act_kwargs, where)
        model = ModelConfig(
            image=_image(config, where),
            text=_text(config, activation, where),
            embed_dim=config.embed_dim,
            logit_bias=config.init_logit_bias is not None,
        )
        return Card(
            name=name or "open_clip",
            model=model,
            preprocessing=_preprocessing(preprocess, model.image.image_size_px, where),
            tokenizer=_tokenizer(config.text_cfg, files or {}, where),
        )
    except ConfigError as error:
        message = str(error)
        raise WeightsError(message if message.startswith(where) else f"{where}: {message}") from error


def _require(claim: bool, where: str, key: str, value: Any, reason: str) -> None:
    if not claim:
        raise WeightsError(f"{where}: {key} {repr(value)[:MAX_SHOWN]}: {reason}")


def _refuse(config: _Model, where: str) -> None:
    """Refuse options of open_clip for which wordsight has no tower."""
    vision, text = config.vision_cfg, config.text_cfg
    _require(config.multimodal_cfg is None, where, "multimodal_cfg", "...", "CoCa's caption decoder is not supported")
    _require(text.hf_model_name is None, where, "text_cfg.hf_model_name", text.hf_model_name, _UNSUPPORTED_TEXT_TOWER)
    _require(
        not vision.attentional_pool, where, "vision_cfg.attentional_pool", vision.attentional_pool, _UNSUPPORTED_POOLING
    )
    for table, tower in (("vision_cfg", vision), ("text_cfg", text)):
        for key in _Attention.__struct_fields__:
            value = getattr(tower, key)
            _require(
                value in (None, False, "default"),
                where,
                f"{table}.{key}",
                value,
                "blocks of this kind are not supported",
            )
    _require(
        not text.embed_cls or config.custom_text,
        where,
        "text_cfg.embed_cls",
        True,
        "open_clip computes a class token only if custom_text is set; set it",
    )


_UNSUPPORTED_TEXT_TOWER = "text towers of transformers' other models are not supported, only open_clip's own text tower"
_UNSUPPORTED_POOLING = "CoCa's attentional pooling with several queries is not supported"


def _image(config: _Model, where: str) -> VisionTransformerConfig | SigLIPConfig | ModifiedResNetConfig:
    vision = config.vision_cfg
    if vision.timm_model_name is not None:
        return _timm_tower(vision, where)
    size_px = _side(vision.image_size, where, "vision_cfg.image_size")
    if isinstance(vision.layers, tuple):
        _require(vision.head_width == _HEAD_WIDTH, where, "vision_cfg.head_width", vision.head_width, _RESNET_HEADS)
        return ModifiedResNetConfig(image_size_px=size_px, layers=vision.layers, width=vision.width)
    _require_choice(vision.pool_type, {"tok", "avg"}, where, "vision_cfg.pool_type")
    _require(
        vision.patch_size is not None,
        where,
        "vision_cfg.patch_size",
        None,
        "expected the patch size of a vision transformer",
    )
    _require_choice(vision.pos_embed_type, {"learnable", "sin_cos_2d"}, where, "vision_cfg.pos_embed_type")
    return VisionTransformerConfig(
        image_size_px=size_px,
        patch_size_px=vision.patch_size or 0,
        width=vision.width,
        layers=vision.layers,
        heads=_heads(vision, where),
        activation=_activation(config, vision.act_kwargs, where),
        mlp_width=mlp_width(vision.width, vision.mlp_ratio),
        epsilon=_epsilon(vision.norm_kwargs, where, "vision_cfg.norm_kwargs"),
        layer_scale=vision.ls_init_value is not None,
        norm_before=not vision.no_ln_pre,
        pool="class_token" if vision.pool_type == "tok" else "mean",
        norm_after_pool=vision.final_ln_after_pool,
    )


_RESNET_HEADS = "expected 64: ResNets pool with heads of this width, as published"


def _heads(vision: _Vision, where: str) -> int:
    divides = vision.head_width > 0 and vision.width % vision.head_width == 0
    _require(divides, where, "vision_cfg.head_width", vision.head_width, f"does not divide the width {vision.width}")
    return vision.width // vision.head_width


def _timm_tower(vision: _Vision, where: str) -> SigLIPConfig:
    name = vision.timm_model_name or ""
    image = timm_image(name)
    if image is None:
        hint = nearest(name, timm_names()) if "siglip" in name else ""
        raise WeightsError(
            f"{where}: vision_cfg.timm_model_name {name!r}: of timm's towers only SigLIP's are supported{hint}"
        )
    reason = "SigLIP's tower has attention pooling (map) and no projection (none)"
    _require(vision.timm_pool == "map", where, "vision_cfg.timm_pool", vision.timm_pool, reason)
    _require(vision.timm_proj == "none", where, "vision_cfg.timm_proj", vision.timm_proj, reason)
    side = _side(vision.image_size, where, "vision_cfg.image_size")
    _require(side == image.image_size_px, where, "vision_cfg.image_size", side, f"contradicts the name {name}")
    return image


def _text(config: _Model, activation: Activation, where: str) -> TextConfig:
    text = config.text_cfg
    _require_choice(text.pool_type, {"argmax", "eos", "first", "last"}, where, "text_cfg.pool_type")
    _require_choice(text.proj_type, {"linear", "none"}, where, "text_cfg.proj_type")
    pools_end = text.pool_type in ("argmax", "eos")
    return TextConfig(
        width=text.width,
        heads=text.heads,
        layers=text.layers,
        context_length=text.context_length,
        vocabulary_size=text.vocab_size,
        activation=activation,
        mlp_width=mlp_width(text.width, text.mlp_ratio),
        epsilon=_epsilon(text.norm_kwargs, where, "text_cfg.norm_kwargs"),
        layer_scale=text.ls_init_value is not None,
        is_causal=not text.no_causal_mask,
        pool="class_token" if text.embed_cls else "end" if pools_end else text.pool_type,  # type: ignore[arg-type]
        end_id=text.eos_id if text.pool_type == "eos" and not text.embed_cls else None,
        pad_id=text.pad_id,
        projection="none" if text.proj_type == "none" else "linear" if text.proj_bias else "matrix",
    )


def _tokenizer(text: _Text, files: Mapping[str, bytes], where: str) -> TokenizerConfig:
    options = dict(text.tokenizer_kwargs or {})
    is_published = text.vocab_size == CLIP_VOCABULARY_SIZE and not has_vocabulary(files)
    has_files = bool(text.hf_tokenizer_name) and not is_published
    clean = options.pop("clean", "whitespace" if has_files else "lower")
    strips_end = options.pop("strip_sep_token", False)
    if options:
        key = next(iter(options))
        hint = nearest(key, ["clean", "strip_sep_token"])
        raise WeightsError(f"{where}: text_cfg.tokenizer_kwargs has an unknown key {key!r}{hint}")
    if not has_files:
        _require(
            clean == "lower" and not strips_end,
            where,
            "text_cfg.tokenizer_kwargs",
            text.tokenizer_kwargs,
            _CLIP_CLEANING,
        )
        return TokenizerConfig(context_length=text.context_length)
    _require_choice(clean, {"whitespace", "lower", "canonicalize"}, where, "text_cfg.tokenizer_kwargs.clean")
    _require(not text.tokenizer_mode, where, "text_cfg.tokenizer_mode", text.tokenizer_mode, "no mode is supported")
    tokenizer = read_tokenizer(files, text.context_length, text.vocab_size, where)
    return msgspec.structs.replace(
        tokenizer,
        end_id=0 if strips_end and tokenizer.end_id is not None else tokenizer.end_id,
        lower_case=clean != "whitespace",
        removes_punctuation=clean == "canonicalize",
        repairs=True,
    )


_CLIP_CLEANING = "the clip tokenizer has only one way of cleaning texts (lower)"


def _preprocessing(preprocess: _Preprocess, size_px: int, where: str) -> Preprocessing:
    side = size_px if preprocess.size is None else _side(preprocess.size, where, "preprocess_cfg.size")
    _require(side == size_px, where, "preprocess_cfg.size", side, f"the image tower expects {size_px}")
    _require_choice(preprocess.mode, {"RGB"}, where, "preprocess_cfg.mode")
    _require_choice(preprocess.resize_mode, {"shortest", "squash"}, where, "preprocess_cfg.resize_mode")
    _require_choice(preprocess.interpolation, {"bicubic", "bilinear"}, where, "preprocess_cfg.interpolation")
    return Preprocessing(
        size_px=size_px,
        mean=preprocess.mean,
        std=preprocess.std,
        resize=preprocess.resize_mode,  # type: ignore[arg-type]
        interpolation=preprocess.interpolation,  # type: ignore[arg-type]
    )


def _side(size: int | tuple[int, ...], where: str, key: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    _require(len(sides) == 1, where, key, size, "expected a square")
    return sides.pop()


def _require_choice(value: str, choices: set[str], where: str, key: str) -> None:
    expected = " or ".join(sorted(choices))
    _require(value in choices, where, key, value, f"expected {expected}{nearest(value, choices)}")


def _activation(config: _Model, options: Mapping[str, Any] | None, where: str) -> Activation:
    remaining = dict(options or {})
    approximation = remaining.pop("approximate", "none")
    is_valid = not remaining and approximation in ("none", "tanh") and not (config.quick_gelu and options)
    reason = "GELU has one option, approximate (none or tanh); quick_gelu has none"
    _require(is_valid, where, "act_kwargs", options, reason)
    return "quick_gelu" if config.quick_gelu else "gelu_tanh" if approximation == "tanh" else "gelu"


def _epsilon(options: Mapping[str, Any] | None, where: str, key: str) -> float:
    remaining = dict(options or {})
    epsilon = remaining.pop("eps", 1e-5)
    is_valid = not remaining and isinstance(epsilon, float | int) and epsilon > 0
    _require(is_valid, where, key, options, "expected eps, a number above 0, and nothing else")
    return float(epsilon)
