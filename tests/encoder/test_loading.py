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


def refusal(place: str | Path) -> str:
    with pytest.raises(WeightsError) as refused:
        load(place, "cpu")
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_saved_model_gives_its_embeddings_again(tmp_path):
    clip = tiny_clip("residual")
    clip.save(tmp_path / "model")
    for place in (tmp_path / "model", str(tmp_path / "model"), tmp_path / "model" / "model.safetensors"):
        loaded = load(place, "cpu")
        assert loaded.fingerprint == clip.fingerprint  # equal bits; where they lie in memory moves sums a little
        np.testing.assert_allclose(loaded.embed_texts(["a cat"]), clip.embed_texts(["a cat"]), atol=1e-6)
    assert loaded.policy == "viewer"
    assert loaded.card.name == "tiny"
    assert not loaded.model.training


def test_no_kind_of_model_wakes_torchs_compiler():
    """Its import takes longer than all else that a small model needs."""
    code = (
        "import sys; from wordsight.encoder import load\n"
        "from wordsight.model import build_empty, preset\n"
        "for name in ('ViT-B-32', 'RN50', 'residual-tiny', 'vit-small'): build_empty(preset(name))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_run_gives_its_best(run):
    tiny_clip(seed=1).save(run / "best")
    tiny_clip(seed=2).save(run / "last")
    assert load(run, "cpu").fingerprint == tiny_clip(seed=1).fingerprint
    assert load(run / "last", "cpu").fingerprint == tiny_clip(seed=2).fingerprint


def test_a_run_between_two_models_gives_the_former_and_is_not_disturbed(run):
    tiny_clip(seed=1).save(run / "best")
    (run / "best").rename(run / ".best.former")
    assert load(run, "cpu").fingerprint == tiny_clip(seed=1).fingerprint
    assert not (run / "best").exists()


def test_a_run_without_a_model_says_when_it_comes(run):
    assert refusal(run).endswith("the run has no model yet; it is there after the first validation")


def test_scaled_decoding_is_another_fingerprint(tmp_path):
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


def test_a_misspelt_place_is_answered_with_the_nearest(run):
    assert "did you mean 'first'?; give a name that 'wordsight models' lists" in refusal(run.parent / "frist")
    assert "no such model; give a name that 'wordsight models' lists, a file of weights" in refusal("nowhere/at/all")
    assert "no such model; did you mean 'openai/ViT-B-32'?" in refusal("openai/ViT-B32")


def test_what_is_no_model_is_told(tmp_path):
    assert "no weights and none of wordsight.json, open_clip_config.json, config.json; pass" in refusal(tmp_path)
    (tmp_path / "x.pt").write_bytes(b"\x80\x04.")
    assert "x.pt: " in refusal(tmp_path / "x.pt")
    (tmp_path / "y.bin").write_bytes(b"")
    assert "y.bin: " in refusal(tmp_path / "y.bin")


def test_weights_alone_are_refused_with_the_choices(tmp_path):
    tiny_clip().save(tmp_path / "model")
    (tmp_path / "model" / "wordsight.json").unlink()
    message = "the activation does not follow from weights alone; name the architecture with --as"
    assert message in refusal(tmp_path / "model")


@pytest.mark.parametrize("target", ["open_clip", "hf", "openai"])
def test_every_format_gives_the_embeddings_of_its_model(tmp_path, target):
    found = heads_64_wide()
    convert(found, tmp_path / "out", target)
    clip = DualEncoder(found.build("made here"), found.card)
    loaded = load(tmp_path / "out", "cpu")
    image = random_image(3, 48, 40)  # even margins: where the half pixel of an odd one goes, formats differ
    texts = ["a photo of a cat", "it's 12 o'clock"]
    np.testing.assert_allclose(loaded.embed_images(image), clip.embed_images(image), atol=1e-6)
    np.testing.assert_allclose(loaded.embed_texts(texts), clip.embed_texts(texts), atol=1e-6)
    assert loaded.scale == pytest.approx(clip.scale)


def test_another_familys_tokenizer_is_saved_and_trained_with(tmp_path):
    found = sentencepiece_model()
    clip = DualEncoder(found.build("made here"), found.card, files=found.files)
    clip.save(tmp_path / "model")
    clip.save(tmp_path / "model")  # over itself
    loaded = load(tmp_path / "model", "cpu")
    assert loaded.fingerprint == clip.fingerprint
    assert loaded.bias == pytest.approx(clip.model.logit_bias.item())
    assert loaded.tokenize("a photo of a cat").tolist() == clip.tokenize("a photo of a cat").tolist()
    (tmp_path / "model" / "spiece.model").unlink()
    assert "spiece.model: the tokenizer that the card names cannot be read" in refusal(tmp_path / "model")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_is_not_there_is_an_error(tmp_path, device):
    with pytest.raises(ConfigError, match="cannot be used") as refused:
        load(tmp_path, device)
    assert "\n" not in str(refused.value)


def test_a_fingerprint_in_one_line_tells_decodings_apart(tmp_path):
    tiny_clip().save(tmp_path / "model")
    lines = [str(load(tmp_path / "model", "cpu", decoding=name).fingerprint) for name in ("exact", "cropped")]
    assert [line.partition(": ")[2].split(", ")[1:] for line in lines] == [
        ["16 px", "exact", "viewer", "float32"],
        ["16 px", "cropped", "viewer", "float32"],
    ]
