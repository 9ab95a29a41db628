"""Read transformers' `config.json` and `preprocessor_config.json` of a CLIPModel or SiglipModel.

Keys that are omitted have the defaults of transformers' classes. Keys that do not affect embeddings are listed here and
ignored. Any other unknown key is an error, and so is a known key whose value describes a model that wordsight does not
support.

Source: transformers 5.24 `configuration_clip.py`, `configuration_siglip.py`, `image_processing_pil_clip.py`,
`image_processing_pil_siglip.py`.
"""

from collections.abc import Mapping
from typing import Any, Literal

from wordsight.config import MAX_SHOWN, Config, decode
from wordsight.errors import WeightsError, nearest
from wordsight.image import CLIP_MEAN, CLIP_STD, Preprocessing
from wordsight.model import ModelConfig, SigLIPConfig, TextConfig, VisionTransformerConfig
from wordsight.model.config import Activation
from wordsight.weights.formats.key_layouts import Layout

ACTIVATIONS: dict[str, Activation] = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_tanh"}
"""transformers' names of activations -> wordsight's."""

_COSMETIC_WORDS = """
    _attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures attention_dropout
    bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dropout dtype early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label
    initializer_factor initializer_range is_composition is_decoder is_encoder_decoder label2id length_penalty
    logit_scale_init_value max_length min_length no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix problem_type
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16 use_cache
"""
COSMETIC = frozenset(_COSMETIC_WORDS.split())
"""Keys of transformers' configurations that do not affect embeddings: initialisation, generation, training, names."""

_IMAGE_WORDS = """
    image_processor_type feature_extractor_type processor_class data_format input_data_format default_to_square
    return_tensors device disable_grouping image_seq_length do_convert_rgb
"""
_COSMETIC_IMAGE_KEYS = frozenset(_IMAGE_WORDS.split())
_LEGACY_END_ID = 2  # with this id, transformers pools the token with the largest id
_HALF = (0.5, 0.5, 0.5)
_FILTERS: dict[int, Literal["bilinear", "bicubic"]] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


class _Tower(Config, frozen=True):
    model_type: str = ""
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    pruned_heads: dict[str, Any] | None = None


class _ClipText(_Tower, frozen=True):
    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    projection_dim: int | None = None
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 49407


class _ClipVision(_Tower, frozen=True):
    hidden_size: int = 768
    projection_dim: int | None = None
    num_channels: int = 3
    image_size: int | tuple[int, ...] = 224
    patch_size: int | tuple[int, ...] = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float = 1e-5


class _SiglipText(_Tower, frozen=True):
    vocab_size: int = 32000
    hidden_size: int = 768
    projection_size: int | None = None
    max_position_embeddings: int = 64
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    eos_token_id: int | None = None  # not used: SiglipModel pools the last token


class _SiglipVision(_Tower, frozen=True):
    hidden_size: int = 768
    num_channels: int = 3
    image_size: int | tuple[int, ...] = 224
    patch_size: int | tuple[int, ...] = 16
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6
    vision_use_head: bool = True


class _Top(Config, frozen=True):
    model_type: str
    text_config: dict[str, Any] | None = None
    vision_config: dict[str, Any] | None = None
    text_config_dict: dict[str, Any] | None = None
    vision_config_dict: dict[str, Any] | None = None
    projection_dim: int = 512


class _Images(Config, frozen=True):
    do_resize: bool = True
    size: int | dict[str, int] | None = None
    resample: int = 3
    do_center_crop: bool | None = None
    crop_size: int | dict[str, int] | None = None
    do_rescale: bool = True
    rescale_factor: float = 1 / 255
    do_normalize: bool = True
    image_mean: tuple[float, float, float] | None = None
    image_std: tuple[float, float, float] | None = None
    do_pad: bool | None = None
    pad_size: dict[str, int] | None = None


