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
from wordsight.encoder.batch_sizes import BatchSizes, batch_sizes
from wordsight.errors import ConfigError, DataError, ImageError, TextError, WeightsError
from wordsight.image import ImageRef, preprocess
from wordsight.text import tokenize

pytestmark = pytest.mark.filterwarnings("ignore:.* longer than the model's context")

TEXTS = ["cat", "dog", "a small red house by the sea", "sky", "", "two trees", "x" * 200]


def test_the_public_names_of_dual_encoder_are_frozen():
    public = {name for name in dir(DualEncoder) if not name.startswith("_")}
    methods = {"embed_images", "embed_texts", "similarity", "logits", "tokenize", "preprocess", "save"}
    assert public == methods | {"scale", "bias", "fingerprint", "tokenizer", "model"}
    assert set(vars(tiny_clip())) == {"runtime", "card", "policy", "files", "batch_size"}
    assert list(inspect.signature(DualEncoder).parameters) == ["model", "card", "policy", "files", "batch_size"]


@pytest.mark.parametrize("kind", ["vit", "residual"])
def test_embeddings_are_the_models_output_scaled_to_unit_length(kind):
    clip = tiny_clip(kind)
    images = [random_image(seed) for seed in range(3)]
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([clip.preprocess(image) for image in images]))
        expected_images = clip.model.encode_image(pixels)
        expected_texts = clip.model.encode_text(torch.from_numpy(clip.tokenize(TEXTS)).long())
    for embeddings, output in [(clip.embed_images(images), expected_images), (clip.embed_texts(TEXTS), expected_texts)]:
        assert embeddings.dtype == np.float32
        unit = output.numpy() / np.linalg.norm(output.numpy(), axis=1, keepdims=True)
        np.testing.assert_allclose(embeddings, unit, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_unit_length_survives_half_precision():
    clip = tiny_clip()
    exact = clip.embed_texts(TEXTS)
    clip.model.bfloat16()
    half = clip.embed_texts(TEXTS)
    assert half.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(half, axis=1), 1, atol=1e-6)
    assert 0 < np.abs(half - exact).max() < 0.1
    assert clip.embed_images([random_image(0)]).dtype == np.float32


def test_every_kind_of_image_source_has_the_same_embedding(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png(5))
    refs = [ImageRef("a", path.read_bytes), ImageRef("a", lambda: random_image(5), sha256="0")]
    sources = [path, str(path), png(5), Image.open(io.BytesIO(png(5))), random_image(5), *refs]
    clip = tiny_clip()
    together = clip.embed_images(sources)
    assert together.shape == (7, 8)
    for source in sources:
        alone = clip.embed_images(source)
        assert alone.shape == (1, 8)
        np.testing.assert_allclose(together, np.repeat(alone, 7, axis=0), atol=1e-6)


def test_lists_streams_and_stacked_arrays_are_accepted():
    clip = tiny_clip()
    images = np.stack([random_image(seed) for seed in range(4)])
    expected = clip.embed_images(list(images))
    assert np.array_equal(clip.embed_images(images), expected)
    assert np.array_equal(clip.embed_images(image for image in images), expected)


def test_empty_input_has_an_empty_result():
    clip = tiny_clip()
    for embeddings in (clip.embed_images([]), clip.embed_texts([])):
        assert embeddings.shape == (0, 8)
        assert embeddings.dtype == np.float32
    assert clip.similarity(clip.embed_images([]), clip.embed_texts(["a"])).shape == (0, 1)


def test_a_single_text_is_accepted():
    clip = tiny_clip()
    assert np.array_equal(clip.embed_texts("cat"), clip.embed_texts(["cat"]))


@pytest.mark.parametrize("kind", ["vit", "residual"])
def test_an_embedding_does_not_depend_on_the_rest_of_its_batch(kind):
    clip = tiny_clip(kind)
    clip.model.train()
    images = [random_image(seed) for seed in range(150)]  # more than one batch
    texts = [f"{'very ' * (number % 9)}number {number}" for number in range(300)]
    order = np.random.default_rng(0).permutation(64)
    for embed, inputs in ((clip.embed_images, images), (clip.embed_texts, texts)):
        together = embed(inputs)
        for embeddings, rows in [
            (np.concatenate([embed(inputs[row : row + 1]) for row in range(8)]), range(8)),
            (embed(inputs[:8]), range(8)),
            (embed(inputs[:64]), range(64)),
            (embed([inputs[row] for row in order]), order),
        ]:
            np.testing.assert_allclose(embeddings, together[list(rows)], atol=1e-5)


def test_the_batch_does_matter_to_a_model_in_training_mode():
    clip = tiny_clip("residual")
    pixels = torch.from_numpy(np.stack([clip.preprocess(random_image(seed)) for seed in range(8)]))
    clip.model.train()
    with torch.no_grad():
        assert (clip.model.encode_image(pixels)[:4] - clip.model.encode_image(pixels[:4])).abs().max() > 1e-3


def test_training_mode_and_batch_statistics_are_preserved():
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


def test_similarity_is_the_cosine_and_logits_are_scaled_similarities():
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
def test_similarity_refuses_shapes_that_do_not_match(texts):
    with pytest.raises(DataError, match=r"images \(1, 2\) and texts \(.*\): expected \(N, E\) and \(M, E\)"):
        tiny_clip().similarity(np.zeros((1, 2)), texts)


