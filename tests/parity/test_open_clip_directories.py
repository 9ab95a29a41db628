"""Models in open_clip's directories are compared with open_clip: every option of a configuration at least once.

A peer with random tensors is saved with its configuration and read by `read_open_clip`.
"""

import functools
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.parity.peers import fill_at_random, has_open_clip, has_timm, open_clip, timm
from wordsight.errors import WeightsError
from wordsight.image import Preprocessing
from wordsight.model import CLIP, ModelConfig, SigLIPConfig, TextConfig, build_empty
from wordsight.text import TokenizerConfig, tokenize
from wordsight.weights import Card
from wordsight.weights.formats.key_layouts import mapping_of, to_ours, to_theirs
from wordsight.weights.formats.open_clip import layout_of, open_clip_config_of, read_open_clip, read_open_clip_config
from wordsight.weights.formats.timm_siglip import timm_image, timm_names

pytestmark = pytest.mark.skipif(not has_open_clip(), reason="needs open_clip")
needs_timm = pytest.mark.skipif(not has_timm(), reason="needs timm")

TOLERANCE = 1e-5
CONTEXT = 12
VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8}
TEXT = {"context_length": CONTEXT, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 3}
PREPROCESS = {"size": 32, "mode": "RGB", "interpolation": "bicubic", "resize_mode": "shortest", "fill_color": 0}
TEXTS = ["a cat", "two dogs running over wet sand towards a very blue sea", "", "a photo of the number 7"]

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}, {}),
    "quick_gelu": ({"quick_gelu": True}, {}, {}),
    "no_ln_pre": ({}, {"no_ln_pre": True}, {}),
    "mean of normalised patches": ({}, {"pool_type": "avg"}, {}),
    "normalised mean of patches": ({}, {"pool_type": "avg", "final_ln_after_pool": True}, {}),
    "normalised token": ({}, {"final_ln_after_pool": True}, {}),
    "layer scale": ({}, {"ls_init_value": 1e-4}, {"ls_init_value": 1e-4}),
    "head width": ({}, {"head_width": 16}, {"heads": 4}),
    "inner width": ({}, {"mlp_ratio": 4.9231}, {"mlp_ratio": 2.5}),
    "epsilon": ({}, {"norm_kwargs": {"eps": 1e-6}}, {"norm_kwargs": {"eps": 1e-3}}),
    "tanh": ({}, {"act_kwargs": {"approximate": "tanh"}}, {"act_kwargs": {"approximate": "tanh"}}),
    "leftover pixels": ({}, {"patch_size": 14}, {}),
    "sin-cos positions": ({}, {"pos_embed_type": "sin_cos_2d"}, {}),
    "first": ({}, {}, {"pool_type": "first"}),
    "last": ({}, {}, {"pool_type": "last"}),
    "eos": ({}, {}, {"pool_type": "eos", "eos_id": 49407}),
    "eos, not causal": ({}, {}, {"pool_type": "eos", "eos_id": 49407, "no_causal_mask": True}),
    "last, not causal": ({}, {}, {"pool_type": "last", "no_causal_mask": True, "pad_id": 0}),
    "first, not causal": ({}, {}, {"pool_type": "first", "no_causal_mask": True}),
    "projection with a bias": ({}, {}, {"proj_bias": True}),
    "no projection": ({"embed_dim": 64}, {}, {"proj_type": "none"}),
    "class token": ({"custom_text": True}, {}, {"embed_cls": True}),
    "class token, not causal": ({"custom_text": True}, {}, {"embed_cls": True, "no_causal_mask": True, "pad_id": 0}),
    "custom text": ({"custom_text": True}, {}, {}),
    "other width and context": ({}, {}, {"width": 96, "heads": 3, "context_length": 20, "vocab_size": 49500}),
    "bias and scale": ({"init_logit_bias": -10, "init_logit_scale": 2.3}, {}, {}),
    "scale of one row": ({"nonscalar_logit_scale": True, "init_logit_bias": -10}, {}, {}),
    "ResNet": ({}, {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64}, {}),
}


def model_cfg(option: str = "plain") -> dict[str, Any]:
    top, vision, text = OPTIONS[option]
    return {"embed_dim": 32, "vision_cfg": VISION | vision, "text_cfg": TEXT | text} | top