def read_model(config: Mapping[str, Any], where: str) -> tuple[ModelConfig, Layout]:
    """Read the architecture from `config.json`.

    Args:
        config: content of the file.
        where: the file, named in errors.

    Returns:
        The architecture and the key layout of its tensors.

    Raises:
        WeightsError: the model type is neither clip nor siglip, or a value is not supported.
        ConfigError: an unknown key, with the nearest known one.
    """
    model_type = config.get("model_type")
    if model_type == "siglip2":
        raise WeightsError(
            f"{where}: model_type 'siglip2' is the model with flexible resolution, whose input is not a square image "
            "but patches with a mask; use a SigLIP 2 checkpoint with a fixed resolution, whose model_type is 'siglip'"
        )
    if model_type not in ("clip", "siglip"):
        hint = nearest(str(model_type)[:MAX_SHOWN], ["clip", "siglip"])
        raise WeightsError(f"{where}: model_type {repr(model_type)[:MAX_SHOWN]}: expected clip or siglip{hint}")
    top = decode(_without_cosmetics(config), _Top, where)
    text, vision = _tower_settings(top, "text_config", where), _tower_settings(top, "vision_config", where)
    if model_type == "clip":
        return _clip(top.projection_dim, text, vision, where), "hugging_face_clip"
    return _siglip(text, vision, where), "hugging_face_siglip"


def read_preprocessing(settings: Mapping[str, Any], where: str, layout: Layout, size_px: int) -> Preprocessing:
    """Read the preprocessing from the settings of an image processor.

    Args:
        settings: content of `preprocessor_config.json`.
        where: the file, named in errors.
        layout: key layout of the model, which implies the class of the processor.
        size_px: height and width of the image tower's input.

    Raises:
        WeightsError: the settings describe preprocessing that is not supported.
        ConfigError: an unknown key, with the nearest known one.
    """
    is_clip = layout == "hugging_face_clip"
    kept = {key: value for key, value in settings.items() if key not in _COSMETIC_IMAGE_KEYS and key[:1] != "_"}
    images = decode({key: value for key, value in kept.items() if value is not None}, _Images, where)
    for key in ("do_resize", "do_rescale", "do_normalize"):
        _require(
            getattr(images, key),
            where,
            key,
            False,
            "only preprocessing that resizes, rescales and normalises is supported",
        )
    _require(
        abs(images.rescale_factor * 255 - 1) < 1e-6, where, "rescale_factor", images.rescale_factor, "expected 1/255"
    )
    _require(not images.do_pad, where, "do_pad", True, "padding is not supported")
    _require(images.resample in _FILTERS, where, "resample", images.resample, "expected 3 (bicubic) or 2 (bilinear)")
    crops = is_clip if images.do_center_crop is None else images.do_center_crop
    size = _size(images.size, "shortest_edge" if is_clip else "both", size_px)
    side = {"height": size_px, "width": size_px}
    expected = {"shortest_edge": size_px} if crops else side
    reason = f"because the image tower expects {size_px} pixels{' after the crop' if crops else ''}"
    _require(size == expected, where, "size", images.size, f"expected {expected}, {reason}")
    crop = _size(images.crop_size, "both", size_px)
    _require(not crops or crop == side, where, "crop_size", images.crop_size, f"expected {side}, {reason}")
    return Preprocessing(
        size_px=size_px,
        mean=images.image_mean or (CLIP_MEAN if is_clip else _HALF),
        std=images.image_std or (CLIP_STD if is_clip else _HALF),
        resize="shortest" if crops else "squash",
        interpolation=_FILTERS[images.resample],
        crop="floor" if crops else "round",
    )


def _size(size: int | dict[str, int] | None, default_key: str, size_px: int) -> dict[str, int]:
    """A size as a dictionary; a bare number is interpreted as in older versions of transformers."""
    if isinstance(size, dict):
        return size
    side = size_px if size is None else size
    return {"shortest_edge": side} if default_key == "shortest_edge" else {"height": side, "width": side}


def _without_cosmetics(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in COSMETIC}


def _tower_settings(top: _Top, key: str, where: str) -> dict[str, Any]:
    """The configuration of one tower; an older `*_config_dict` replaces it, including defaults, as in transformers."""
    older = getattr(top, f"{key}_dict")
    kept = _without_cosmetics(getattr(top, key) or {})
    if older is None:
        return kept
    classes = (_ClipText, _ClipVision) if top.model_type == "clip" else (_SiglipText, _SiglipVision)
    decode(kept, classes[key == "vision_config"], f"{where}: {key}")
    return _without_cosmetics(older)