def test_tokens_and_pixels_are_the_published_ones():
    clip = tiny_clip()
    assert np.array_equal(clip.tokenize(TEXTS), tokenize(TEXTS, context_length=12))
    assert np.array_equal(clip.preprocess(png(1)), preprocess(png(1), clip.card.preprocessing))


def rotated_jpeg() -> bytes:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(random_image(3)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def test_the_default_policy_is_viewer_and_published_is_opt_in():
    clip = tiny_clip()
    published = DualEncoder(clip.model, clip.card, policy="published")
    assert np.array_equal(
        clip.preprocess(rotated_jpeg()), preprocess(rotated_jpeg(), clip.card.preprocessing, "viewer")
    )
    assert np.abs(clip.embed_images(rotated_jpeg()) - published.embed_images(rotated_jpeg())).max() > 1e-3
    assert np.array_equal(clip.embed_images(png(1)), published.embed_images(png(1)))
    with pytest.raises(ConfigError, match="expected published or viewer; did you mean 'published'"):
        DualEncoder(clip.model, clip.card, policy="publish")


def test_errors_name_the_unreadable_image_or_text():
    clip = tiny_clip()
    with pytest.raises(ImageError, match=r"^image 1: not an image"):
        clip.embed_images([png(0), b"hello"])
    with pytest.raises(ImageError, match="no such file"):
        clip.embed_images("missing.jpg")
    with pytest.raises(ImageError):
        clip.embed_images(5)
    with pytest.raises(TextError, match="text 1"):
        clip.embed_texts(["a", 5])


def test_embeddings_that_are_not_finite_are_an_error():
    clip = tiny_clip()
    with torch.no_grad():
        clip.model.text_projection[0, 0] = math.nan
    with pytest.raises(WeightsError, match="not finite"):
        clip.embed_texts(["a"])


def test_the_fingerprint_depends_on_everything_that_determines_an_embedding(tmp_path):
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
def test_anything_but_texts_is_a_text_error(texts):
    with pytest.raises(TextError, match="expected"):
        tiny_clip().embed_texts(texts)


def batches_of(clip, images):
    """Embed images and return the number of images in each call of the model."""
    calls = []
    encode = clip.runtime.encode_pixels
    clip.runtime.encode_pixels = lambda pixels: (calls.append(len(pixels)), encode(pixels))[1]
    clip.embed_images(images)
    return calls


def test_images_are_encoded_in_batches_of_the_given_size():
    plain = tiny_clip()
    images = [random_image(seed) for seed in range(70)]
    assert plain.batch_size == 64
    assert batches_of(tiny_clip(), images) == [64, 6]
    assert batches_of(DualEncoder(plain.model, plain.card, batch_size=30), images) == [30, 30, 10]


def test_a_batch_size_below_one_is_refused():
    clip = tiny_clip()
    with pytest.raises(ConfigError, match="batch size 0: expected at least 1"):
        DualEncoder(clip.model, clip.card, batch_size=0)


def test_batch_sizes_are_those_of_the_device_type():
    assert batch_sizes("cpu") == BatchSizes(images=64, texts=64, nodes=2048, tokenised_texts=8192)
    assert batch_sizes("cuda").images > batch_sizes("cpu").images
    assert batch_sizes("no such device") == batch_sizes("cpu")


def rescale(clip):
    with torch.no_grad():
        clip.model.visual.conv1.weight.mul_(2)


def rescale_through_data(clip):
    clip.model.visual.conv1.weight.data.mul_(2)


def replace_parameter(clip):
    clip.model.visual.conv1.weight = torch.nn.Parameter(2 * clip.model.visual.conv1.weight.detach())


def load_other_weights(clip):
    clip.model.load_state_dict(tiny_clip(seed=1).model.state_dict())


def take_a_step(clip):
    optimizer = torch.optim.SGD(clip.model.parameters(), lr=0.1)
    clip.model.encode_image(torch.ones(1, 3, 16, 16)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("change", [rescale, rescale_through_data, replace_parameter, load_other_weights, take_a_step])
def test_the_fingerprint_follows_weights_that_are_changed_in_place(change):
    clip = tiny_clip()
    before = clip.fingerprint
    assert clip.fingerprint == before
    change(clip)
    assert clip.fingerprint != before
    assert clip.fingerprint == DualEncoder(clip.model, clip.card).fingerprint


def test_unchanged_weights_are_hashed_once(monkeypatch):
    from wordsight.encoder import torch_runtime

    clip, hashed = tiny_clip(), []
    hash_weights = torch_runtime.hash_weights
    monkeypatch.setattr(torch_runtime, "hash_weights", lambda tensors: hashed.append(0) or hash_weights(tensors))
    assert clip.fingerprint == clip.fingerprint
    clip.embed_images(np.zeros((1, 20, 20, 3), np.uint8))
    assert clip.fingerprint.weights == clip.runtime.weights_hash
    assert len(hashed) == 1


def test_a_logit_scale_that_is_not_finite_is_refused():
    clip = tiny_clip()
    with torch.no_grad():
        clip.model.logit_scale.fill_(math.nan)
    embeddings = np.eye(2, 8, dtype=np.float32)
    with pytest.raises(WeightsError, match=r"^tiny: its logit scale is nan, not a finite number"):
        clip.logits(embeddings, embeddings)
