"""Quantise the matrix products of ONNX graphs to 8 bits, with standard ONNX operators.

A product x W becomes, for each row x of activations and each column w of W,

    a = max |x| / 127      q = round(x / a) + 128     uint8
    c = max |w| / 127      v = round(w / c)           int8
    x w = (q - 128) v * a * c                         the product exact in int32

Every row of activations has its own scale, so that an embedding does not depend on the rest of its batch;
`DynamicQuantizeLinear`, which has one scale for the whole tensor, would not guarantee this. Attention, convolutions and
sums remain in float32. Scales per row and column follow Dettmers et al. 2022 (LLM.int8(), arXiv 2208.07339, section 2).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.cache import cache_directory
from wordsight.errors import ConfigError, MissingExtraError
from wordsight.files import atomic_directory
from wordsight.model import ModifiedResNetConfig, ResidualConfig
from wordsight.progress import phase
from wordsight.weights.formats.onnx_check import check_graph
from wordsight.weights.formats.onnx_directory import (
    IMAGE_NAME,
    MAX_INLINE_BYTES,
    TEXT_NAME,
    cache_name,
    is_intact,
    read_exported,
    write_beside_graphs,
)

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_CACHE_VERSION = 1  # increase it when the generated graphs change
_MAX_VALUE = 127
_ZERO_POINT = 128


@phase("quantising to 8 bits")
def int8_directory(directory: Path) -> Path:
    """Quantise the graphs of an ONNX directory to 8 bits, once; later calls return the cached result.

    Args:
        directory: an ONNX directory; it is returned unchanged if its graphs are 8-bit already.

    Returns:
        A directory in the cache.

    Raises:
        ConfigError: the image tower is convolutional, and convolutions are not quantised; or the 8-bit products of
            this CPU are not exact.
        MissingExtraError: the packages of the extra `onnx` are not installed.
        OutputError: the cache is not writable.
        WeightsError: the directory is broken.
    """
    content = read_exported(directory)
    card, exported = content.card, content.exported
    if exported.precision == "int8":
        return directory
    if isinstance(card.model.image, ModifiedResNetConfig | ResidualConfig):
        raise ConfigError(
            f"runtime int8: the image tower of {card.name} is convolutional, and convolutions are not quantised; "
            "use onnx"
        )
    _require_exact_products()  # also if the graphs are cached: another machine may have written them
    out = cache_directory("int8") / f"{_CACHE_VERSION}-{cache_name(exported.weights, card)}"
    if not is_intact(out):
        with atomic_directory(out.absolute()) as partial:
            for name in (IMAGE_NAME, TEXT_NAME):
                check_graph(directory / name, card, is_image=name == IMAGE_NAME)
                quantise(directory / name, partial / name)
            write_beside_graphs(partial, card, msgspec.structs.replace(exported, precision="int8"), content.files)
    return out


def quantise(graph: Path, out: Path) -> int:
    """Quantise the matrix products of one graph.

    Args:
        graph: the float32 graph.
        out: the file to write; weights that exceed 2 GB are written to `<out>.data`.

    Returns:
        The number of products that were quantised.
    """
    import onnx

    model = onnx.load(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    new_tensors: dict[str, TensorProto] = {}
    for node in model.graph.node:
        replacement, constants = _quantised(node, tensors)
        nodes += replacement or [node]
        new_tensors |= constants
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in (tensors | new_tensors).items() if name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    is_large = sum(len(tensor.raw_data) for tensor in kept) > MAX_INLINE_BYTES
    onnx.save(model, out, save_as_external_data=is_large, location=f"{out.name}.data")
    return sum(node.op_type == "MatMulInteger" for node in nodes)


def _quantised(
    node: "NodeProto", tensors: Mapping[str, "TensorProto"]
) -> "tuple[list[NodeProto], dict[str, TensorProto]]":
    """The nodes that replace a node, and their constants; empty unless the node multiplies by a weight matrix."""
    from onnx import TensorProto, helper, numpy_helper

    is_linear = node.op_type == "Gemm"
    if not (is_linear or node.op_type == "MatMul") or node.input[1] not in tensors:
        return [], {}
    weight_KN = numpy_helper.to_array(tensors[node.input[1]])
    if weight_KN.ndim != 2:
        return [], {}
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if is_linear and (settings.get("transA") or {settings.get("alpha", 1.0), settings.get("beta", 1.0)} != {1.0}):
        return [], {}
    values_KN, scale_N = _quantise_columns(weight_KN.T if settings.get("transB") else weight_KN)
    names = {name: f"{node.output[0]}.{name}" for name in ("values", "scale")}
    constants = {
        names["values"]: numpy_helper.from_array(values_KN, names["values"]),
        names["scale"]: numpy_helper.from_array(scale_N, names["scale"]),
    }
    for name, value in (
        ("int8.axis", np.array([-1])),
        ("int8.max_value", np.float32(_MAX_VALUE)),
        ("int8.min_scale", np.finfo(np.float32).tiny),
        ("int8.offset", np.float32(_ZERO_POINT)),
        ("int8.zero_point", np.uint8(_ZERO_POINT)),
    ):
        constants[name] = numpy_helper.from_array(np.asarray(value), name)

    nodes: list[NodeProto] = []

    def add(operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{node.output[0]}.{len(nodes)}"
        nodes.append(helper.make_node(operator, [*inputs], [output], **attributes))
        return output

    activations = node.input[0]
    maximum = add("ReduceMax", add("Abs", activations), "int8.axis", keepdims=1)
    scale = add("Max", add("Div", maximum, "int8.max_value"), "int8.min_scale")
    rounded = add("Add", add("Round", add("Div", activations, scale)), "int8.offset")
    product = add("MatMulInteger", add("Cast", rounded, to=TensorProto.UINT8), names["values"], "int8.zero_point")
    scaled = add("Mul", add("Cast", product, to=TensorProto.FLOAT), scale)
    if is_linear and len(node.input) > 2:
        add("Add", add("Mul", scaled, names["scale"]), node.input[2], output=node.output[0])
    else:
        add("Mul", scaled, names["scale"], output=node.output[0])
    return nodes, constants


def _quantise_columns(weight_KN: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Integers from -127 to 127, (K, N), and the scale of each column, (N,)."""
    scale_N = np.maximum(np.abs(weight_KN).max(axis=0) / np.float32(_MAX_VALUE), np.finfo(np.float32).tiny)
    return np.ascontiguousarray(np.round(weight_KN / scale_N).astype(np.int8)), scale_N.astype(np.float32)


def _require_exact_products() -> None:
    """Refuse a CPU whose 8-bit products saturate: without VNNI, pairs of products are added in 16 bits.

    Raises:
        ConfigError: the products of this CPU overflow.
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("8-bit products", "onnx") from error

    depth = 64
    weights = numpy_helper.from_array(np.full((depth, 16), _MAX_VALUE, np.int8), "weights")
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["values", "weights"], ["products"])],
        "saturation",
        [helper.make_tensor_value_info("values", TensorProto.UINT8, [4, depth])],
        [helper.make_tensor_value_info("products", TensorProto.INT32, [4, 16])],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (products,) = session.run(None, {"values": np.full((4, depth), 255, np.uint8)})
    if (products != 255 * _MAX_VALUE * depth).any():
        raise ConfigError("runtime int8: this CPU adds 8-bit products in 16 bits, which overflow; use onnx")
