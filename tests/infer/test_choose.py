"""A runtime by name, and the quicker one: measured once, remembered, and the same vectors from either."""

from pathlib import Path

import msgspec
import numpy as np
import pytest
from tests.tiny_clip import random_image, tiny_clip

from wordsight.errors import ConfigError, MissingExtraError
from wordsight.infer import choose, load

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


def test_another_runtime_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtime 'onx': expected torch, onnx, int8, auto; did you mean 'onnx'\?"):
        load(model, "cpu", runtime="onx")


def test_without_its_packages_onnx_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wordsight\[onnx\]'"):
        load(model, "cpu", runtime="onnx")