def peer_of(config: dict[str, Any], seed: int = 0) -> Any:
    library = open_clip()
    kind = library.CustomTextCLIP if config.get("custom_text") else library.CLIP
    peer = kind(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    fill_at_random(peer, seed)
    return peer


def saved(directory: Path, config: dict[str, Any], peer: Any) -> Path:
    directory.mkdir(exist_ok=True)
    content = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
    (directory / "open_clip_config.json").write_text(json.dumps(content))
    save_file(peer.state_dict(), directory / "open_clip_model.safetensors")
    return directory


def built(config: ModelConfig, tensors: Any) -> CLIP:
    model = build_empty(config)
    model.load_state_dict(dict(tensors), strict=True, assign=True)
    return model.eval()


def inputs(config: ModelConfig) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    size, text = config.image.image_size_px, config.text
    if text.vocabulary_size >= 49408:
        ids = torch.from_numpy(tokenize(TEXTS, text.context_length)).long()
    else:
        ids = torch.randint(2, text.vocabulary_size, (4, text.context_length), generator=generator)
    return torch.randn(4, 3, size, size, generator=generator), ids


@torch.no_grad()
def max_difference(ours: CLIP, peer: Any, config: ModelConfig) -> float:
    """The largest difference of a component of the unit embeddings of either tower; scale and bias must be equal."""
    pixels, ids = inputs(config)
    images, texts, scale = ours(pixels, ids)
    torch.testing.assert_close(scale, peer.logit_scale.exp().reshape(()))
    if config.logit_bias:
        assert torch.equal(ours.logit_bias, peer.logit_bias.reshape(()))
    theirs = peer.encode_image(pixels, normalize=True), peer.encode_text(ids, normalize=True)
    return max((images - theirs[0]).abs().max().item(), (texts - theirs[1]).abs().max().item())


@pytest.mark.parametrize("option", OPTIONS)
def test_embeddings_with_every_option_equal_open_clips(tmp_path: Path, option: str) -> None:
    config = model_cfg(option)
    peer = peer_of(config)
    checkpoint = read_open_clip(saved(tmp_path, config, peer))
    model = checkpoint.card.model
    assert max_difference(built(model, checkpoint.tensors), peer, model) < TOLERANCE


@pytest.mark.parametrize("option", OPTIONS)
def test_open_clip_loads_the_written_files(tmp_path: Path, option: str) -> None:
    config = model_cfg(option)
    peer = peer_of(config)
    checkpoint = read_open_clip(saved(tmp_path / "one", config, peer))
    written = open_clip_config_of(checkpoint.card)
    layout = "open_clip_text" if written["model_cfg"].get("custom_text") else "open_clip"
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "open_clip_config.json").write_text(json.dumps(written))
    save_file(to_theirs(checkpoint.tensors, layout), tmp_path / "two" / "open_clip_model.safetensors")
    again = read_open_clip(tmp_path / "two")
    assert again.card.model == checkpoint.card.model
    assert again.card.preprocessing == checkpoint.card.preprocessing
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in checkpoint.tensors.items())
    loaded = open_clip().create_model(f"local-dir:{tmp_path / 'two'}").eval()
    assert max_difference(built(checkpoint.card.model, checkpoint.tensors), loaded, checkpoint.card.model) < TOLERANCE


def test_negative_control_other_options_change_embeddings(tmp_path: Path) -> None:
    """Activation, pooling, mask and epsilon each change the embeddings."""
    for option, tower, change in [
        ("plain", "image", {"activation": "quick_gelu"}),
        ("plain", "text", {"activation": "gelu_tanh"}),
        ("epsilon", "image", {"epsilon": 1e-5}),
        ("normalised mean of patches", "image", {"norm_after_pool": False}),
        ("last, not causal", "text", {"is_causal": True}),
        ("class token", "text", {"pad_id": 1}),
    ]:
        config = model_cfg(option)
        peer = peer_of(config)
        checkpoint = read_open_clip(saved(tmp_path, config, peer))
        model = checkpoint.card.model
        wrong = msgspec.structs.replace(getattr(model, tower), **change)
        other = built(msgspec.structs.replace(model, **{tower: wrong}), checkpoint.tensors)
        assert max_difference(other, peer, model) > TOLERANCE, (option, change)


TINY_TIMM = {"patch_size": 7, "embed_dim": 64, "depth": 3, "num_heads": 4, "img_size": 32, "mlp_ratio": 3.7362}
TINY_TOWER = SigLIPConfig(image_size_px=32, patch_size_px=7, width=64, layers=3, heads=4, mlp_width=239)


