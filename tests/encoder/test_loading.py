import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.tiny_clip import random_image, tiny_clip
from tests.weights.models import heads_64_wide, sentencepiece_model

from wordsight.encoder import DualEncoder, load
from wordsight.errors import ConfigError, WeightsError
from wordsight.weights.convert import convert


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "first"
    directory.mkdir()
    (directory / "metrics.jsonl").write_text("")
    return directory


def message_of(path: str | Path) -> str:
    """The one-line error with which a model is refused."""
    with pytest.raises(WeightsError) as error:
        load(path, "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_saved_model_has_the_same_embeddings(tmp_path):
    clip = tiny_clip("residual")
    clip.save(tmp_path / "model")
    for path in (tmp_path / "model", str(tmp_path / "model"), tmp_path / "model" / "model.safetensors"):
        loaded = load(path, "cpu")
        assert loaded.fingerprint == clip.fingerprint  # equal bits; sums depend slightly on the alignment in memory
        np.testing.assert_allclose(loaded.embed_texts(["a cat"]), clip.embed_texts(["a cat"]), atol=1e-6)
    assert loaded.policy == "viewer"
    assert loaded.card.name == "tiny"
    assert not loaded.model.training


def test_building_a_model_does_not_import_torchs_compiler():
    """The import takes longer than everything else that a small model needs."""
    code = (
        "import sys; from wordsight.encoder import load\n"
        "from wordsight.model import build_empty, preset\n"
        "for name in ('ViT-B-32', 'RN50', 'residual-tiny', 'vit-small'): build_empty(preset(name))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout == "False\n"


def test_a_run_loads_its_best_model(run):
    tiny_clip(seed=1).save(run / "best")
    tiny_clip(seed=2).save(run / "last")
    assert load(run, "cpu").fingerprint == tiny_clip(seed=1).fingerprint
    assert load(run / "last", "cpu").fingerprint == tiny_clip(seed=2).fingerprint


def test_a_run_that_is_replacing_its_best_model_loads_the_previous_one_undisturbed(run):
    tiny_clip(seed=1).save(run / "best")
    (run / "best").rename(run / ".best.former")
    assert load(run, "cpu").fingerprint == tiny_clip(seed=1).fingerprint
    assert not (run / "best").exists()


def test_a_run_without_a_model_says_when_there_will_be_one(run):
    assert message_of(run).endswith("the run has no model yet; the first one is saved after the first validation")


def test_scaled_decoding_has_another_fingerprint(tmp_path):
    tiny_clip().save(tmp_path / "model")
    exact, scaled = load(tmp_path / "model", "cpu"), load(tmp_path / "model", "cpu", decoding="scaled")
    assert exact.fingerprint == tiny_clip().fingerprint != scaled.fingerprint
    rows, columns = np.mgrid[0:320, 0:400]
    smooth = np.stack([rows // 2, columns // 3, (rows + columns) // 5], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(smooth).save(file, "JPEG", quality=95)
    difference = np.abs(exact.embed_images(file.getvalue()) - scaled.embed_images(file.getvalue())).max()
    assert 0 < difference < 0.1
    scaled.save(tmp_path / "saved")
    assert load(tmp_path / "saved", "cpu").fingerprint == scaled.fingerprint


def test_a_misspelt_name_or_path_suggests_the_nearest(run):
    assert message_of(run.parent / "frist").endswith("of a training run; did you mean 'first'?")
    assert "no such model; give a name listed by 'wordsight models', a weights file" in message_of("nowhere/at/all")
    assert message_of("openai/ViT-B32").endswith("of a training run; did you mean 'openai/ViT-B-32'?")


def test_files_that_are_not_a_model_are_refused(tmp_path):
    assert "no weights and none of wordsight.json, open_clip_config.json, config.json; pass" in message_of(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"\x80\x04.")
    assert "x.pt: " in message_of(tmp_path / "x.pt")
    (tmp_path / "y.bin").write_bytes(b"")
    assert "y.bin: " in message_of(tmp_path / "y.bin")


def test_weights_without_a_description_are_refused_with_advice(tmp_path):
    tiny_clip().save(tmp_path / "model")
    (tmp_path / "model" / "wordsight.json").unlink()
    message = "the activation does not follow from weights alone; name the architecture with --as"
    assert message in message_of(tmp_path / "model")


@pytest.mark.parametrize("target", ["open_clip", "hf", "openai"])
def test_every_format_preserves_the_embeddings(tmp_path, target):
    checkpoint = heads_64_wide()
    convert(checkpoint, tmp_path / "out", target)
    clip = DualEncoder(checkpoint.build("test"), checkpoint.card)
    loaded = load(tmp_path / "out", "cpu")
    image = random_image(3, 48, 40)  # even margins; formats differ in the rounding of odd ones
    texts = ["a photo of a cat", "it's 12 o'clock"]
    np.testing.assert_allclose(loaded.embed_images(image), clip.embed_images(image), atol=1e-6)
    np.testing.assert_allclose(loaded.embed_texts(texts), clip.embed_texts(texts), atol=1e-6)
    assert loaded.scale == pytest.approx(clip.scale)


def test_the_tokenizer_of_another_family_is_saved(tmp_path):
    checkpoint = sentencepiece_model()
    clip = DualEncoder(checkpoint.build("test"), checkpoint.card, files=checkpoint.files)
    clip.save(tmp_path / "model")
    clip.save(tmp_path / "model")  # replaces itself
    loaded = load(tmp_path / "model", "cpu")
    assert loaded.fingerprint == clip.fingerprint
    assert loaded.bias == pytest.approx(clip.model.logit_bias.item())
    assert loaded.tokenize("a photo of a cat").tolist() == clip.tokenize("a photo of a cat").tolist()
    (tmp_path / "model" / "spiece.model").unlink()
    assert "spiece.model: no such file; the card names this tokenizer file" in message_of(tmp_path / "model")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_an_unavailable_device_is_an_error(tmp_path, device):
    with pytest.raises(
        ConfigError, match=f"device '{device}': not available: .*; omit the option, or use 'cpu'"
    ) as error:
        load(tmp_path, device)
    assert "\n" not in str(error.value)


def test_the_fingerprints_of_two_decodings_differ_as_text(tmp_path):
    tiny_clip().save(tmp_path / "model")
    lines = [str(load(tmp_path / "model", "cpu", decoding=name).fingerprint) for name in ("exact", "cropped")]
    assert [line.partition(": ")[2].split(", ")[1:] for line in lines] == [
        ["16 px", "exact", "viewer", "float32"],
        ["16 px", "cropped", "viewer", "float32"],
    ]


def test_policy_and_batch_size_are_those_of_the_encoder(tmp_path):
    tiny_clip().save(tmp_path / "model")
    loaded = load(tmp_path / "model", "cpu", policy="published", batch_size=5)
    assert (loaded.policy, loaded.fingerprint.policy, loaded.batch_size) == ("published", "published", 5)
    assert load(tmp_path / "model", "cpu").batch_size == 64


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "viewr"}, "image policy 'viewr': expected published or viewer; did you mean 'viewer'?"),
        ({"batch_size": -1}, "batch size -1: expected at least 1"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(options, message):
    with pytest.raises(ConfigError) as error:
        load("no/such/model", **options)
    assert str(error.value) == message
