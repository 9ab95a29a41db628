"""A runtime by name, and the select_runtime one: measured once, remembered, and the same embeddings from either."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.tiny_clip import random_image, tiny_clip
from tests.weights.models import checkpoint_of

from wordsight.encoder import DualEncoder, load
from wordsight.encoder import runtime_selection as choose
from wordsight.errors import ConfigError, MissingExtraError
from wordsight.weights.certificate import probe_ids
from wordsight.weights.convert import convert

pytest.importorskip("onnxscript")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    tiny_clip().save(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_is_exported_once_and_answers_the_same(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, onnx = load(model, "cpu"), load(model, "cpu", runtime="onnx")
    assert (plain.runtime.name, onnx.runtime.name) == ("torch", "onnx")
    assert onnx.fingerprint == plain.fingerprint
    np.testing.assert_allclose(onnx.embed_texts(["a cat"]), plain.embed_texts(["a cat"]), atol=1e-5)
    np.testing.assert_allclose(onnx.embed_images([random_image(0)]), plain.embed_images([random_image(0)]), atol=1e-5)
    monkeypatch.setattr(choose, "convert", None)
    assert load(model, "cpu", runtime="onnx").runtime.name == "onnx"


@pytest.mark.parametrize("winner", ["torch", "onnx"])
def test_auto_takes_what_was_quicker_and_remembers(model: Path, winner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = choose.Seen(torch=0.1 if winner == "torch" else 0.2, onnx=0.15)
    monkeypatch.setattr(choose, "_measure", lambda *_: seen)
    assert load(model, "cpu", runtime="auto").runtime.name == winner
    monkeypatch.setattr(choose, "_measure", None)
    assert load(model, "cpu", runtime="auto").runtime.name == winner
    (kept,) = msgspec.json.decode((model.parent / "cache" / "runtimes.json").read_bytes()).values()
    assert kept == {"torch": seen.torch, "onnx": seen.onnx}


def test_both_are_really_timed(model: Path) -> None:
    assert load(model, "cpu", runtime="auto").runtime.name in ("torch", "onnx")
    (kept,) = msgspec.json.decode((model.parent / "cache" / "runtimes.json").read_bytes()).values()
    assert all(1e-6 < seconds < 5 for seconds in kept.values())


def test_a_memory_that_is_damaged_is_made_anew(model: Path) -> None:
    place = model.parent / "cache" / "runtimes.json"
    place.parent.mkdir()
    place.write_bytes(b"{")
    load(model, "cpu", runtime="auto")
    assert len(msgspec.json.decode(place.read_bytes())) == 1


@pytest.mark.parametrize("name", ["vit", "resnet", "residual", "siglip"])
def test_half_is_near_says_so_and_keeps_neighbours_apart(tmp_path: Path, name: str) -> None:
    found = checkpoint_of(name)
    plain = DualEncoder(found.build(name), found.card, files=found.files)
    plain.save(tmp_path / "model")
    half = load(tmp_path / "model", "cpu", runtime="half")
    assert half.fingerprint.precision == "float16"
    assert (half.runtime.scale, half.runtime.bias) == (plain.runtime.scale, plain.runtime.bias)
    ids, images = probe_ids(found.card.model.text).numpy(), [random_image(seed) for seed in range(3)]
    for one, other in (
        (plain.runtime.encode_ids(ids), half.runtime.encode_ids(ids)),
        (plain.embed_images(images), half.embed_images(images)),
    ):
        assert other.dtype == np.float32
        assert (one != other).any()
        assert (one * other).sum(axis=1).min() > 0.999
    alone = np.concatenate([half.embed_images([image]) for image in images])
    np.testing.assert_allclose(half.embed_images(images), alone, atol=1e-3)


def test_half_is_not_for_an_exported_directory(tmp_path: Path) -> None:
    convert(checkpoint_of("vit"), tmp_path / "onnx", "onnx")
    with pytest.raises(ConfigError, match=r"runtime half: .* was exported to ONNX, in float32"):
        load(tmp_path / "onnx", runtime="half")


def test_another_runtime_is_refused(model: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"runtime 'onx': expected torch, half, onnx, int8, auto; did you mean 'onnx'\?"
    ):
        load(model, "cpu", runtime="onx")


def test_without_its_packages_onnx_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wordsight\[onnx\]'"):
        load(model, "cpu", runtime="onnx")
