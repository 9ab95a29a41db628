"""Key layouts in both directions, with hand-computed cases and errors; tests/parity compares with other libraries."""

import itertools

import msgspec
import pytest
import torch
from torch import Tensor

from wordsight.errors import WeightsError
from wordsight.model import ModelConfig, SigLIPConfig, TextConfig, VisionTransformerConfig, build
from wordsight.weights.formats.key_layouts import Layout, mapping_of, to_ours, to_theirs

TEXT = TextConfig(width=16, heads=2, layers=2, context_length=6, vocabulary_size=20)
VIT = VisionTransformerConfig(image_size_px=16, patch_size_px=8, width=24, layers=2, heads=2)
CLIP_MODEL = ModelConfig(image=VIT, text=TEXT, embed_dim=8)
BIASED = msgspec.structs.replace(TEXT, projection="linear", pool="last", is_causal=False)
PROBE = SigLIPConfig(image_size_px=16, patch_size_px=8, width=8, layers=2, heads=2)
SIGLIP_MODEL = ModelConfig(image=PROBE, text=BIASED, embed_dim=8, logit_bias=True)
MODELS: dict[Layout, ModelConfig] = {
    "open_clip": CLIP_MODEL,
    "open_clip_text": CLIP_MODEL,
    "open_clip_siglip": SIGLIP_MODEL,
    "hugging_face_clip": CLIP_MODEL,
    "hugging_face_siglip": SIGLIP_MODEL,
}


def weights(model: ModelConfig) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    state = build(model, generator).state_dict()
    return {name: torch.randn(tensor.shape, generator=generator) for name, tensor in state.items()}


