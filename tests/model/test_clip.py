"""The whole model: exact shortcuts, initial weights, empty batches and export."""

import copy
import itertools
import math

import msgspec
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.model import (
    CLIP,
    ModelConfig,
    ModifiedResNetConfig,
    ResidualConfig,
    TextConfig,
    VisionTransformerConfig,
    build,
    build_empty,
)

TEXT = TextConfig(width=32, heads=2, layers=3, context_length=20, vocabulary_size=100)
TOWERS = {
    "vit": VisionTransformerConfig(image_size_px=32, patch_size_px=8, width=48, layers=2, heads=3),
    "conv-stem": VisionTransformerConfig(image_size_px=32, patch_size_px=8, width=48, layers=2, heads=3, stem="conv"),
    "modified-resnet": ModifiedResNetConfig(image_size_px=32, layers=(1, 2, 1, 1), width=8),
    "residual": ResidualConfig(image_size_px=32, widths=(8, 16, 24), blocks=(1, 2, 1)),
}
each_tower = pytest.mark.parametrize("tower", TOWERS)


def model_of(tower: str = "vit", seed: int = 0) -> CLIP:
    config = ModelConfig(image=TOWERS[tower], text=TEXT, embed_dim=24)
    return build(config, torch.Generator().manual_seed(seed))


def perturbed(tower: str = "vit") -> CLIP:
    """A model in evaluation mode with noise added to every parameter and statistic."""
    model, generator = model_of(tower), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in itertools.chain(model.parameters(), model.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.rand(tensor.shape, generator=generator) - 0.3, alpha=0.1)
    return model.eval()


def assert_same(one: Tensor, other: Tensor) -> None:
    """Assert that embeddings have the same directions, up to rounding."""
    torch.testing.assert_close(F.normalize(one, dim=1), F.normalize(other, dim=1), rtol=0, atol=1e-5)


def texts(lengths: list[int]) -> Tensor:
    """Random ids that begin with 98 and end with 99, padded with 0."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.zeros(len(lengths), TEXT.context_length, dtype=torch.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = torch.randint(1, 98, (length,), generator=generator)
        row[0], row[length - 1] = 98, 99
    return ids


def random_images(n: int) -> Tensor:
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def plain_transformer(transformer: nn.Module, x_NLD: Tensor, is_causal: bool) -> Tensor:
    """All positions of all blocks, computed with torch's own attention module."""
    length, width = x_NLD.shape[1:]
    mask = torch.full((length, length), float("-inf")).triu(1) if is_causal else None
    for block in transformer.resblocks:
        attention = nn.MultiheadAttention(width, block.attn.heads, batch_first=True)
        attention.load_state_dict(block.attn.state_dict())
        normed = block.ln_1(x_NLD)
        x_NLD = x_NLD + attention(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        hidden = block.mlp.c_fc(block.ln_2(x_NLD))
        x_NLD = x_NLD + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))
    return x_NLD


def test_trimming_texts_and_the_last_block_does_not_change_embeddings() -> None:
    model, ids = perturbed(), texts([3, 20, 7, 2, 11])
    x_NLD = model.token_embedding(ids) + model.positional_embedding
    x_NLD = model.ln_final(plain_transformer(model.transformer, x_NLD, is_causal=True))
    expected = x_NLD[torch.arange(5), ids.argmax(1)] @ model.text_projection
    assert_same(model.encode_text(ids), expected)
    with torch.no_grad():
        assert_same(model.encode_text(ids), expected)


def test_computing_one_token_in_the_last_block_does_not_change_image_embeddings() -> None:
    visual, pixels = perturbed().visual, random_images(4)
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(4, 1, -1)
    x_NLD = visual.ln_pre(torch.cat([start, patches], 1) + visual.positional_embedding)
    expected = visual.ln_post(plain_transformer(visual.transformer, x_NLD, is_causal=False)[:, 0]) @ visual.proj
    assert_same(visual(pixels), expected)


def test_tokens_after_the_end_of_text_have_no_influence() -> None:
    model, ids = perturbed(), texts([5, 9])
    changed = ids.clone()
    changed[0, 5:], changed[1, 9:] = 42, 17
    assert_same(model.encode_text(changed), model.encode_text(ids))
    changed[0, 4] = 97  # but earlier tokens do
    assert (model.encode_text(changed) - model.encode_text(ids))[0].abs().max() > 1e-2


