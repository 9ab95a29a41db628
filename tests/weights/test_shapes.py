import pytest

from wordsight.errors import WeightsError
from wordsight.model import (
    PUBLISHED,
    ModelConfig,
    ModifiedResNetConfig,
    TextConfig,
    VisionTransformerConfig,
    build_empty,
)
from wordsight.weights.shapes import architecture_of, build_bounded, differences, shapes_of

VIT = ModelConfig(
    image=VisionTransformerConfig(image_size_px=240, patch_size_px=16, width=192, layers=5, heads=3),
    text=TextConfig(width=128, heads=2, layers=3, context_length=50, vocabulary_size=500),
    embed_dim=96,
)
RESNET = ModelConfig(
    image=ModifiedResNetConfig(image_size_px=160, layers=(1, 2, 3, 4), width=12), text=VIT.text, embed_dim=96
)


def shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    return shapes_of(build_empty(config).state_dict())


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_nine_published_architectures_follow_from_their_shapes(name):
    assert architecture_of(shapes(PUBLISHED[name]), "quick_gelu") == PUBLISHED[name]


def test_the_shapes_of_published_architectures_differ():
    all_shapes = [tuple(sorted(shapes(config).items())) for config in PUBLISHED.values()]
    assert len(set(all_shapes)) == len(PUBLISHED)


@pytest.mark.parametrize("config", [VIT, RESNET], ids=["vit", "resnet"])
def test_other_sizes_follow_from_their_shapes_too(config):
    assert architecture_of(shapes(config), "quick_gelu") == config


def test_the_activation_is_that_of_the_caller():
    config = architecture_of(shapes(VIT), "gelu")
    assert (config.image.activation, config.text.activation) == ("gelu", "gelu")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("visual.proj", (192, 95), r"visual.proj is \(192, 95\), the other tensors say \(192, 96\)"),
        ("visual.conv1.weight", (192, 3, 16), r"visual.conv1.weight is \(192, 3, 16\); expected 4 axes"),
        ("visual.conv1.weight", (0, 3, 16, 16), "expected 4 axes, each of at least 1"),
        (
            "visual.positional_embedding",
            (227, 192),
            "expected the positions of a square grid of patches and of one class token",
        ),
        ("visual.positional_embedding", (226, 191), r"visual.positional_embedding is \(226, 191\), the other"),
        (
            "positional_embedding",
            (50, 130),
            "positional_embedding is 130 wide, which is not a multiple of the published head width 64",
        ),
        ("ln_final.weight", (129,), r"ln_final.weight is \(129,\), the other tensors say \(128,\)"),
        ("transformer.resblocks.2.mlp.c_fc.weight", (511, 128), r"c_fc.weight is \(511, 128\), the other tensors say"),
        ("token_embedding.weight", (1 << 40, 128), "vocabulary_size 1099511627776, which is more than any model has"),
    ],
)
def test_a_contradiction_names_the_tensor_and_its_shape(name, shape, message):
    with pytest.raises(WeightsError, match=message):
        architecture_of(shapes(VIT) | {name: shape}, "quick_gelu")


def test_missing_and_unexpected_tensors_are_named():
    short = shapes(VIT)
    del short["text_projection"]
    with pytest.raises(WeightsError, match="missing text_projection: not in OpenAI's layout"):
        architecture_of(short, "quick_gelu")
    with pytest.raises(WeightsError, match="unexpected logit_bias"):
        architecture_of(shapes(VIT) | {"logit_bias": ()}, "quick_gelu")
    gap = {name: shape for name, shape in shapes(VIT).items() if ".resblocks.1." not in name}
    with pytest.raises(WeightsError, match=r"missing transformer.resblocks.1.attn.in_proj_bias, .* \(24 in all\)"):
        architecture_of(gap, "quick_gelu")


def test_the_first_five_names_and_their_number_are_listed():
    expected = {f"name{n}": (1,) for n in range(7)}
    message = "missing name0, name1, name2, name3, name4, ... (7 in all); unexpected other"
    assert differences({"other": (1,)}, expected, "the card says") == message
    assert differences(expected, expected, "the card says") == ""


def test_a_configuration_with_too_many_layers_is_not_built():
    deep = ModelConfig(
        image=VisionTransformerConfig(image_size_px=16, patch_size_px=16, width=64, layers=10**6, heads=1),
        text=TextConfig(width=64, heads=1, layers=1),
        embed_dim=8,
    )
    with pytest.raises(WeightsError, match="the architecture has 1000001 layers, but the file has only 300 tensors"):
        build_bounded(deep, 300)
    with pytest.raises(WeightsError, match="the architecture has 1000001 layers"):
        build_bounded(deep, 10**9)


def test_many_layers_with_one_tensor_each_are_not_built():
    many = shapes(VIT) | {f"transformer.resblocks.{n}.x": (1,) for n in range(100_000)}
    with pytest.raises(WeightsError, match="the architecture has 100005 layers, but the file has only"):
        architecture_of(many, "quick_gelu")