@pytest.mark.parametrize("layout", MODELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_round_trip_is_equal_bit_for_bit(layout: Layout, dtype: torch.dtype) -> None:
    ours = {name: tensor.to(dtype) for name, tensor in weights(MODELS[layout]).items()}
    theirs = to_theirs(ours, layout)
    again = to_ours(theirs, layout, MODELS[layout], "x")
    assert again.keys() == ours.keys()
    for name, tensor in ours.items():
        assert again[name].dtype == dtype
        assert again[name].shape == tensor.shape
        assert torch.equal(again[name], tensor)
        assert again[name].is_contiguous()
    assert all(tensor.is_contiguous() for tensor in theirs.values())


def test_every_name_in_a_layout_belongs_to_one_tensor() -> None:
    for layout, model in MODELS.items():
        names = [name for ours in weights(model) for name in mapping_of(layout, ours).names]
        assert len(names) == len(set(names))


def test_queries_keys_and_values_are_split_in_this_order() -> None:
    ours = weights(SIGLIP_MODEL)
    whole = ours["transformer.resblocks.1.attn.in_proj_weight"]
    theirs = to_theirs(ours, "hugging_face_siglip")
    for part, third in zip("qkv", whole.split(16), strict=True):
        assert torch.equal(theirs[f"text_model.encoder.layers.1.self_attn.{part}_proj.weight"], third)
    timm = to_theirs(ours, "open_clip_siglip")
    pool = ours["visual.attn_pool.attn.in_proj_bias"]
    assert torch.equal(timm["visual.trunk.attn_pool.q.bias"], pool[:8])
    assert torch.equal(timm["visual.trunk.attn_pool.kv.bias"], pool[8:])


def test_projections_are_transposed_and_probes_have_leading_axes() -> None:
    clip, siglip = weights(CLIP_MODEL), weights(SIGLIP_MODEL)
    theirs = to_theirs(clip, "hugging_face_clip")
    assert torch.equal(theirs["visual_projection.weight"], clip["visual.proj"].T)
    assert torch.equal(theirs["text_projection.weight"], clip["text_projection"].T)
    theirs = to_theirs(siglip, "hugging_face_siglip")
    assert torch.equal(theirs["text_model.head.weight"], siglip["text_projection.weight"])
    assert theirs["vision_model.head.probe"].shape == (1, 1, 8)
    assert theirs["logit_scale"].shape == theirs["logit_bias"].shape == (1,)
    timm = to_theirs(siglip, "open_clip_siglip")
    assert timm["visual.trunk.pos_embed"].shape == (1, 4, 8)
    assert timm["logit_scale"].shape == ()


def test_unchanged_tensors_are_not_copied() -> None:
    ours = weights(CLIP_MODEL)
    theirs = to_theirs(ours, "open_clip_text")
    again = to_ours(theirs, "open_clip_text", CLIP_MODEL, "x")
    assert all(again[name].data_ptr() == tensor.data_ptr() for name, tensor in ours.items())


def test_buffers_of_older_versions_are_ignored() -> None:
    theirs = to_theirs(weights(CLIP_MODEL), "hugging_face_clip")
    theirs |= {
        "vision_model.embeddings.position_ids": torch.arange(5),
        "text_model.embeddings.position_ids": torch.ones(1),
    }
    assert to_ours(theirs, "hugging_face_clip", CLIP_MODEL, "x").keys() == weights(CLIP_MODEL).keys()


def test_the_first_five_missing_and_unexpected_names_and_their_number_are_listed() -> None:
    theirs = to_theirs(weights(CLIP_MODEL), "hugging_face_clip")
    for name in list(theirs):
        if "self_attn.k_proj" in name:
            del theirs[name]
    theirs |= {f"extra.{number}": torch.ones(1) for number in range(3)}
    with pytest.raises(WeightsError) as caught:
        to_ours(theirs, "hugging_face_clip", CLIP_MODEL, "a/b")
    message = str(caught.value)
    assert message.startswith(
        "a/b: not the model that its configuration describes: missing text_model.encoder.layers.0.self_attn.k"
    )
    assert message.count("k_proj") == 5
    assert "... (8 in all); unexpected extra.0, extra.1, extra.2; download both again" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("visual_projection.weight", (24, 8)),
        ("visual_projection.weight", (8,)),
        ("text_model.final_layer_norm.bias", (17,)),
        ("text_model.final_layer_norm.bias", (2, 16)),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", (16, 17)),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", ()),
        ("text_model.encoder.layers.0.self_attn.q_proj.weight", (0, 16)),
        ("logit_scale", (2,)),
        ("logit_scale", (0,)),
        ("vision_model.embeddings.patch_embedding.weight", (24, 3, 8)),
    ],
)
def test_a_shape_that_contradicts_the_configuration_is_refused(name: str, shape: tuple[int, ...]) -> None:
    theirs = to_theirs(weights(CLIP_MODEL), "hugging_face_clip") | {name: torch.zeros(shape)}
    with pytest.raises(WeightsError, match=r"^x: .*(the configuration says|incompatible shapes)"):
        to_ours(theirs, "hugging_face_clip", CLIP_MODEL, "x")


def test_parts_whose_sizes_are_right_only_in_total_are_refused() -> None:
    layer = "text_model.encoder.layers.0.self_attn."
    theirs = to_theirs(weights(CLIP_MODEL), "hugging_face_clip")
    theirs |= {f"{layer}q_proj.weight": torch.zeros(8, 16), f"{layer}k_proj.weight": torch.zeros(24, 16)}
    with pytest.raises(WeightsError, match=r"its parts have \[8, 24, 16\] rows, expected proportions \[1, 1, 1\]"):
        to_ours(theirs, "hugging_face_clip", CLIP_MODEL, "x")


def test_a_configuration_with_too_many_layers_is_refused_before_it_is_built() -> None:
    deep = msgspec.structs.replace(CLIP_MODEL, text=msgspec.structs.replace(TEXT, layers=10**9))
    with pytest.raises(WeightsError, match=r"^x: "):
        to_ours({}, "open_clip", deep, "x")


def test_a_model_that_a_layout_cannot_represent_is_refused() -> None:
    scaled = msgspec.structs.replace(CLIP_MODEL, image=msgspec.structs.replace(VIT, layer_scale=True))
    for model, layout in itertools.product([scaled, SIGLIP_MODEL], ["hugging_face_clip"]):
        with pytest.raises(WeightsError, match="the key layout hugging_face_clip has no such tensor"):
            to_theirs(weights(model), layout)  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="the key layout hugging_face_siglip has no such tensor"):
        to_theirs(weights(CLIP_MODEL), "hugging_face_siglip")