def _require(claim: bool, where: str, key: str, value: Any, reason: str) -> None:
    if not claim:
        raise WeightsError(f"{where}: {key} {repr(value)[:MAX_SHOWN]}: {reason}")


def _activation(name: str, where: str, key: str) -> Activation:
    _require(name in ACTIVATIONS, where, f"{key}.hidden_act", name, f"expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


def _side(size: int | tuple[int, ...], where: str, key: str) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    _require(len(sides) == 1, where, f"vision_config.{key}", size, "expected a square")
    return sides.pop()


def _mlp_width(width: int, inner: int) -> int | None:
    return None if inner == 4 * width else inner


def _require_supported(tower: _Tower, where: str, key: str) -> None:
    _require(not tower.pruned_heads, where, f"{key}.pruned_heads", tower.pruned_heads, "pruned heads are not supported")
    channels = getattr(tower, "num_channels", 3)
    _require(channels == 3, where, f"{key}.num_channels", channels, "expected 3")


def _clip(embed_dim: int, text_settings: dict[str, Any], vision_settings: dict[str, Any], where: str) -> ModelConfig:
    text = decode(text_settings, _ClipText, f"{where}: text_config")
    vision = decode(vision_settings, _ClipVision, f"{where}: vision_config")
    _require_supported(text, where, "text_config")
    _require_supported(vision, where, "vision_config")
    image = VisionTransformerConfig(
        image_size_px=_side(vision.image_size, where, "image_size"),
        patch_size_px=_side(vision.patch_size, where, "patch_size"),
        width=vision.hidden_size,
        layers=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        activation=_activation(vision.hidden_act, where, "vision_config"),
        mlp_width=_mlp_width(vision.hidden_size, vision.intermediate_size),
        epsilon=vision.layer_norm_eps,
    )
    tower = _text(text, where, end_id=None if text.eos_token_id == _LEGACY_END_ID else text.eos_token_id)
    return ModelConfig(image=image, text=tower, embed_dim=embed_dim)


def _siglip(text_settings: dict[str, Any], vision_settings: dict[str, Any], where: str) -> ModelConfig:
    text = decode(text_settings, _SiglipText, f"{where}: text_config")
    vision = decode(vision_settings, _SiglipVision, f"{where}: vision_config")
    _require_supported(text, where, "text_config")
    _require_supported(vision, where, "vision_config")
    _require(
        vision.vision_use_head,
        where,
        "vision_config.vision_use_head",
        False,
        "without the pooling head there is no image embedding",
    )
    projected = text.hidden_size if text.projection_size is None else text.projection_size
    reason = f"contradicts vision_config.hidden_size {vision.hidden_size}, which is the embedding dimension"
    _require(projected == vision.hidden_size, where, "text_config.projection_size", projected, reason)
    image = SigLIPConfig(
        image_size_px=_side(vision.image_size, where, "image_size"),
        patch_size_px=_side(vision.patch_size, where, "patch_size"),
        width=vision.hidden_size,
        layers=vision.num_hidden_layers,
        heads=vision.num_attention_heads,
        activation=_activation(vision.hidden_act, where, "vision_config"),
        mlp_width=_mlp_width(vision.hidden_size, vision.intermediate_size),
        epsilon=vision.layer_norm_eps,
    )
    return ModelConfig(image=image, text=_text(text, where), embed_dim=vision.hidden_size, logit_bias=True)


def _text(text: _ClipText | _SiglipText, where: str, end_id: int | None = None) -> TextConfig:
    is_clip = isinstance(text, _ClipText)
    return TextConfig(
        width=text.hidden_size,
        heads=text.num_attention_heads,
        layers=text.num_hidden_layers,
        context_length=text.max_position_embeddings,
        vocabulary_size=text.vocab_size,
        activation=_activation(text.hidden_act, where, "text_config"),
        mlp_width=_mlp_width(text.hidden_size, text.intermediate_size),
        epsilon=text.layer_norm_eps,
        is_causal=is_clip,
        pool="end" if is_clip else "last",
        end_id=end_id,
        projection="matrix" if is_clip else "linear",
    )
