"""ONNX graphs that loop, ask for memory, read other files, or have another interface are refused in one line.

Each is a valid graph, made from an exported one or from scratch; none may be opened by ONNX Runtime.
"""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.tiny_clip import png, tiny_clip
from tests.weights.models import convert_without_hashes

from wordsight.encoder import load
from wordsight.errors import WeightsError
from wordsight.weights.card import read_card
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats import onnx_check
from wordsight.weights.formats.onnx_check import check_graph

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
SIZE_PX, WIDTH = 16, 8  # of the tiny model's images and embeddings


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clip, directory = tiny_clip(), tmp_path_factory.mktemp("onnx") / "out"
    convert_without_hashes(Checkpoint(clip.model.state_dict(), clip.card, clip.files), directory, "onnx")
    return directory


def constant(name: str, values: Any, dtype: Any = np.int64) -> Any:
    return numpy_helper.from_array(np.array(values, dtype), name)


def graph(*nodes: Any, weights: Any = (), inputs: Any = None, outputs: Any = None, opset: Any = 20, **more: Any) -> Any:
    """A model whose nodes turn `pixels` into a vector `features` per image; the rest is added."""
    default = [helper.make_tensor_value_info("pixels", FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])]
    sums = [
        helper.make_node("Flatten", ["features"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "projection"], ["embeddings"]),
    ]
    return helper.make_model(
        helper.make_graph(
            [*nodes, *sums],
            "g",
            default if inputs is None else inputs,
            [helper.make_tensor_value_info("embeddings", FLOAT, ["batch", WIDTH])] if outputs is None else outputs,
            [constant("projection", np.ones((3 * SIZE_PX * SIZE_PX, WIDTH)), np.float32), *weights],
            **more,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=10,
    )


def node(operator: str, *inputs: str, output: str = "features", **attributes: Any) -> Any:
    return helper.make_node(operator, [*inputs], [output], **attributes)


COPY = node("Identity", "pixels")


def loop() -> Any:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["x"], ["y"])],
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", FLOAT, None),
        ],
        [helper.make_tensor_value_info("go_on", TensorProto.BOOL, []), helper.make_tensor_value_info("y", FLOAT, None)],
    )
    return graph(
        helper.make_node("Loop", ["rounds", "go_first", "pixels"], ["features"], body=body),
        weights=[constant("rounds", 1 << 62), constant("go_first", True, np.bool_)],
    )


def branch() -> Any:
    out = helper.make_tensor_value_info("z", FLOAT, None)
    then = helper.make_graph([helper.make_node("Identity", ["pixels"], ["z"])], "then", [], [out])
    return graph(
        helper.make_node("If", ["condition"], ["features"], then_branch=then, else_branch=then),
        weights=[constant("condition", True, np.bool_)],
    )


def hidden_graph() -> Any:
    """An allowed operator that carries a graph."""
    inner = helper.make_graph([], "inner", [], [])
    return graph(node("Identity", "pixels", body=inner))