@pytest.mark.parametrize("n", [1, 63, 64, 65, 300])
def test_a_text_embedding_does_not_depend_on_the_rest_of_the_batch(n: int) -> None:
    model = perturbed()
    ids = texts([2 + (7 * row) % 19 for row in range(n)])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(4))
    together = model.encode_text(ids)
    assert_same(model.encode_text(ids[order]), together[order])
    alone = torch.cat([model.encode_text(ids[row : row + 1]) for row in range(0, n, 37)])
    assert_same(alone, together[::37])


@each_tower
def test_an_image_embedding_does_not_depend_on_the_rest_of_the_batch(tower: str) -> None:
    model, pixels = perturbed(tower), random_images(5)
    alone = torch.cat([model.encode_image(pixels[row : row + 1]) for row in range(5)])
    assert_same(model.encode_image(pixels), alone)


@each_tower
def test_the_memory_format_of_pixels_does_not_change_embeddings(tower: str) -> None:
    model, pixels = perturbed(tower), random_images(3)
    channels_last = pixels.to(memory_format=torch.channels_last)
    assert_same(model.encode_image(channels_last), model.encode_image(pixels))


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "gelu_tanh"])
def test_training_and_inference_compute_the_same_embeddings(activation: str) -> None:
    image, text = (msgspec.structs.replace(tower, activation=activation) for tower in (TOWERS["vit"], TEXT))
    config = ModelConfig(image=image, text=text, embed_dim=24)
    model = build(config, torch.Generator().manual_seed(0)).eval()
    trained = model(random_images(3), texts([4, 5, 6]))
    with torch.no_grad():
        for one, other in zip(model(random_images(3), texts([4, 5, 6]))[:2], trained, strict=False):
            assert_same(one, other)


@each_tower
def test_forward_returns_unit_embeddings_and_the_scale(tower: str) -> None:
    image_NE, text_NE, scale = model_of(tower)(random_images(4), texts([4, 5, 6, 7]))
    assert image_NE.shape == text_NE.shape == (4, 24)
    torch.testing.assert_close(torch.cat([image_NE, text_NE]).norm(dim=1), torch.ones(8))
    assert scale.item() == pytest.approx(1 / 0.07)


def test_empty_batches_have_no_embeddings() -> None:
    model = perturbed()
    assert model.encode_image(random_images(0)).shape == (0, 24)
    assert model.encode_text(texts([])).shape == (0, 24)


@each_tower
def test_every_parameter_has_a_gradient(tower: str) -> None:
    model = model_of(tower)
    with torch.no_grad():  # gains that are initialised to 0 block the gradients of earlier layers
        for parameter in model.parameters():
            parameter.add_(0.01)
    image_NE, text_NE, scale = model(random_images(6), texts([4, 5, 6, 7, 8, 9]))
    F.cross_entropy(scale * image_NE @ text_NE.T, torch.arange(6)).backward()
    without_gradient = [name for name, one in model.named_parameters() if one.grad is None or not one.grad.any()]
    assert without_gradient == []


def test_the_logit_scale_is_bounded_and_can_decrease_again() -> None:
    model = model_of()
    nn.init.constant_(model.logit_scale, 6.0)
    assert model.scale.item() == pytest.approx(100)
    model.bound_scale_()
    assert model.logit_scale.item() == pytest.approx(math.log(100))
    model.scale.backward()
    assert model.logit_scale.grad is not None
    assert model.logit_scale.grad.item() > 0


