import inspect
import io
import math

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image
from tests.tiny_clip import png, random_image, tiny_card, tiny_clip, tiny_config

from wordsight.encoder import DualEncoder, load
from wordsight.errors import ConfigError, DataError, ImageError, TextError, WeightsError
from wordsight.image import preprocess
from wordsight.text import tokenize

WORDS = ["cat", "dog", "a small red house by the sea", "sky", "", "two trees", "x" * 200]


def test_the_public_methods_are_those_of_the_face():
    public = {name for name in dir(DualEncoder) if not name.startswith("_")}
    methods = {"embed_images", "embed_texts", "similarity", "logits", "tokenize", "preprocess", "save"}
    assert public == methods | {"scale", "bias", "fingerprint", "tokenizer", "model"}
    assert set(vars(tiny_clip())) == {"runtime", "card", "policy", "files"}
    assert list(inspect.signature(DualEncoder).parameters) == ["model", "card", "policy", "files"]


@pytest.mark.parametrize("kind", ["vit", "residual"])
def test_embeddings_are_the_models_own_at_unit_length(kind):
    clip = tiny_clip(kind)
    images = [random_image(seed) for seed in range(3)]
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([clip.preprocess(image) for image in images]))
        expected_images = clip.model.encode_image(pixels)
        expected_texts = clip.model.encode_text(torch.from_numpy(clip.tokenize(WORDS)).long())
    for found, expected in [(clip.embed_images(images), expected_images), (clip.embed_texts(WORDS), expected_texts)]:
        assert found.dtype == np.float32
        unit = expected.numpy() / np.linalg.norm(expected.numpy(), axis=1, keepdims=True)
        np.testing.assert_allclose(found, unit, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_unit_length_survives_half_precision():
    clip = tiny_clip()
    exact = clip.embed_texts(WORDS)
    clip.model.bfloat16()
    found = clip.embed_texts(WORDS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert 0 < np.abs(found - exact).max() < 0.1
    assert clip.embed_images([random_image(0)]).dtype == np.float32


def test_a_image_is_the_same_as_path_bytes_image_or_array(tmp_path):
    (tmp_path / "a.png").write_bytes(png(5))
    forms = [tmp_path / "a.png", str(tmp_path / "a.png"), png(5), Image.open(io.BytesIO(png(5))), random_image(5)]
    clip = tiny_clip()
    together = clip.embed_images(forms)
    assert together.shape == (5, 8)
    for form in forms:
        alone = clip.embed_images(form)
        assert alone.shape == (1, 8)
        np.testing.assert_allclose(together, np.repeat(alone, 5, axis=0), atol=1e-6)


def test_lists_streams_and_stacked_arrays_are_taken():
    clip = tiny_clip()
    images = np.stack([random_image(seed) for seed in range(4)])
    expected = clip.embed_images(list(images))
    assert np.array_equal(clip.embed_images(images), expected)
    assert np.array_equal(clip.embed_images(image for image in images), expected)


def test_nothing_gives_no_rows():
    clip = tiny_clip()
    for found in (clip.embed_images([]), clip.embed_texts([])):
        assert found.shape == (0, 8)
        assert found.dtype == np.float32
    assert clip.similarity(clip.embed_images([]), clip.embed_texts(["a"])).shape == (0, 1)


def test_one_text_is_a_list_of_one():
    clip = tiny_clip()
    assert np.array_equal(clip.embed_texts("cat"), clip.embed_texts(["cat"]))


@pytest.mark.parametrize("kind", ["vit", "residual"])
def test_a_embedding_does_not_depend_on_its_neighbours(kind):
    clip = tiny_clip(kind)
    clip.model.train()
    images = [random_image(seed) for seed in range(150)]  # more than are encoded at once
    texts = [f"{'very ' * (number % 9)}number {number}" for number in range(300)]
    order = np.random.default_rng(0).permutation(64)
    for embed, items in ((clip.embed_images, images), (clip.embed_texts, texts)):
        whole = embed(items)
        for found, rows in [
            (np.concatenate([embed(items[row : row + 1]) for row in range(8)]), range(8)),
            (embed(items[:8]), range(8)),
            (embed(items[:64]), range(64)),
            (embed([items[row] for row in order]), order),
        ]:
            np.testing.assert_allclose(found, whole[list(rows)], atol=1e-5)


def test_neighbours_would_matter_to_a_model_in_training():
    clip = tiny_clip("residual")
    pixels = torch.from_numpy(np.stack([clip.preprocess(random_image(seed)) for seed in range(8)]))
    clip.model.train()
    with torch.no_grad():
        assert (clip.model.encode_image(pixels)[:4] - clip.model.encode_image(pixels[:4])).abs().max() > 1e-3


def test_the_models_mode_and_statistics_are_left_alone():
    clip = tiny_clip("residual")
    clip.model.train()
    clip.model.transformer.eval()
    before = {name: tensor.clone() for name, tensor in clip.model.state_dict().items()}
    modes = [module.training for module in clip.model.modules()]
    clip.embed_images([random_image(0)])
    with pytest.raises(ImageError):
        clip.embed_images([random_image(0), b"no"])
    assert [module.training for module in clip.model.modules()] == modes
    assert all(torch.equal(before[name], tensor) for name, tensor in clip.model.state_dict().items())


def test_similarity_is_the_cosine_and_logits_are_scaled():
    clip = tiny_clip()
    with torch.no_grad():
        clip.model.logit_scale.fill_(math.log(20))
    images = np.array([[1, 0], [3, 4]], np.float32)
    texts = np.array([[0, 2], [1, 0], [1, 1]], np.float32)
    expected = np.array([[0, 1, 0.5**0.5], [0.8, 0.6, 1.4 * 0.5**0.5]])
    np.testing.assert_allclose(clip.similarity(images, texts), expected, atol=1e-6)
    np.testing.assert_allclose(clip.logits(images, texts), 20 * expected, rtol=1e-6)
    assert clip.scale == pytest.approx(20)


@pytest.mark.parametrize("texts", [np.zeros((2, 3)), np.zeros(2), np.zeros((1, 2, 2))])
def test_embeddings_that_do_not_fit_are_refused(texts):
    with pytest.raises(DataError, match=r"images \(1, 2\) and texts \(.*\): expected \(N, E\) and \(M, E\)"):
        tiny_clip().similarity(np.zeros((1, 2)), texts)


def test_texts_and_images_are_prepared_as_published():
    clip = tiny_clip()
    assert np.array_equal(clip.tokenize(WORDS), tokenize(WORDS, context_length=12))
    assert np.array_equal(clip.preprocess(png(1)), preprocess(png(1), clip.card.preprocessing))


def turned_jpeg() -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_image(3)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_files_are_looked_at_as_a_person_does_unless_asked_otherwise():
    clip = tiny_clip()
    published = DualEncoder(clip.model, clip.card, policy="published")
    assert np.array_equal(clip.preprocess(turned_jpeg()), preprocess(turned_jpeg(), clip.card.preprocessing, "viewer"))
    assert np.abs(clip.embed_images(turned_jpeg()) - published.embed_images(turned_jpeg())).max() > 1e-3
    assert np.array_equal(clip.embed_images(png(1)), published.embed_images(png(1)))
    with pytest.raises(ConfigError, match="expected published or viewer; did you mean 'published'"):
        DualEncoder(clip.model, clip.card, policy="publish")


def test_broken_input_is_named():
    clip = tiny_clip()
    with pytest.raises(ImageError, match=r"^image 1: not an image"):
        clip.embed_images([png(0), b"hello"])
    with pytest.raises(ImageError, match="no such file"):
        clip.embed_images("missing.jpg")
    with pytest.raises(ImageError):
        clip.embed_images(5)
    with pytest.raises(TextError, match="text 1"):
        clip.embed_texts(["a", 5])


def test_numbers_that_are_not_finite_are_an_error():
    clip = tiny_clip()
    with torch.no_grad():
        clip.model.text_projection[0, 0] = math.nan
    with pytest.raises(WeightsError, match="not finite"):
        clip.embed_texts(["a"])


def test_the_fingerprint_is_that_of_what_decides_a_embedding(tmp_path):
    clip = tiny_clip()
    clip.save(tmp_path / "model")
    assert load(tmp_path / "model", "cpu").fingerprint == tiny_clip().fingerprint == clip.fingerprint
    digests = {clip.fingerprint.digest, DualEncoder(clip.model, clip.card, "published").fingerprint.digest}
    other = tiny_clip()
    with torch.no_grad():
        other.model.logit_scale += 1e-6
    digests.add(other.fingerprint.digest)
    gelu = msgspec.structs.replace(tiny_config(), text=msgspec.structs.replace(tiny_config().text, activation="gelu"))
    digests.add(DualEncoder(clip.model, tiny_card(model=gelu)).fingerprint.digest)
    half = tiny_clip()
    half.model.half()
    assert half.fingerprint.precision == "float16"
    digests.add(half.fingerprint.digest)
    assert len(digests) == 5
    assert "\n" not in str(clip.fingerprint)
    assert clip.fingerprint.digest[:12] in str(clip.fingerprint)


@pytest.mark.parametrize("texts", [5, None, [1]])
def test_what_is_no_text_is_a_text_error(texts):
    with pytest.raises(TextError, match="expected"):
        tiny_clip().embed_texts(texts)