@functools.cache
def tiny_timm_name(act_layer: str) -> str:
    """Register a tiny image tower with SigLIP's structure in timm, and return its name."""
    name = f"vit_tiny_siglip_{act_layer}"

    def entry(pretrained: bool = False, **options: Any) -> Any:
        del pretrained
        options.pop("pretrained_cfg", None), options.pop("pretrained_cfg_overlay", None), options.pop("cache_dir", None)
        tower = TINY_TIMM | {"class_token": False, "global_pool": "map", "act_layer": act_layer} | options
        return timm().models.VisionTransformer(norm_layer=functools.partial(torch.nn.LayerNorm, eps=1e-6), **tower)

    entry.__name__ = name
    timm().models.register_model(entry)
    return name


def siglip(act_layer: str) -> tuple[dict[str, Any], ModelConfig]:
    """A configuration for open_clip, and the same architecture as wordsight's configuration."""
    text = TEXT | {"context_length": 16, "vocab_size": 300, "no_causal_mask": True, "proj_bias": True}
    text |= {"pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "mlp_ratio": 3.7362}
    if act_layer == "gelu_tanh":
        text["act_kwargs"] = {"approximate": "tanh"}
    vision = {"image_size": 32, "timm_model_name": tiny_timm_name(act_layer), "timm_pool": "map", "timm_proj": "none"}
    config = {"embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "vision_cfg": vision, "text_cfg": text}
    tower = TextConfig(
        width=64,
        heads=2,
        layers=3,
        context_length=16,
        vocabulary_size=300,
        activation=act_layer,  # type: ignore[arg-type]
        mlp_width=239,
        epsilon=1e-6,
        is_causal=False,
        pool="last",
        projection="linear",
    )
    image = msgspec.structs.replace(TINY_TOWER, activation=act_layer)
    return config, ModelConfig(image=image, text=tower, embed_dim=64, logit_bias=True)


@needs_timm
@pytest.mark.parametrize("act_layer", ["gelu", "gelu_tanh"])
def test_embeddings_of_siglip_with_timms_trunk_equal_open_clips(act_layer: str) -> None:
    config, model = siglip(act_layer)
    peer = peer_of(config)
    state = peer.state_dict()
    tensors = to_ours(state, layout_of(model, state), model, "peer")
    assert max_difference(built(model, tensors), peer, model) < TOLERANCE
    back = to_theirs(tensors, "open_clip_siglip")
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@needs_timm
@pytest.mark.parametrize(
    "fault", ["activation", "epsilon", "layers swapped", "query bias zeroed", "probe zeroed", "key and value swapped"]
)
def test_negative_control_a_fault_in_siglip_changes_embeddings(fault: str) -> None:
    config, model = siglip("gelu")
    peer = peer_of(config)
    tensors = to_ours(peer.state_dict(), "open_clip_siglip", model, "peer")
    image, one, other = model.image, "visual.transformer.resblocks.0.", "visual.transformer.resblocks.1."
    in_proj = "visual.attn_pool.attn.in_proj_weight"
    if fault == "activation":
        image = msgspec.structs.replace(image, activation="gelu_tanh")
    elif fault == "epsilon":
        image = msgspec.structs.replace(image, epsilon=1e-5)
    elif fault == "layers swapped":
        swap = {n: n.replace(one, other) if one in n else n.replace(other, one) for n in tensors}
        tensors = {name: tensors[swap[name]] for name in tensors}
    elif fault == "query bias zeroed":
        tensors["visual.attn_pool.attn.in_proj_bias"] = tensors["visual.attn_pool.attn.in_proj_bias"].clone()
        tensors["visual.attn_pool.attn.in_proj_bias"][:64] = 0
    elif fault == "probe zeroed":
        tensors["visual.attn_pool.probe"] = torch.zeros(64)
    else:
        tensors[in_proj] = torch.cat([tensors[in_proj][:64], tensors[in_proj][128:], tensors[in_proj][64:128]])
    wrong = built(msgspec.structs.replace(model, image=image), tensors)
    assert max_difference(wrong, peer, model) > TOLERANCE


@pytest.fixture
def _linspace_off_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm reads values of a torch.linspace, which are not available on the meta device."""
    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))


@needs_timm
@pytest.mark.usefixtures("_linspace_off_meta")
@pytest.mark.parametrize("name", timm_names())
def test_towers_by_timms_names_equal_timms(name: str) -> None:
    with torch.device("meta"):
        tower = timm().create_model(name, num_classes=0, global_pool="map")
    ours = timm_image(name)
    assert ours is not None
    inner = ours.mlp_width or 4 * ours.width
    assert (ours.width, ours.layers, ours.heads) == (tower.embed_dim, len(tower.blocks), tower.attn_pool.num_heads)
    assert (inner, inner) == (tower.blocks[0].mlp.fc1.out_features, tower.attn_pool.mlp.fc1.out_features)
    assert {tower.norm.eps, tower.attn_pool.norm.eps, tower.blocks[0].norm1.eps} == {ours.epsilon}
    for act in (tower.blocks[0].mlp.act, tower.attn_pool.mlp.act):
        is_tanh = type(act).__name__ == "GELUTanh" or getattr(act, "approximate", "none") == "tanh"
        assert ours.activation == ("gelu_tanh" if is_tanh else "gelu")
    assert tower.patch_embed.img_size == (ours.image_size_px,) * 2
    assert tower.patch_embed.patch_size == (ours.patch_size_px,) * 2


@needs_timm
def test_every_siglip_tower_of_timm_with_attention_pooling_is_supported() -> None:
    listed = {name for name in timm().list_models("vit_*_siglip_*") if "_gap_" not in name and "tiny" not in name}
    assert listed == set(timm_names())


def published() -> dict[str, dict[str, Any]]:
    if not has_open_clip():
        return {}
    directory = Path(open_clip().__file__).parent / "model_configs"
    return {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}


REFUSED = {
    "vision_cfg.timm_model_name": ("EVA", "MobileCLIP", "PE-", "ViTamin", "convnext", "swin", "vit_"),
    "text_cfg.hf_model_name": ("mt5", "nllb", "roberta", "xlm"),
    "multimodal_cfg": ("coca",),
}


def read_published(config: dict[str, Any]) -> Card:
    """The card of a published architecture; a vocabulary other than CLIP's gets a tokenizer of fewer than 300 ids."""
    from tests.text.test_families import tiny_tokenizer_files

    files = {} if config["text_cfg"].get("vocab_size") == 49408 else tiny_tokenizer_files()
    return read_open_clip_config(config, {}, files)


@needs_timm
@pytest.mark.usefixtures("_linspace_off_meta")
@pytest.mark.parametrize("name", published())
def test_every_published_architecture_is_read_or_refused_with_the_reason(name: str) -> None:
    config = published()[name]
    key = next((key for key, starts in REFUSED.items() if name.startswith(starts)), None)
    if key is not None:
        with pytest.raises(WeightsError, match=f"{key} .*: .*supported"):
            read_published(config)
        return
    model = read_published(config).model
    plain = {key: value for key, value in config.items() if key != "custom_text"}
    library = open_clip()
    with torch.device("meta"):
        peer = (library.CustomTextCLIP if config.get("custom_text") else library.CLIP)(**plain)
    theirs = {name: tuple(tensor.shape) for name, tensor in peer.state_dict().items()}
    layout = layout_of(model, theirs)
    written = to_theirs(build_empty(model).state_dict(), layout)
    assert {name: tuple(tensor.shape) for name, tensor in written.items()} == theirs


def test_older_and_newer_names_of_the_text_tower_are_read(tmp_path: Path) -> None:
    """open_clip also loads a plain state dict for a configuration with `custom_text`."""
    config = model_cfg("custom text")
    peer = peer_of(config)
    directory = saved(tmp_path, config, peer)
    expected = read_open_clip(directory).tensors
    plain = {name.removeprefix("text."): tensor for name, tensor in peer.state_dict().items()}
    save_file(plain, directory / "open_clip_model.safetensors")
    assert all(torch.equal(read_open_clip(directory).tensors[name], tensor) for name, tensor in expected.items())
    assert mapping_of("open_clip_text", "ln_final.bias").names == ("text.ln_final.bias",)


def test_token_ids_equal_those_of_open_clips_tokenizer_for_the_directory(tmp_path: Path) -> None:
    directory = saved(tmp_path, model_cfg(), peer_of(model_cfg()))
    card = read_open_clip(directory).card
    assert card.tokenizer == TokenizerConfig(context_length=CONTEXT)
    theirs = open_clip().get_tokenizer(f"local-dir:{directory}")(TEXTS)
    assert np.array_equal(tokenize(TEXTS, CONTEXT), theirs.numpy())


def test_preprocessing_equals_open_clips_for_the_directory(tmp_path: Path) -> None:
    directory = saved(tmp_path, model_cfg(), peer_of(model_cfg()))
    theirs = open_clip().create_model(f"local-dir:{directory}").visual.preprocess_cfg
    ours = read_open_clip(directory).card.preprocessing
    assert ours == Preprocessing(size_px=32, mean=tuple(theirs["mean"]), std=tuple(theirs["std"]))
    assert (ours.resize, ours.interpolation) == (theirs["resize_mode"], theirs["interpolation"])