def expand(*sizes: int) -> Any:
    """A tensor of any size whose mean is added to the pixels."""
    return graph(
        helper.make_node("Expand", ["zero", "sizes"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["one"], keepdims=0),
        node("Add", "pixels", "one"),
        weights=[constant("zero", 0, np.float32), constant("sizes", sizes)],
    )


def power_of_the_batch() -> Any:
    """Small for one image: a side of the batch's size, five times."""
    return graph(
        helper.make_node("Shape", ["pixels"], ["count"], start=0, end=1),
        helper.make_node("Concat", ["count"] * 5, ["sizes"], axis=0),
        helper.make_node("Expand", ["zero", "sizes"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["one"], keepdims=0),
        node("Add", "pixels", "one"),
        weights=[constant("zero", 0, np.float32)],
    )


def outer_sum() -> Any:
    side = 100_000
    return graph(
        helper.make_node("Add", ["column", "row"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["one"], keepdims=0),
        node("Add", "pixels", "one"),
        weights=[constant("column", np.zeros((side, 1)), np.float32), constant("row", np.zeros((1, side)), np.float32)],
    )


def ranged() -> Any:
    return graph(
        helper.make_node("Range", ["start", "limit", "step"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["one_int"], keepdims=0),
        helper.make_node("Cast", ["one_int"], ["one"], to=FLOAT),
        node("Add", "pixels", "one"),
        weights=[constant("start", 0), constant("limit", 1 << 40), constant("step", 1)],
    )


def range_of_pixels() -> Any:
    """The length depends on the values of the input, so that it cannot be known."""
    return graph(
        helper.make_node("ReduceMax", ["pixels"], ["limit_float"], keepdims=0),
        helper.make_node("Cast", ["limit_float"], ["limit"], to=INT64),
        helper.make_node("Range", ["start", "limit", "step"], ["large"]),
        helper.make_node("ReduceMax", ["large"], ["one_int"], keepdims=0),
        helper.make_node("Cast", ["one_int"], ["one"], to=FLOAT),
        node("Add", "pixels", "one"),
        weights=[constant("start", 0), constant("step", 1)],
    )


def products() -> Any:
    """4 million elements, multiplied by themselves 200 times."""
    names = ["square"]
    nodes = [helper.make_node("Expand", ["zero", "sizes"], ["square"])]
    for number in range(200):
        nodes.append(helper.make_node("MatMul", [names[-1], "square"], [f"p{number}"]))
        names.append(f"p{number}")
    nodes.append(helper.make_node("ReduceMax", [names[-1]], ["one"], keepdims=0))
    weights = [constant("zero", 0, np.float32), constant("sizes", [2048, 2048])]
    return graph(*nodes, node("Add", "pixels", "one"), weights=weights)


def many_nodes() -> Any:
    nodes = [helper.make_node("Relu", ["pixels" if n == 0 else f"r{n - 1}"], [f"r{n}"]) for n in range(40_000)]
    return graph(*nodes, node("Identity", "r39999"))


def huge_initializer() -> Any:
    model = graph(COPY, node("Identity", "huge", output="other"))
    model.graph.initializer.append(TensorProto(name="huge", data_type=FLOAT, dims=[1 << 40]))
    return model


def negative_initializer() -> Any:
    model = graph(COPY)
    model.graph.initializer.append(TensorProto(name="negative", data_type=FLOAT, dims=[-1, -4], raw_data=b"\0" * 16))
    return model


def external(location: str, offset: int = 0) -> Any:
    model = graph(COPY)
    tensor = model.graph.initializer[0]
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    return model


def with_function() -> Any:
    model = graph(COPY)
    function = helper.make_function(
        "custom",
        "F",
        ["x"],
        ["y"],
        [helper.make_node("F", ["x"], ["y"], domain="custom")],
        [helper.make_opsetid("", 20)],
    )
    model.functions.append(function)
    return model


def of_domain() -> Any:
    model = graph(helper.make_node("FusedMatMul", ["pixels"], ["features"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


INFO = helper.make_tensor_value_info
PIXELS = INFO("pixels", FLOAT, ["batch", 3, SIZE_PX, SIZE_PX])
EMBEDDINGS = INFO("embeddings", FLOAT, ["batch", WIDTH])
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a loop": (loop, "operator 'Loop'"),
    "a branch": (branch, "operator 'If'"),
    "a graph in another operator": (hidden_graph, "operator Identity with a graph"),
    "a function": (with_function, "it defines functions"),
    "another domain": (of_domain, "operators of the domain 'com.microsoft'"),
    "another operator": (lambda: graph(node("RandomNormalLike", "pixels")), "operator 'RandomNormalLike'"),
    "a constant of any shape": (
        lambda: graph(COPY, node("ConstantOfShape", "sizes", output="x"), weights=[constant("sizes", [1 << 40])]),
        "operator 'ConstantOfShape'",
    ),
    "a tiled tensor": (
        lambda: graph(node("Tile", "pixels", "sizes"), weights=[constant("sizes", [1, 1 << 20, 1, 1])]),
        "operator 'Tile'",
    ),
    "an expanded tensor": (
        lambda: expand(1 << 40),
        "elements in one tensor for 6,1.. weights, expected at most 4,194,304",
    ),
    "sizes that overflow": (lambda: expand(1 << 32, 1 << 32), "elements in one tensor|Infer|verflow"),
    "a power of the batch": (power_of_the_batch, "elements in one tensor"),
    "a sum of a row and a column": (outer_sum, "elements in one tensor"),
    "a range": (ranged, "elements in one tensor"),
    "a range of unknown length": (range_of_pixels, "the size of 'large', computed by Range, is not known"),
    "many products": (products, "multiplications|elements in all tensors"),
    "many operators": (many_nodes, "40,003 operators, expected 1 to 32,768"),
    "an empty weight of a terabyte": (huge_initializer, "'huge': its values are not 4,398,046,511,104 bytes"),
    "a negative size": (negative_initializer, "'negative': a negative size"),
    "weights in another directory": (lambda: external("../secret"), r"in '\.\./secret'"),
    "weights at an absolute path": (lambda: external("/etc/passwd"), "in '/etc/passwd'"),
    "weights in a link": (lambda: external("link"), "link is not a file"),
    "weights in a FIFO": (lambda: external("fifo"), "fifo is not a file"),
    "weights in a directory": (lambda: external(".."), r"in '\.\.'"),
    "weights beyond the end": (lambda: external("data", 1 << 40), "beyond the end of data"),
    "weights that are missing": (lambda: external("missing"), "cannot be read: No such file"),
    "two outputs": (lambda: graph(COPY, outputs=[EMBEDDINGS, INFO("flat", FLOAT, None)]), "2 outputs, expected 1"),
    "no output": (lambda: graph(COPY, outputs=[]), "0 outputs, expected 1"),
    "two inputs": (lambda: graph(COPY, inputs=[PIXELS, INFO("more", FLOAT, [1])]), "2 inputs, expected 1"),
    "no input": (lambda: graph(COPY, inputs=[]), "0 inputs, expected 1"),
    "an input of integers": (
        lambda: graph(COPY, inputs=[INFO("pixels", TensorProto.INT32, ["batch", 3, SIZE_PX, SIZE_PX])]),
        "input 'pixels' of another type or rank",
    ),
    "an input of another rank": (
        lambda: graph(COPY, inputs=[INFO("pixels", FLOAT, ["batch", 3])]),
        "input 'pixels' of another type or rank",
    ),
    "an output of another shape": (
        lambda: graph(COPY, outputs=[INFO("flat", FLOAT, ["batch", 768])]),
        r"output 'flat' is \[64, 768\], expected \[64, 8\]",
    ),
    "an old opset": (lambda: graph(COPY, opset=7), "opset 7"),
    "an opset of the future": (lambda: graph(COPY, opset=1000), "opset 1000"),
    "no operators": (
        lambda: helper.make_model(helper.make_graph([], "g", [PIXELS], [EMBEDDINGS])),
        "0 operators|opset",
    ),
    "shapes that do not fit": (
        lambda: graph(node("Add", "pixels", "wrong"), weights=[constant("wrong", np.zeros(7), np.float32)]),
        "Incompatible dimensions|nference",
    ),
    "an undefined input": (lambda: graph(node("Add", "pixels", "nothing")), "is not known|nference"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_hostile_graph_is_refused_before_it_is_opened(exported: Path, tmp_path: Path, name: str) -> None:
    make, expected = REFUSED[name]
    directory = shutil.copytree(exported, tmp_path / "out")
    (directory / "image.onnx").write_bytes(make().SerializeToString())
    (directory / "data").write_bytes(b"\0" * 100)
    (tmp_path / "secret").write_bytes(b"\0" * (1 << 20))
    (directory / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(directory / "fifo")
    start_s = time.perf_counter()
    with pytest.raises(WeightsError, match=expected) as error:
        load(directory).embed_images([png(0)])
    assert time.perf_counter() - start_s < 5
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"{directory / 'image.onnx'}: ")


def test_a_graph_within_the_limits_is_run(exported: Path, tmp_path: Path) -> None:
    """Negative control: the same construction with an allowed operator, and a small expanded tensor."""
    for model in (graph(COPY), expand(64, 64)):
        directory = tmp_path / str(len(model.graph.node))
        shutil.copytree(exported, directory)
        (directory / "image.onnx").write_bytes(model.SerializeToString())
        assert load(directory).embed_images([png(0)]).shape == (1, WIDTH)


def test_a_failure_of_onnx_runtime_is_one_line(exported: Path, tmp_path: Path) -> None:
    """Ids beyond the rows of a table: the shapes are as expected, the values are not."""
    directory = shutil.copytree(exported, tmp_path / "out")
    model = graph(
        helper.make_node("Cast", ["pixels"], ["rounded"], to=INT64),
        helper.make_node("Add", ["rounded", "beyond"], ["ids"]),
        node("Gather", "table", "ids"),
        weights=[constant("table", np.zeros(4), np.float32), constant("beyond", 1000)],
    )
    (directory / "image.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError, match=r"the ONNX graph cannot be run: .*; export the model again") as error:
        load(directory).embed_images([png(0)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\x3a\xff\xff\xff\xff\x0f", b"\x3a\x02\x2a\xff"])
def test_a_file_that_is_no_graph_is_refused(exported: Path, tmp_path: Path, content: bytes) -> None:
    directory = shutil.copytree(exported, tmp_path / "out")
    (directory / "text.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=r"text.onnx: not a graph that wordsight runs: .*; export it again"):
        load(directory).embed_texts(["a"])


def test_flipped_bytes_are_refused_or_harmless(exported: Path, tmp_path: Path) -> None:
    path, card = tmp_path / "image.onnx", read_card(exported / "wordsight.json")
    original, generator = (exported / "image.onnx").read_bytes(), np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        content = bytearray(original)
        for position in generator.integers(0, len(content), 20):
            content[position] = generator.integers(0, 256)
        path.write_bytes(bytes(content))
        try:
            check_graph(path, card, is_image=True)
        except WeightsError:
            refused += 1
    assert refused > 20


def test_the_weights_are_not_read(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph whose weights exceed the limit of its structure is accepted."""
    monkeypatch.setattr(onnx_check, "MAX_STRUCTURE_BYTES", 300_000)
    card = read_card(exported / "wordsight.json")
    assert (exported / "text.onnx").stat().st_size > 1 << 20
    check_graph(exported / "text.onnx", card, is_image=False)
