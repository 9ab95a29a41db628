"""Runtimes chosen by name or by speed: measured once, cached, and with the same embeddings."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from tests.tiny_clip import random_image, tiny_clip
from tests.weights.models import checkpoint_of

from wordsight.encoder import DualEncoder, load, runtime_selection
from wordsight.errors import ConfigError, MissingExtraError, WeightsError
from wordsight.weights.certificate import probe_ids
from wordsight.weights.convert import convert

pytest.importorskip("onnxscript")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    tiny_clip().save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the export of `model`, which takes seconds, and an exported directory."""
    root = tmp_path_factory.mktemp("exports")
    tiny_clip().save(root / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORDSIGHT_CACHE", str(root / "cache"))
        load(root / "model", "cpu", runtime="onnx")
    convert(checkpoint_of("vit"), root / "directory", "onnx")
    return root


@pytest.fixture
def exported(model: Path, exports: Path) -> Path:
    """The model, whose export is in the cache."""
    shutil.copytree(exports / "cache" / "onnx", model.parent / "cache" / "onnx")
    return model


def timings_path(model: Path) -> Path:
    return model.parent / "cache" / "timings" / "runtimes.json"


def test_a_model_is_exported_once_and_has_the_same_embeddings(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, onnx = load(model, "cpu"), load(model, "cpu", runtime="onnx")
    assert (plain.runtime.name, onnx.runtime.name) == ("torch", "onnx")
    assert onnx.fingerprint == plain.fingerprint
    np.testing.assert_allclose(onnx.embed_texts(["a cat"]), plain.embed_texts(["a cat"]), atol=1e-5)
    np.testing.assert_allclose(onnx.embed_images([random_image(0)]), plain.embed_images([random_image(0)]), atol=1e-5)
    monkeypatch.setattr(runtime_selection, "convert", None)
    assert load(model, "cpu", runtime="onnx").runtime.name == "onnx"


@pytest.mark.parametrize("winner", ["torch", "onnx"])
def test_auto_chooses_the_faster_runtime_and_caches_the_timings(
    exported: Path, winner: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = exported
    timings = runtime_selection.Timings(torch=0.1 if winner == "torch" else 0.2, onnx=0.15)
    monkeypatch.setattr(runtime_selection, "_measure", lambda *_: timings)
    assert load(model, "cpu", runtime="auto").runtime.name == winner
    monkeypatch.setattr(runtime_selection, "_measure", None)
    assert load(model, "cpu", runtime="auto").runtime.name == winner
    (cached,) = msgspec.json.decode(timings_path(model).read_bytes()).values()
    assert cached == {"torch": timings.torch, "onnx": timings.onnx}


def test_both_runtimes_are_timed(exported: Path) -> None:
    assert load(exported, "cpu", runtime="auto").runtime.name in ("torch", "onnx")
    (cached,) = msgspec.json.decode(timings_path(exported).read_bytes()).values()
    assert all(1e-6 < seconds < 5 for seconds in cached.values())


DAMAGED = (b"\xff", b'{"a": "\xff"}', b"[]", b"[" * 100_000)


@pytest.mark.parametrize("content", [b"{", *(pytest.param(content, marks=pytest.mark.slow) for content in DAMAGED)])
def test_damaged_timings_are_replaced(exported: Path, content: bytes) -> None:
    path = timings_path(exported)
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    load(exported, "cpu", runtime="auto")
    assert len(msgspec.json.decode(path.read_bytes())) == 1


@pytest.mark.parametrize("name", ["vit", "resnet", "residual", "siglip"])
def test_half_is_close_has_another_fingerprint_and_does_not_depend_on_the_batch(tmp_path: Path, name: str) -> None:
    checkpoint = checkpoint_of(name)
    plain = DualEncoder(checkpoint.build(name), checkpoint.card, files=checkpoint.files)
    plain.save(tmp_path / "model")
    half = load(tmp_path / "model", "cpu", runtime="half")
    assert half.fingerprint.precision == "float16"
    assert (half.runtime.scale, half.runtime.bias) == (plain.runtime.scale, plain.runtime.bias)
    ids, images = probe_ids(checkpoint.card.model.text).numpy(), [random_image(seed) for seed in range(3)]
    for exact, rounded in (
        (plain.runtime.encode_ids(ids), half.runtime.encode_ids(ids)),
        (plain.embed_images(images), half.embed_images(images)),
    ):
        assert rounded.dtype == np.float32
        assert (exact != rounded).any()
        assert (exact * rounded).sum(axis=1).min() > 0.999
    alone = np.concatenate([half.embed_images([image]) for image in images])
    np.testing.assert_allclose(half.embed_images(images), alone, atol=1e-3)


def test_half_is_refused_for_an_exported_directory(exports: Path) -> None:
    with pytest.raises(ConfigError, match=r"runtime half: .* was exported to ONNX in float32"):
        load(exports / "directory", runtime="half")


def test_an_unknown_runtime_is_refused(model: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"runtime 'onx': expected torch, half, onnx, int8, auto; did you mean 'onnx'\?"
    ):
        load(model, "cpu", runtime="onx")


def test_onnx_without_its_packages_says_what_to_install(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wordsight\[onnx\]'"):
        load(model, "cpu", runtime="onnx")


@pytest.mark.parametrize(
    ("fault", "runtime"),
    [("flipped", "onnx")]
    + [
        pytest.param(fault, runtime, marks=pytest.mark.slow)
        for fault, runtime in itertools.product(["flipped", "replaced", "missing", "no hashes"], ["onnx", "int8"])
        if (fault, runtime) != ("flipped", "onnx")
    ],
)
def test_a_damaged_export_in_the_cache_is_made_again(
    exported: Path, tmp_path: Path, runtime: Literal["onnx", "int8"], fault: str
) -> None:
    model = exported
    expected = load(model, "cpu", runtime=runtime).embed_images([random_image(0)])
    if fault in ("replaced", "no hashes"):
        tiny_clip(seed=1).save(tmp_path / "other")
        load(tmp_path / "other", "cpu", runtime=runtime)
    directories = sorted((tmp_path / "cache" / runtime).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    graphs = [directory / "image.onnx" for directory in directories]
    exported = [directory / "exported.json" for directory in directories]
    if fault == "flipped":
        content = bytearray(graphs[0].read_bytes())
        content[len(content) // 2] ^= 1
        graphs[0].write_bytes(content)
    elif fault == "replaced":
        shutil.copy(graphs[1], graphs[0])
    elif fault == "missing":
        graphs[0].unlink()
    else:
        shutil.copy(graphs[1], graphs[0])
        exported[0].write_text(json.dumps(json.loads(exported[0].read_text()) | {"files": {}}))
    np.testing.assert_array_equal(load(model, "cpu", runtime=runtime).embed_images([random_image(0)]), expected)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx"])
def test_a_changed_graph_of_an_exported_directory_is_refused(exports: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(exports / "directory", tmp_path / "onnx")
    content = bytearray((tmp_path / "onnx" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "onnx" / name).write_bytes(content)
    with pytest.raises(WeightsError, match=f"{name}: damaged or replaced: its SHA-256 is"):
        load(tmp_path / "onnx")
