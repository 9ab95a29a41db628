"""8-bit matrix products compared with their closed form in NumPy, and the runtime that uses them."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from tests.tiny_clip import random_image, tiny_clip
from tests.weights.models import checkpoint_of

from wordsight.encoder import load, runtime_selection
from wordsight.errors import ConfigError, MissingExtraError
from wordsight.weights.convert import convert
from wordsight.weights.formats import int8
from wordsight.weights.formats.int8 import int8_directory, quantise

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")

K, N = 48, 20


def expected(x: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """Rows of x and columns of the weight rounded to integers from -127 to 127, and multiplied exactly."""
    row, column = (
        np.maximum(np.abs(a).max(axis, keepdims=True) / np.float32(127), 1e-30) for a, axis in ((x, 1), (weight, 0))
    )
    product = np.round(x / row).astype(np.int64) @ np.round(weight / column).astype(np.int64)
    return product * row.astype(np.float64) * column


def session(
    directory: Path, operator: str, weight: NDArray[np.float32], **attributes: int
) -> onnxruntime.InferenceSession:
    """A session for a quantised graph with one product."""
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node(operator, ["x", "w", "b"][: 3 if operator == "Gemm" else 2], ["y"], **attributes)
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.arange(N, dtype=np.float32), "b")]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", size]) for name, size in (("x", K), ("y", N))
    ]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, directory / "float32.onnx")
    assert quantise(directory / "float32.onnx", directory / "int8.onnx") == 1
    return onnxruntime.InferenceSession(directory / "int8.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture
def operands() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((5, K)).astype(np.float32)
    x[3] = 0
    x[4, 7] = 300  # an outlier
    return x, generator.standard_normal((K, N)).astype(np.float32) * np.linspace(0.01, 3, N, dtype=np.float32)


def test_a_product_is_computed_from_rounded_rows_and_columns(
    tmp_path: Path, operands: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    x, weight = operands
    (y,) = session(tmp_path, "MatMul", weight).run(None, {"x": x})
    np.testing.assert_allclose(y, expected(x, weight), rtol=1e-5, atol=1e-6)
    error = np.linalg.norm(y[:3] - x[:3] @ weight) / np.linalg.norm(x[:3] @ weight)
    assert 1e-3 < error < 0.02  # the rounding error of 127 steps on each side of zero
    assert (y[3] == 0).all()


def test_a_linear_layer_keeps_its_transposed_weight_and_bias(
    tmp_path: Path, operands: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    x, weight = operands
    (y,) = session(tmp_path, "Gemm", np.ascontiguousarray(weight.T), transB=1).run(None, {"x": x})
    np.testing.assert_allclose(y, expected(x, weight) + np.arange(N), rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_the_rest_of_the_batch(
    tmp_path: Path, operands: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> None:
    x, weight = operands
    product = session(tmp_path, "MatMul", weight)
    (together,) = product.run(None, {"x": x})
    alone = [product.run(None, {"x": row[None]})[0][0] for row in x]
    np.testing.assert_array_equal(together, alone)


def test_weights_beyond_the_protobuf_limit_are_stored_in_a_separate_file(
    tmp_path: Path, operands: tuple[NDArray[np.float32], NDArray[np.float32]], monkeypatch: pytest.MonkeyPatch
) -> None:
    x, weight = operands
    weight = np.tile(weight, 10)  # more than 1 kB, up to which ONNX always stores a tensor in the graph
    monkeypatch.setattr(int8, "MAX_INLINE_BYTES", weight.size - 1)
    (y,) = session(tmp_path, "MatMul", weight).run(None, {"x": x})
    np.testing.assert_allclose(y, expected(x, weight), rtol=1e-5, atol=1e-6)
    assert (tmp_path / "int8.onnx.data").stat().st_size >= weight.size > (tmp_path / "int8.onnx").stat().st_size / 2


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORDSIGHT_CACHE", str(tmp_path / "cache"))
    tiny_clip().save(tmp_path / "model")
    return tmp_path / "model"


def test_an_8_bit_model_is_similar_has_its_own_fingerprint_and_is_made_once(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    float32, int8_clip = load(model, "cpu"), load(model, "cpu", runtime="int8")
    assert (int8_clip.runtime.name, int8_clip.fingerprint.precision) == ("int8", "int8")
    assert int8_clip.fingerprint != float32.fingerprint
    for one, other in (
        (float32.embed_texts(["a cat", "dogs"]), int8_clip.embed_texts(["a cat", "dogs"])),
        (float32.embed_images([random_image(0)]), int8_clip.embed_images([random_image(0)])),
    ):
        assert (one != other).any()
        assert (one * other).sum(axis=1).min() > 0.995
    monkeypatch.setattr(runtime_selection, "convert", None)
    monkeypatch.setattr(int8, "quantise", None)
    assert load(model, "cpu", runtime="int8").runtime.name == "int8"


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("name", ["vit-leftover", pytest.param("siglip-leftover", marks=pytest.mark.slow)])
def test_pixels_beyond_the_last_whole_patch_are_ignored(tmp_path: Path, name: str) -> None:
    convert(checkpoint_of(name), tmp_path / "out", "onnx")
    clip, exact = load(tmp_path / "out", runtime="int8"), load(tmp_path / "out")
    image = random_image(0, 30, 30)
    cut = image.copy()
    cut[28:], cut[:, 28:] = 0, 0
    assert (clip.embed_images([image]) * exact.embed_images([image])).sum() > 0.99
    for each in (clip, exact):
        np.testing.assert_array_equal(each.embed_images([image]), each.embed_images([cut]))


@pytest.fixture(scope="module")
def onnx_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("onnx") / "out"
    convert(checkpoint_of("vit"), directory, "onnx")
    return directory


@pytest.mark.usefixtures("model")  # sets its own cache directory
def test_an_onnx_directory_is_quantised_and_run_without_torch(onnx_directory: Path) -> None:
    code = (
        "import sys, wordsight as ws\n"
        f"clip = ws.load({str(onnx_directory)!r}, runtime='int8')\n"
        "print(clip.runtime.name, clip.embed_texts(['a cat']).shape[0], 'torch' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == ["int8", "1", "False"]
    assert int8_directory(int8_directory(onnx_directory)) == int8_directory(onnx_directory)


def test_a_convolutional_image_tower_is_refused(tmp_path: Path) -> None:
    convert(checkpoint_of("resnet"), tmp_path / "out", "onnx")
    with pytest.raises(ConfigError, match="convolutional, and convolutions are not quantised; use onnx"):
        load(tmp_path / "out", runtime="int8")


@pytest.mark.usefixtures("model")
def test_a_cpu_whose_products_saturate_is_refused(onnx_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Saturating:
        def __init__(self, *_: object, **__: object) -> None:
            pass

        def run(self, *_: object) -> list[NDArray[np.int32]]:
            return [np.full((4, 16), 32767 * 32, np.int32)]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Saturating)
    with pytest.raises(ConfigError, match="overflow; use onnx"):
        int8_directory(onnx_directory)


@pytest.mark.usefixtures("model")
def test_a_missing_package_is_named_with_the_extra_to_install(
    onnx_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'wordsight\[onnx\]'"):
        int8_directory(onnx_directory)
