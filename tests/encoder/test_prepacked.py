"""Prepacked weights compute the same embeddings, and follow changes of the original weights."""

import numpy as np
import pytest
import torch
from tests.tiny_clip import random_image
from tests.weights.models import MODELS, checkpoint_of

from wordsight.encoder import DualEncoder
from wordsight.encoder.prepacked import can_prepack, prepack_image_tower, prepack_text_tower
from wordsight.weights.certificate import probe_ids, probe_pixels

TEXTS = ["a cat", "a small red house", "dogs"]


@pytest.fixture
def clip() -> DualEncoder:
    checkpoint = checkpoint_of("vit")
    return DualEncoder(checkpoint.build("vit"), checkpoint.card, files=checkpoint.files)


def plain_embeddings(clip: DualEncoder, image: np.ndarray) -> np.ndarray:
    """The output of the module itself, without prepacking."""
    pixels = torch.from_numpy(clip.preprocess(image)[None])
    with torch.inference_mode():
        return torch.nn.functional.normalize(clip.model.eval().encode_image(pixels)).numpy()


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_every_architecture_has_the_same_output(name: str) -> None:
    checkpoint = checkpoint_of(name)
    model = checkpoint.build(name).eval()
    prepacked = prepack_text_tower(prepack_image_tower(model))
    pixels = probe_pixels(model.config.image.image_size_px).clone()
    ids = probe_ids(model.config.text)
    for plain, fast in (
        (model.encode_image(pixels), prepacked.encode_image(pixels)),
        (model.encode_text(ids), prepacked.encode_text(ids)),
    ):
        torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    replaced = torch.nn.Conv2d | torch.nn.BatchNorm2d
    assert not [module for module in prepacked.visual.modules() if isinstance(module, replaced)]


@pytest.mark.parametrize("name", ["vit-leftover", "siglip-leftover"])
def test_pixels_beyond_the_last_whole_patch_are_ignored(name: str) -> None:
    checkpoint = checkpoint_of(name)
    clip = DualEncoder(checkpoint.build(name), checkpoint.card, files=checkpoint.files)
    image = random_image(0, 30, 30)
    embedding = clip.embed_images(image)
    np.testing.assert_allclose(embedding, plain_embeddings(clip, image), atol=1e-6)
    cut = image.copy()
    cut[28:], cut[:, 28:] = 0, 0
    np.testing.assert_array_equal(clip.embed_images(cut), embedding)
    cut[27] = 0
    assert np.abs(clip.embed_images(cut) - embedding).max() > 1e-4


def test_the_original_model_is_not_modified(clip: DualEncoder) -> None:
    names = [name for name, _ in clip.model.named_modules()]
    state = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    clip.embed_texts(TEXTS)
    clip.embed_images(random_image(0))
    assert [name for name, _ in clip.model.named_modules()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.model.state_dict().items())


def test_a_changed_weight_is_prepacked_again(clip: DualEncoder) -> None:
    image = random_image(0)
    previous = clip.embed_images(image)
    with torch.no_grad():
        clip.model.visual.transformer.resblocks[0].mlp.c_fc.weight.mul_(3)
    expected = plain_embeddings(clip, image)
    np.testing.assert_allclose(clip.embed_images(image), expected, atol=1e-6)
    assert np.abs(expected - previous).max() > 1e-3


@pytest.mark.parametrize("changed", ["running_mean", "running_var"])
def test_a_changed_batch_statistic_is_folded_in_again(changed: str) -> None:
    checkpoint = checkpoint_of("residual")
    clip = DualEncoder(checkpoint.build("residual"), checkpoint.card, files=checkpoint.files)
    image = random_image(0)
    previous = clip.embed_images(image)
    clip.model.visual.stages[0].bn1.get_buffer(changed).mul_(3).add_(1)
    expected = plain_embeddings(clip, image)
    np.testing.assert_allclose(clip.embed_images(image), expected, atol=1e-6)
    assert np.abs(expected - previous).max() > 1e-4


@pytest.mark.parametrize("name", ["residual", "resnet"])
def test_a_convolution_is_prepacked_again_for_another_number_of_images(name: str) -> None:
    checkpoint = checkpoint_of(name)
    model = checkpoint.build(name).eval()
    prepacked = prepack_image_tower(model)
    size = model.config.image.image_size_px
    pixels = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for count in (5, 1, 2, 5):
            expected = model.encode_image(pixels[:count])
            torch.testing.assert_close(prepacked.encode_image(pixels[:count]), expected, rtol=1e-5, atol=1e-5)


def test_weights_without_a_version_counter_are_not_prepacked(clip: DualEncoder) -> None:
    with torch.inference_mode():
        model = checkpoint_of("vit").build("vit")
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = torch.nn.Parameter(parameter.clone(), requires_grad=False)
    encoder = DualEncoder(model, clip.card)
    first = encoder.embed_images(random_image(0))
    with torch.inference_mode():
        model.visual.proj.mul_(-1)
    np.testing.assert_allclose(encoder.embed_images(random_image(0)), -first, atol=1e-6)


def test_half_precision_is_not_prepacked(clip: DualEncoder) -> None:
    assert can_prepack(clip.model)
    assert not can_prepack(clip.model.to(torch.bfloat16))
