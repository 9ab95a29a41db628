"""Which configurations of open_clip are read; the models are compared with open_clip in tests/parity."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from tests.text.test_families import gemma_files, words_files
from tests.tiny_clip import tiny_card

from wordsight.errors import WeightsError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, SigLIPConfig, TextConfig, VisionTransformerConfig, build
from wordsight.text import TokenizerConfig
from wordsight.weights import Card
from wordsight.weights.formats.key_layouts import to_theirs
from wordsight.weights.formats.open_clip import open_clip_config_of, read_open_clip, read_open_clip_config
from wordsight.weights.formats.timm_siglip import timm_image

VISION = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
FILE_TEXT = TEXT | {"vocab_size": 700, "hf_tokenizer_name": "some/name"}


def model_cfg(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    return {"embed_dim": 8, "vision_cfg": VISION | (vision or {}), "text_cfg": TEXT | (text or {})} | top


def test_omitted_keys_have_the_defaults_of_open_clip() -> None:
    card = read_open_clip_config({"embed_dim": 512, "vision_cfg": {}, "text_cfg": {}}, {})
    image = VisionTransformerConfig(
        image_size_px=224, patch_size_px=16, width=768, layers=12, heads=12, activation="gelu"
    )
    text = TextConfig(width=512, heads=8, layers=12, activation="gelu")
    assert card.model == ModelConfig(image=image, text=text, embed_dim=512)
    assert card.preprocessing == Preprocessing(size_px=224)
    assert card.tokenizer == TokenizerConfig()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (model_cfg(quick_gelo=True), "model_cfg: unknown key 'quick_gelo'; did you mean 'quick_gelu'"),
        (model_cfg({"no_lnpre": True}), "unknown key 'no_lnpre' in .vision_cfg.; did you mean 'no_ln_pre'"),
        (model_cfg(text={"embed_class": True}), "unknown key 'embed_class' in .text_cfg.; did you mean 'embed_cls'"),
        (model_cfg(multimodal_cfg={}), "multimodal_cfg .*CoCa"),
        (model_cfg({"attentional_pool": True}), "vision_cfg.attentional_pool True: CoCa"),
        (model_cfg({"attentional_pool": "parallel"}), "vision_cfg.attentional_pool 'parallel'"),
        (model_cfg({"qk_norm": True}), "vision_cfg.qk_norm True: blocks of this kind are not supported"),
        (model_cfg({"block_type": "custom"}), "vision_cfg.block_type 'custom'"),
        (model_cfg(text={"scale_heads": True}), "text_cfg.scale_heads True"),
        (model_cfg(text={"hf_model_name": "roberta-base"}), "text_cfg.hf_model_name 'roberta-base'"),
        (model_cfg({"pool_type": "none"}), "vision_cfg.pool_type 'none': expected avg or tok"),
        (model_cfg(text={"pool_type": "argmx"}), "text_cfg.pool_type 'argmx': .*; did you mean 'argmax'"),
        (model_cfg(text={"pool_type": "none"}), "text_cfg.pool_type 'none'"),
        (model_cfg(text={"proj_type": "mlp"}), "text_cfg.proj_type 'mlp'"),
        (model_cfg(text={"embed_cls": True}), "text_cfg.embed_cls True: .*only if custom_text is set"),
        (model_cfg({"pos_embed_type": "rope"}), "vision_cfg.pos_embed_type 'rope'"),
        (model_cfg({"head_width": 7}), "vision_cfg.head_width 7: does not divide the width 16"),
        (model_cfg({"head_width": 0}), "vision_cfg.head_width 0"),
        (model_cfg({"patch_size": None}), "vision_cfg.patch_size None"),
        (model_cfg({"image_size": [16, 24]}), r"vision_cfg.image_size \(16, 24\): expected a square"),
        (model_cfg({"image_size": 7}), "patch_size_px 8 is larger than image_size_px 7"),
        (
            model_cfg({"layers": [1, 1, 1, 1], "head_width": 32, "image_size": 32}),
            "vision_cfg.head_width 32: expected 64: ResNets",
        ),
        (
            model_cfg({"norm_kwargs": {"elementwise_affine": False}}),
            "vision_cfg.norm_kwargs .*: expected eps",
        ),
        (model_cfg({"norm_kwargs": {"eps": "x"}}), "vision_cfg.norm_kwargs"),
        (model_cfg({"act_kwargs": {"approximate": "sigmoid"}}), "act_kwargs .*: GELU has one option"),
        (model_cfg({"act_kwargs": {"approximate": "tanh"}}, quick_gelu=True), "act_kwargs .*quick_gelu has none"),
        (
            model_cfg({"timm_model_name": "convnext_base"}),
            "vision_cfg.timm_model_name 'convnext_base': of timm's towers only SigLIP's",
        ),
        (
            model_cfg({"timm_model_name": "vit_base_patch16_siglip_gap_224"}),
            "did you mean 'vit_base_patch16_siglip_224'",
        ),
        (model_cfg({"timm_model_name": "vit_base_patch16_siglip_224"}), "vision_cfg.timm_pool 'avg'"),
        (
            model_cfg({"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": None}),
            "vision_cfg.timm_proj None",
        ),
        (
            model_cfg({"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"}),
            "vision_cfg.image_size 16: contradicts the name vit_base_patch16_siglip_224",
        ),
        (
            model_cfg(text={"tokenizer_kwargs": {"cleen": "x"}}),
            "tokenizer_kwargs has an unknown key 'cleen'; did you mean",
        ),
        (
            model_cfg(text={"tokenizer_kwargs": {"clean": "canonicalize"}}),
            "the clip tokenizer has only one way of cleaning texts",
        ),
        (model_cfg(text={"vocab_size": 100}), "vocabulary_size 100: the clip tokenizer has 49408 ids"),
        (
            model_cfg(text=FILE_TEXT),
            "a vocabulary of 700 needs its own tokenizer: add the model's tokenizer.json or spiece.model",
        ),
        (model_cfg(embed_dim="x"), "model_cfg: Expected 'int', got 'str'"),
        ({"embed_dim": 8}, "2 keys are wrong: missing key 'vision_cfg'; missing key 'text_cfg'"),
    ],
)
def test_an_unsupported_configuration_is_refused_in_one_line(config: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_open_clip_config(config, {}, where="here.json")
    assert str(caught.value).startswith("here.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("preprocess", "message"),
    [
        ({"resize_mode": "longest"}, "preprocess_cfg.resize_mode 'longest': expected shortest or squash"),
        ({"interpolation": "random"}, "preprocess_cfg.interpolation 'random'"),
        ({"mode": "L"}, "preprocess_cfg.mode 'L'"),
        ({"size": 24}, "preprocess_cfg.size 24: the image tower expects 16"),
        ({"size": [16, 24]}, "expected a square"),
        ({"means": [0, 0, 0]}, "preprocess_cfg: unknown key 'means'; did you mean 'mean'"),
        ({"std": [0, 1, 1]}, "expected three numbers above 0"),
    ],
)
def test_unsupported_preprocessing_is_refused(preprocess: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        read_open_clip_config(model_cfg(), preprocess)


def test_preprocessing_is_read() -> None:
    config = {"size": [16, 16], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5], "interpolation": "bilinear"}
    config |= {"resize_mode": "squash", "fill_color": 127}
    expected = Preprocessing(
        size_px=16, mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5), resize="squash", interpolation="bilinear"
    )
    assert read_open_clip_config(model_cfg(), config).preprocessing == expected


def test_a_tokenizer_from_files_is_read_with_its_text_cleaning() -> None:
    kwargs = {"clean": "canonicalize"}
    tokenizer = read_open_clip_config(
        model_cfg(text=FILE_TEXT | {"tokenizer_kwargs": kwargs}), {}, gemma_files()
    ).tokenizer
    assert (tokenizer.family, tokenizer.file, tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id) == (
        "tokenizers",
        "tokenizer.json",
        None,
        1,
        0,
    )
    assert (tokenizer.repairs, tokenizer.lower_case, tokenizer.removes_punctuation) == (True, True, True)
    kwargs = {"strip_sep_token": True}
    tokenizer = read_open_clip_config(
        model_cfg(text=FILE_TEXT | {"tokenizer_kwargs": kwargs}), {}, words_files()
    ).tokenizer
    assert (tokenizer.begin_id, tokenizer.end_id, tokenizer.repairs, tokenizer.lower_case) == (2, 0, True, False)


def test_models_with_the_published_vocabulary_use_the_clip_tokenizer_whatever_they_name() -> None:
    config = model_cfg(text={"hf_tokenizer_name": "openai/clip-vit-base-patch32"})
    assert read_open_clip_config(config, {}).tokenizer == TokenizerConfig(context_length=12)


def siglip_card(**changes: Any) -> Card:
    image = timm_image("vit_base_patch16_siglip_224")
    assert image is not None
    text = TextConfig(
        width=768,
        heads=12,
        layers=12,
        context_length=64,
        vocabulary_size=700,
        activation="gelu",
        epsilon=1e-6,
        is_causal=False,
        pool="last",
        projection="linear",
    )
    tokenizer = TokenizerConfig(
        family="tokenizers",
        context_length=64,
        end_id=1,
        lower_case=True,
        removes_punctuation=True,
        repairs=True,
        file="tokenizer.json",
    )
    parts: dict[str, Any] = {
        "name": "siglip",
        "model": ModelConfig(image=image, text=text, embed_dim=768, logit_bias=True),
        "preprocessing": Preprocessing(size_px=224, resize="squash", mean=(0.5,) * 3, std=(0.5,) * 3),
        "tokenizer": tokenizer,
    }
    return Card(**(parts | changes))


def test_siglip_is_written_by_timms_name() -> None:
    card = siglip_card()
    written = open_clip_config_of(card)
    assert written["model_cfg"]["vision_cfg"]["timm_model_name"] == "vit_base_patch16_siglip_224"
    assert written["model_cfg"]["text_cfg"]["tokenizer_kwargs"] == {"clean": "canonicalize"}
    again = read_open_clip_config(written["model_cfg"], written["preprocess_cfg"], gemma_files())
    assert again.model == card.model
    assert again.preprocessing == card.preprocessing
    assert msgspec.structs.replace(again.tokenizer, file_sha256="") == card.tokenizer


def test_models_that_open_clip_cannot_represent_are_refused() -> None:
    card = siglip_card()
    assert isinstance(card.model.image, SigLIPConfig)
    odd = msgspec.structs.replace(card.model.image, activation="gelu_tanh")
    plain = tiny_card()
    mixed = msgspec.structs.replace(plain.model.text, activation="gelu")
    for wrong, message in [
        (
            siglip_card(model=msgspec.structs.replace(card.model, image=odd)),
            "builds SigLIP's image towers by timm's names",
        ),
        (siglip_card(tokenizer=msgspec.structs.replace(card.tokenizer, repairs=False)), "open_clip repairs texts"),
        (tiny_card("residual"), "open_clip has no such image tower"),
        (
            tiny_card(model=msgspec.structs.replace(plain.model, text=mixed)),
            "has quick_gelu in both towers or in neither",
        ),
    ]:
        with pytest.raises(WeightsError, match=message):
            open_clip_config_of(wrong)


def directory_of(directory: Path) -> Path:
    card = read_open_clip_config(model_cfg(), {})
    state = build(card.model, torch.Generator().manual_seed(0)).state_dict()
    (directory / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg(), "preprocess_cfg": {}}))
    save_file(to_theirs(state, "open_clip"), directory / "open_clip_model.safetensors")
    return directory


def test_a_directory_with_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"open_clip_config.json: no such file"):
        read_open_clip(tmp_path)
    directory_of(tmp_path)
    assert read_open_clip(tmp_path).card.name == tmp_path.name
    (tmp_path / "open_clip_model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"no weights; expected open_clip_model.safetensors or"):
        read_open_clip(tmp_path)
    assert read_open_clip(tmp_path, tmp_path / "other.safetensors").tensors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[", "not JSON"),
        (b"[]", "expected a JSON object, found list"),
        (b"{}", "'model_cfg'"),
        (b'{"model_cfg": 3}', "'model_cfg'"),
        (b'{"model_cfg": {}, "modelcfg": {}}', "'modelcfg'"),
        (b'{"model_cfg": {}, "preprocess_cfg": [1]}', "preprocess_cfg"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
    ],
)
def test_a_hostile_configuration_is_refused_in_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    directory_of(tmp_path)
    (tmp_path / "open_clip_config.json").write_bytes(content)
    with pytest.raises(WeightsError, match=message) as caught:
        read_open_clip(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_configuration_that_contradicts_the_shapes_is_refused(tmp_path: Path) -> None:
    directory_of(tmp_path)
    for change, message in [
        ({"layers": 3}, "missing visual.transformer.resblocks.2"),
        ({"layers": 1}, "unexpected visual.transformer.resblocks.1"),
        ({"width": 24}, "the configuration says"),
        ({"layers": 10**12}, "than any model has"),
        ({"patch_size": 16}, "the configuration says"),
    ]:
        config = {"model_cfg": model_cfg(change), "preprocess_cfg": {}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(WeightsError, match=message):
            read_open_clip(tmp_path)