@each_tower
def test_initial_weights_depend_on_the_generator_alone(tower: str) -> None:
    before = torch.get_rng_state()
    one, again, other = model_of(tower), model_of(tower), model_of(tower, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in one.state_dict().items():
        assert tensor.isfinite().all(), name
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(one.text_projection, other.text_projection)


def test_initialisation_fills_all_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = nn.Module.to_empty

    def to_empty_with_nan(self: nn.Module, **options: object) -> nn.Module:
        filled = empty(self, **options)
        with torch.no_grad():
            for tensor in itertools.chain(filled.parameters(), filled.buffers()):
                tensor.fill_(float("nan") if tensor.is_floating_point() else -1)
        return filled

    monkeypatch.setattr(nn.Module, "to_empty", to_empty_with_nan)
    for tower in TOWERS:
        for name, tensor in model_of(tower).state_dict().items():
            assert tensor.isfinite().all(), name
            assert (tensor != -1).all() or tensor.is_floating_point(), name


def test_initial_weights_have_the_published_standard_deviations() -> None:
    config = ModelConfig(
        image=VisionTransformerConfig(image_size_px=64, patch_size_px=16, width=128, layers=2, heads=2),
        text=TextConfig(width=192, heads=3, layers=4),
        embed_dim=160,
    )
    weights = build(config, torch.Generator().manual_seed(0)).state_dict()
    expected = {
        "token_embedding.weight": 0.02,
        "positional_embedding": 0.01,
        "text_projection": 192**-0.5,
        "transformer.resblocks.1.attn.in_proj_weight": 192**-0.5,
        "transformer.resblocks.1.attn.out_proj.weight": 192**-0.5 * 8**-0.5,
        "transformer.resblocks.1.mlp.c_fc.weight": (2 * 192) ** -0.5,
        "transformer.resblocks.1.mlp.c_proj.weight": 192**-0.5 * 8**-0.5,
        "visual.proj": 128**-0.5,
        "visual.positional_embedding": 128**-0.5,
        "visual.conv1.weight": (3 * 3 * 16 * 16) ** -0.5,
        "visual.transformer.resblocks.0.attn.in_proj_weight": math.sqrt(2 / (4 * 128)),
        "visual.transformer.resblocks.0.mlp.c_proj.weight": (3 * 512) ** -0.5,
    }
    for name, deviation in expected.items():
        assert weights[name].std().item() == pytest.approx(deviation, rel=0.05), name
    assert weights["logit_scale"].item() == pytest.approx(math.log(1 / 0.07))
    assert not weights["transformer.resblocks.0.attn.in_proj_bias"].any()
    assert (weights["ln_final.weight"] == 1).all()


def test_residual_blocks_initially_equal_their_shortcut() -> None:
    weights = model_of("modified-resnet").state_dict() | model_of("residual").state_dict()
    assert not weights["visual.layer2.1.bn3.weight"].any()
    assert not weights["visual.stages.1.bn2.weight"].any()


@pytest.mark.parametrize("size_px", [32, 40, 57])
def test_the_residual_network_accepts_any_resolution(size_px: int) -> None:
    assert perturbed("residual").encode_image(torch.zeros(2, 3, size_px, size_px)).shape == (2, 24)


def test_an_empty_model_loads_weights() -> None:
    model = perturbed()
    empty = build_empty(model.config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    assert torch.equal(empty.eval().encode_image(random_images(2)), model.encode_image(random_images(2)))


@pytest.mark.filterwarnings("ignore")
def test_an_exported_model_accepts_any_number_of_texts() -> None:
    class TextTower(nn.Module):
        def __init__(self, model: CLIP) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Tensor) -> Tensor:
            return self.model.encode_text(ids)

    model = perturbed()
    shapes = {"ids": {0: torch.export.Dim("texts", min=1, max=512)}}
    with torch.no_grad():
        program = torch.export.export(TextTower(model), (texts([3, 4]),), dynamic_shapes=shapes)
        ids = texts([9, 20, 2])
        assert_same(program.module()(ids), model.encode_text(ids))


def test_bfloat16_stays_close_to_float32() -> None:
    model = perturbed()
    with torch.no_grad():
        image_NE, text_NE, _ = model(random_images(3), texts([4, 5, 6]))
        with torch.autocast("cpu", torch.bfloat16):
            half_image_NE, half_text_NE, _ = model(random_images(3), texts([4, 5, 6]))
    assert F.cosine_similarity(image_NE, half_image_NE.float()).min() > 0.999
    assert F.cosine_similarity(text_NE, half_text_NE.float()).min() > 0.999


def test_a_model_does_not_modify_its_configuration() -> None:
    config = ModelConfig(image=TOWERS["vit"], text=TEXT, embed_dim=24)
    assert build_empty(config).config is config
    assert msgspec.structs.replace(config, embed_dim=25) != config
