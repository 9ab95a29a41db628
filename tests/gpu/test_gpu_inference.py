"""Embeddings computed on an accelerator are those of the CPU, within stated tolerances."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.weights.models import MODELS, checkpoint_of
from tests.zeroshot.test_cache import NAMES

import wordsight as ws
from wordsight.cli import main as wordsight
from wordsight.encoder import DualEncoder

pytestmark = pytest.mark.gpu

TEXTS = ["a photo of a cat", "two dogs running over wet sand", "a diagram", ""]
FLOAT32_TOLERANCE = 1e-5  # of a component of a unit embedding, when every product is computed in float32
TF32_TOLERANCE = 5e-3  # by default cuDNN computes convolutions in TF32, with 10 bits of mantissa
HALF_TOLERANCE = 2e-2  # float16 has 10 bits of mantissa, and small towers amplify the error of the first layers
HALF_COSINE = 0.999


@pytest.fixture
def full_float32() -> Iterator[None]:
    """Compute convolutions in float32."""
    default = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = default


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def saved(name: str, directory: Path) -> Path:
    """The directory of a random model of one architecture."""
    path = directory / name
    if not path.exists():
        checkpoint = checkpoint_of(name)
        DualEncoder(checkpoint.build(name), checkpoint.card, files=checkpoint.files).save(path)
    return path


def images(clip: DualEncoder, count: int = 5) -> list[np.ndarray]:
    side = clip.card.preprocessing.size_px + 8
    return list(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def differences(one: DualEncoder, other: DualEncoder) -> tuple[float, float]:
    """The largest differences of a component of the embeddings of images and of texts."""
    return (
        float(np.abs(one.embed_images(images(one)) - other.embed_images(images(one))).max()),
        float(np.abs(one.embed_texts(TEXTS) - other.embed_texts(TEXTS)).max()),
    )


@pytest.mark.parametrize("name", MODELS)
def test_float32_embeddings_equal_those_of_the_cpu(
    name: str, directory: Path, device: torch.device, full_float32: None
) -> None:
    path = saved(name, directory)
    clip = ws.load(path, device=device)
    assert next(clip.model.parameters()).device.type == device.type
    assert max(differences(clip, ws.load(path, device="cpu"))) < FLOAT32_TOLERANCE


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip"])
def test_default_precision_of_convolutions_is_close_to_float32(
    name: str, directory: Path, device: torch.device
) -> None:
    path = saved(name, directory)
    assert max(differences(ws.load(path, device=device), ws.load(path, device="cpu"))) < TF32_TOLERANCE


@pytest.mark.parametrize("name", MODELS)
def test_half_runtime_is_close_to_float32(name: str, directory: Path, device: torch.device) -> None:
    path = saved(name, directory)
    half, exact = ws.load(path, device=device, runtime="half"), ws.load(path, device="cpu")
    assert half.runtime.precision == "float16"
    assert half.scale == pytest.approx(exact.scale)
    for embed, inputs in (("embed_images", images(exact)), ("embed_texts", TEXTS)):
        ours, expected = getattr(half, embed)(inputs), getattr(exact, embed)(inputs)
        assert ours.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)
        assert (ours * expected).sum(axis=1).min() > HALF_COSINE
        assert np.abs(ours - expected).max() < HALF_TOLERANCE


@pytest.mark.parametrize("name", ["vit", "resnet", "siglip"])
def test_an_embedding_does_not_depend_on_its_batch(
    name: str, directory: Path, device: torch.device, full_float32: None
) -> None:
    clip = ws.load(saved(name, directory), device=device)
    inputs = images(clip, 16)
    alone = np.concatenate([clip.embed_images([image]) for image in inputs])
    np.testing.assert_allclose(clip.embed_images(inputs), alone, atol=1e-5)
    alone = np.concatenate([clip.embed_texts([text]) for text in TEXTS])
    np.testing.assert_allclose(clip.embed_texts(TEXTS), alone, atol=1e-5)


def test_a_classifier_equals_that_of_the_cpu(directory: Path, device: torch.device, full_float32: None) -> None:
    path = saved("vit", directory)
    ours, expected = (
        ws.ZeroShotClassifier(ws.load(path, device=where), NAMES, "imagenet", cache=False).weights
        for where in (device, "cpu")
    )
    np.testing.assert_allclose(ours, expected, atol=FLOAT32_TOLERANCE)


def test_embed_writes_the_embeddings_of_the_cpu(directory: Path, device: torch.device, tmp_path: Path) -> None:
    path = saved("vit", directory)
    exact = ws.load(path, device="cpu")
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number, pixels in enumerate(images(exact, 6)):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
    out = tmp_path / "out.npy"
    assert wordsight(["embed", str(tmp_path / "images"), "--model", str(path), "--out", str(out)]) == 0
    expected = exact.embed_images(sorted((tmp_path / "images").iterdir()))
    np.testing.assert_allclose(np.load(out), expected, atol=TF32_TOLERANCE)
