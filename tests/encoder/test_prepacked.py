"""Arranged weights give the same embeddings, and follow the weights that they were made from."""

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
    found = checkpoint_of("vit")
    return DualEncoder(found.build("vit"), found.card, files=found.files)


def plain_embeddings(clip: DualEncoder, image: np.ndarray) -> np.ndarray:
    """What the module itself says of a image."""
    pixels = torch.from_numpy(clip.preprocess(image)[None])
    with torch.inference_mode():
        return torch.nn.functional.normalize(clip.model.eval().encode_image(pixels)).numpy()


@pytest.mark.parametrize("name", MODELS)
@torch.inference_mode()
def test_every_tower_answers_as_before(name: str) -> None:
    found = checkpoint_of(name)
    model = found.build(name).eval()
    packed = prepack_text_tower(prepack_image_tower(model))
    pixels = probe_pixels(model.config.image.image_size_px).clone()
    ids = probe_ids(model.config.text)
    for before, after in (
        (model.encode_image(pixels), packed.encode_image(pixels)),
        (model.encode_text(ids), packed.encode_text(ids)),
    ):
        torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    left = [module for module in packed.visual.modules() if isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d)]
    assert not left


def test_the_model_that_was_given_stays_as_it_is(clip: DualEncoder) -> None:
    names = [name for name, _ in clip.model.named_modules()]
    state = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    clip.embed_texts(TEXTS)
    clip.embed_images(random_image(0))
    assert [name for name, _ in clip.model.named_modules()] == names
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.model.state_dict().items())


def test_a_weight_that_changes_is_arranged_anew(clip: DualEncoder) -> None:
    image = random_image(0)
    former = clip.embed_images(image)
    with torch.no_grad():
        clip.model.visual.transformer.resblocks[0].mlp.c_fc.weight.mul_(3)
    expected = plain_embeddings(clip, image)
    np.testing.assert_allclose(clip.embed_images(image), expected, atol=1e-6)
    assert np.abs(expected - former).max() > 1e-3


@pytest.mark.parametrize("changed", ["running_mean", "running_var"])
def test_a_statistic_that_changes_is_folded_in_anew(changed: str) -> None:
    found = checkpoint_of("residual")
    clip = DualEncoder(found.build("residual"), found.card, files=found.files)
    image = random_image(0)
    former = clip.embed_images(image)
    clip.model.visual.stages[0].bn1.get_buffer(changed).mul_(3).add_(1)
    expected = plain_embeddings(clip, image)
    np.testing.assert_allclose(clip.embed_images(image), expected, atol=1e-6)
    assert np.abs(expected - former).max() > 1e-4


@pytest.mark.parametrize("name", ["residual", "resnet"])
def test_a_convolution_is_arranged_anew_for_another_number_of_images(name: str) -> None:
    found = checkpoint_of(name)
    model = found.build(name).eval()
    packed = prepack_image_tower(model)
    size = model.config.image.image_size_px
    pixels = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for count in (5, 1, 2, 5):
            expected = model.encode_image(pixels[:count])
            torch.testing.assert_close(packed.encode_image(pixels[:count]), expected, rtol=1e-5, atol=1e-5)


def test_weights_that_do_not_say_when_they_change_are_left_as_they_are(clip: DualEncoder) -> None:
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


def test_half_precision_is_not_packed(clip: DualEncoder) -> None:
    assert can_prepack(clip.model)
    assert not can_prepack(clip.model.to(torch.bfloat16))
