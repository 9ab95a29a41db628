"""Which configurations of transformers are read; the models are compared with transformers in tests/parity."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import save_file
from tests.text.test_families import gemma_files, siglip_files
from tests.tiny_clip import tiny_card

from wordsight.errors import WeightsError
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, SigLIPConfig, TextConfig, VisionTransformerConfig, build
from wordsight.text import TokenizerConfig
from wordsight.weights.formats.hugging_face import hugging_face_files_of, read_hugging_face
from wordsight.weights.formats.key_layouts import to_theirs

TOWER = {"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IMAGES = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
SQUASHED = {"size": {"height": 16, "width": 16}}

IMAGE = VisionTransformerConfig(image_size_px=16, patch_size_px=8, width=16, layers=2, heads=2)
CLIP_MODEL = ModelConfig(
    image=IMAGE, text=TextConfig(width=16, heads=2, layers=2, context_length=12, end_id=49407), embed_dim=8
)
SIGLIP_TEXT = TextConfig(
    width=16,
    heads=2,
    layers=2,
    context_length=16,
    vocabulary_size=700,
    activation="gelu_tanh",
    epsilon=1e-6,
    is_causal=False,
    pool="last",
    projection="linear",
)
SIGLIP_IMAGE = SigLIPConfig(image_size_px=16, patch_size_px=8, width=16, layers=2, heads=2)
SIGLIP_MODEL = ModelConfig(image=SIGLIP_IMAGE, text=SIGLIP_TEXT, embed_dim=16, logit_bias=True)


def clip_config(vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **top: Any) -> dict[str, Any]:
    vision_config = TOWER | {"image_size": 16, "patch_size": 8} | (vision or {})
    text_config = TOWER | {"max_position_embeddings": 12} | (text or {})
    return {"model_type": "clip", "projection_dim": 8, "vision_config": vision_config, "text_config": text_config} | top


def siglip_config(
    vision: dict[str, Any] | None = None, text: dict[str, Any] | None = None, **top: Any
) -> dict[str, Any]:
    vision_config = TOWER | {"image_size": 16, "patch_size": 8} | (vision or {})
    text_config = TOWER | {"max_position_embeddings": 16, "vocab_size": 700} | (text or {})
    return {"model_type": "siglip", "vision_config": vision_config, "text_config": text_config} | top


def directory_of(directory: Path, config: dict[str, Any], images: dict[str, Any], files: dict[str, bytes]) -> Path:
    """A directory with the weights of a tiny model of the class that the configuration names."""
    kind = "siglip" if config.get("model_type") == "siglip" else "clip"
    model = SIGLIP_MODEL if kind == "siglip" else CLIP_MODEL
    state = build(model, torch.Generator().manual_seed(0)).state_dict()
    save_file(to_theirs(state, f"hugging_face_{kind}"), directory / "model.safetensors")  # type: ignore[arg-type]
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "preprocessor_config.json").write_text(json.dumps(images))
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def test_a_clip_model_is_read(tmp_path: Path) -> None:
    checkpoint = read_hugging_face(directory_of(tmp_path, clip_config(), IMAGES, {}))
    assert checkpoint.card.model == CLIP_MODEL
    assert checkpoint.card.preprocessing == Preprocessing(size_px=16, crop="floor")
    assert checkpoint.card.tokenizer == TokenizerConfig(context_length=12)
    assert checkpoint.files == {}


def test_a_siglip_model_is_read_with_its_tokenizer(tmp_path: Path) -> None:
    checkpoint = read_hugging_face(directory_of(tmp_path, siglip_config(), SQUASHED, siglip_files()))
    assert checkpoint.card.model == SIGLIP_MODEL
    half = (0.5, 0.5, 0.5)
    assert checkpoint.card.preprocessing == Preprocessing(size_px=16, mean=half, std=half, resize="squash")
    tokenizer = checkpoint.card.tokenizer
    assert (tokenizer.family, tokenizer.file, tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id) == (
        "sentencepiece",
        "spiece.model",
        None,
        1,
        1,
    )
    assert (tokenizer.lower_case, tokenizer.removes_punctuation, tokenizer.repairs) == (True, True, False)
    assert checkpoint.files == {"spiece.model": siglip_files()["spiece.model"]}


@pytest.mark.parametrize("kind", ["GemmaTokenizerFast", "Siglip2Tokenizer"])
def test_siglip_2_with_fixed_resolution_is_siglip_with_another_tokenizer(tmp_path: Path, kind: str) -> None:
    checkpoint = read_hugging_face(directory_of(tmp_path, siglip_config(), SQUASHED, gemma_files(tokenizer_class=kind)))
    tokenizer = checkpoint.card.tokenizer
    assert (tokenizer.family, tokenizer.begin_id, tokenizer.end_id, tokenizer.pad_id) == ("tokenizers", None, 1, 0)
    assert (tokenizer.lower_case, tokenizer.removes_punctuation, tokenizer.padding_side) == (True, False, "right")


def test_keys_that_do_not_affect_embeddings_are_ignored(tmp_path: Path) -> None:
    cosmetic = {
        "transformers_version": "4.1",
        "torch_dtype": "float16",
        "initializer_range": 0.3,
        "id2label": {"0": "x"},
    }
    cosmetic |= {"_name_or_path": "a/b", "top_k": 50, "use_cache": False, "logit_scale_init_value": 2.6}
    config = clip_config(cosmetic | {"pruned_heads": {}}, cosmetic | {"projection_dim": 99}, **cosmetic)
    images = IMAGES | {"image_processor_type": "CLIPImageProcessor", "do_convert_rgb": True, "do_pad": None}
    assert read_hugging_face(directory_of(tmp_path, config, images, {})).card.model == CLIP_MODEL


def test_the_legacy_end_id_means_the_largest_id(tmp_path: Path) -> None:
    config = clip_config(text={"eos_token_id": 2})
    assert read_hugging_face(directory_of(tmp_path, config, IMAGES, {})).card.model.text.end_id is None


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "siglip2"},
            "model_type 'siglip2' is the model with flexible resolution, whose input is not a square image",
        ),
        ({"model_type": "clop"}, "model_type 'clop': expected clip or siglip; did you mean 'clip'"),
        ({}, "model_type None"),
        (clip_config(rope_theta=3), "unknown key 'rope_theta'"),
        (clip_config({"hiden_act": "gelu"}), "vision_config: unknown key 'hiden_act'; did you mean 'hidden_act'"),
        (clip_config(text={"attention_bias": False}), "text_config: unknown key 'attention_bias'"),
        (clip_config(text_config_dict={"hiden_size": 3}), "unknown key 'hiden_size'; did you mean 'hidden_size'"),
        (clip_config(quantization_config={}), "unknown key 'quantization_config'"),
        (clip_config({"hidden_act": "relu"}), "vision_config.hidden_act 'relu': expected one of quick_gelu, gelu"),
        (clip_config({"num_channels": 1}), "vision_config.num_channels 1: expected 3"),
        (clip_config({"image_size": [16, 24]}), "expected a square"),
        (clip_config({"pruned_heads": {"0": [1]}}), "vision_config.pruned_heads"),
        (clip_config({"hidden_size": 15}), "width 15 is not a multiple of heads 2"),
        (clip_config({"hidden_size": "wide"}), "vision_config: Expected 'int', got 'str'"),
        (clip_config(text={"eos_token_id": [1, 2]}), "Expected 'int', got 'array'"),
        (clip_config(text={"vocab_size": 700}), "a vocabulary of 700 needs its own tokenizer"),
        (siglip_config({"vision_use_head": False}), "vision_config.vision_use_head False"),
        (siglip_config(text={"projection_size": 24}), "text_config.projection_size 24: contradicts"),
        (siglip_config(), "a vocabulary of 700 needs its own tokenizer"),
        (clip_config(text={"num_hidden_layers": 10**12}), "than any model has"),
        (clip_config({"num_hidden_layers": 3}), "missing vision_model.encoder.layers.2"),
        (clip_config({"intermediate_size": 32}), "the configuration says"),
        (clip_config(projection_dim=9), "the configuration says"),
    ],
)
def test_an_unsupported_configuration_is_refused_in_one_line(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    images = SQUASHED if config.get("model_type") == "siglip" else IMAGES
    directory_of(tmp_path, config, images, {})
    with pytest.raises(WeightsError, match=message) as caught:
        read_hugging_face(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ({"do_resize": False}, "do_resize False"),
        ({"do_normalize": False}, "do_normalize False"),
        ({"rescale_factor": 1.0}, "rescale_factor 1.0: expected 1/255"),
        ({"do_pad": True}, "do_pad True"),
        ({"resample": 1}, "resample 1: expected 3"),
        ({"size": {"shortest_edge": 20}}, "size .*: expected .*the image tower expects 16 pixels after the crop"),
        ({"crop_size": {"height": 20, "width": 20}}, "crop_size .*: expected .'height': 16, 'width': 16., because"),
        ({"do_center_crop": False}, "size .*: expected .'height': 16"),
        ({"do_splitting": True}, "unknown key 'do_splitting'"),
    ],
)
def test_unsupported_preprocessing_is_refused(tmp_path: Path, images: dict[str, Any], message: str) -> None:
    directory_of(tmp_path, clip_config(), IMAGES | images, {})
    with pytest.raises(WeightsError, match=message) as caught:
        read_hugging_face(tmp_path)
    assert "preprocessor_config.json" in str(caught.value)


@pytest.mark.parametrize(
    "images",
    [
        {"size": 16, "crop_size": 16, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor"},
        {"image_mean": None, "size": {"shortest_edge": 16}},
        {},
    ],
)
def test_preprocessing_of_older_versions_is_read(tmp_path: Path, images: dict[str, Any]) -> None:
    checkpoint = read_hugging_face(directory_of(tmp_path, clip_config(), images, {}))
    assert checkpoint.card.preprocessing == Preprocessing(size_px=16, crop="floor")


def test_preprocessing_of_newer_versions_is_read_from_the_processor_config(tmp_path: Path) -> None:
    directory_of(tmp_path, clip_config(), IMAGES, {})
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(WeightsError, match=r"no preprocessor_config.json, which describes the preprocessing"):
        read_hugging_face(tmp_path)
    inner = {"image_processor": IMAGES | {"resample": 2}, "processor_class": "CLIPProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(inner))
    assert read_hugging_face(tmp_path).card.preprocessing.interpolation == "bilinear"


def test_a_directory_without_weights_is_refused(tmp_path: Path) -> None:
    directory_of(tmp_path, clip_config(), IMAGES, {})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights; expected model.safetensors or"):
        read_hugging_face(tmp_path)


def test_a_broken_tokenizer_is_refused_in_one_line(tmp_path: Path) -> None:
    directory_of(tmp_path, siglip_config(), SQUASHED, siglip_files() | {"spiece.model": b"\0"})
    with pytest.raises(WeightsError, match=r"spiece.model: not a tokenizer of the sentencepiece library") as caught:
        read_hugging_face(tmp_path)
    assert str(caught.value).startswith(str(tmp_path))


def test_written_files_are_read_back_equal(tmp_path: Path) -> None:
    for name, config, images, files in [
        ("clip", clip_config({"hidden_act": "gelu"}), IMAGES, {}),
        ("legacy", clip_config(text={"eos_token_id": 2}), IMAGES | {"resample": 2}, {}),
        ("siglip", siglip_config(), SQUASHED, siglip_files()),
    ]:
        (tmp_path / name).mkdir()
        checkpoint = read_hugging_face(directory_of(tmp_path / name, config, images, files))
        written = hugging_face_files_of(checkpoint.card, checkpoint.tensors)
        (tmp_path / name / "config.json").write_text(json.dumps(written.config))
        (tmp_path / name / "preprocessor_config.json").write_text(json.dumps(written.preprocessor))
        save_file(written.tensors, tmp_path / name / "model.safetensors")
        again = read_hugging_face(tmp_path / name)
        assert again.card == checkpoint.card
        assert all(torch.equal(again.tensors[key], tensor) for key, tensor in checkpoint.tensors.items())


def test_models_without_a_transformers_class_are_refused() -> None:
    card = tiny_card()
    replace = msgspec.structs.replace
    for model, message in [
        (replace(card.model, image=replace(card.model.image, pool="mean")), "CLIPModel pools the class token"),
        (replace(card.model, image=replace(card.model.image, norm_before=False)), "before the first block"),
        (replace(card.model, image=replace(card.model.image, layer_scale=True)), "no layer scale"),
        (replace(card.model, image=replace(card.model.image, stem="conv")), "patches by a single convolution"),
        (replace(card.model, text=replace(card.model.text, pool="last")), "the end token of a causal text"),
        (replace(card.model, text=replace(card.model.text, projection="linear")), "projects texts without a bias"),
        (replace(card.model, logit_bias=True), "CLIPModel has no logit bias"),
        (tiny_card("residual").model, "no CLIP with this kind of image tower"),
        (replace(SIGLIP_MODEL, logit_bias=False, text=replace(SIGLIP_TEXT, vocabulary_size=49408)), "has a logit bias"),
    ]:
        tokenizer = replace(card.tokenizer, context_length=model.text.context_length)
        with pytest.raises(WeightsError, match=message):
            hugging_face_files_of(tiny_card(model=model, tokenizer=tokenizer), {})
