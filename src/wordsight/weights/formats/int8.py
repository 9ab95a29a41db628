"""An exported graph whose products with weights are computed in 8 bits, by the operators that ONNX itself has.

Where a graph says x W, the new one says, for each row x of activations and each column w of W,

    a = max |x| / 127      q = round(x / a) + 128     uint8
    c = max |w| / 127      v = round(w / c)           int8
    x w = (q - 128) v * a * c                         the product exact in int32

Every row of activations has a scale of its own, so a vector does not depend on its neighbours in the batch (design rule
5), as it does with `DynamicQuantizeLinear`, which has one for the whole tensor. Attention, convolutions, sums stay as
they were. Scales by row and column follow Dettmers et al. 2022 (LLM.int8(), arXiv 2208.07339, section 2).
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
from wordsight.weights.formats.onnx_directory import (
    IMAGE_NAME,
    MOST_INLINE_BYTES,
    TEXT_NAME,
    cache_name,
    is_exported,
    read_exported,
    write_beside_graphs,
)

if TYPE_CHECKING:
    from onnx import NodeProto, TensorProto

_CACHE_VERSION = 1  # to be raised when the graphs change
_GREATEST = 127
_MIDDLE = 128


def int8_directory(directory: Path) -> Path:
    """The 8-bit form of a directory that was exported to ONNX: made once, kept in the cache.

    Raises:
        ConfigError: the image tower is a net of convolutions, which would stay as they are; or this processor's 8-bit
            products are not exact.
        MissingExtraError: the packages of the extra `onnx` are not installed.
        OutputError: the cache cannot be written.
        WeightsError: the directory is broken.
    """
    content = read_exported(directory)
    card, exported = content.card, content.exported
    if exported.precision == "int8":
        return directory
    if isinstance(card.model.image, ModifiedResNetConfig | ResidualConfig):
        raise ConfigError(f"runtime int8: {card.name}'s image tower is made of convolutions, which stay; take onnx")
    _require_exact_products()  # the cache may be another machine's too
    out = cache_directory("int8") / f"{_CACHE_VERSION}-{cache_name(exported.weights, card)}"
    if not is_exported(out):
        with atomic_directory(out.absolute()) as partial:
            for name in (IMAGE_NAME, TEXT_NAME):
                quantise(directory / name, partial / name)
            write_beside_graphs(partial, card, msgspec.structs.replace(exported, precision="int8"), content.files)
    return out


def quantise(graph: Path, out: Path) -> int:
    """Write a graph with 8-bit products; return how many there are.

    Args:
        out: in a directory that appears whole; what is large lies beside it.
    """
    import onnx

    model = onnx.load(graph)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    made: dict[str, TensorProto] = {}
    for node in model.graph.node:
        nodes += _in_8_bits(node, tensors, made) or [node]
    used = {name for node in nodes for name in node.input}
    kept = [tensor for name, tensor in (tensors | made).items() if name in used]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept)
    is_large = sum(len(tensor.raw_data) for tensor in kept) > MOST_INLINE_BYTES
    onnx.save(model, out, save_as_external_data=is_large, location=f"{out.name}.data")
    return sum(node.op_type == "MatMulInteger" for node in nodes)


def _in_8_bits(
    node: "NodeProto", tensors: Mapping[str, "TensorProto"], made: "dict[str, TensorProto]"
) -> "list[NodeProto]":
    """The nodes in place of one, or none where it is not a product with a matrix of weights; `made` takes tensors."""
    from onnx import TensorProto, helper, numpy_helper

    is_linear = node.op_type == "Gemm"
    if not (is_linear or node.op_type == "MatMul") or node.input[1] not in tensors:
        return []
    weight_KN = numpy_helper.to_array(tensors[node.input[1]])
    if weight_KN.ndim != 2:
        return []
    settings = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if is_linear and (settings.get("transA") or {settings.get("alpha", 1.0), settings.get("beta", 1.0)} != {1.0}):
        return []
    values_KN, scale_N = _columns(weight_KN.T if settings.get("transB") else weight_KN)
    own = {name: f"{node.output[0]}.{name}" for name in ("values", "scale")}
    made[own["values"]] = numpy_helper.from_array(values_KN, own["values"])
    made[own["scale"]] = numpy_helper.from_array(scale_N, own["scale"])
    for name, value in (
        ("int8.axis", np.array([-1])),
        ("int8.greatest", np.float32(_GREATEST)),
        ("int8.least_scale", np.finfo(np.float32).tiny),
        ("int8.middle", np.float32(_MIDDLE)),
        ("int8.zero", np.uint8(_MIDDLE)),
    ):
        made[name] = numpy_helper.from_array(np.asarray(value), name)

    nodes: list[NodeProto] = []

    def add(operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{node.output[0]}.{len(nodes)}"
        nodes.append(helper.make_node(operator, [*inputs], [output], **attributes))
        return output

    given = node.input[0]
    most = add("ReduceMax", add("Abs", given), "int8.axis", keepdims=1)
    scale = add("Max", add("Div", most, "int8.greatest"), "int8.least_scale")
    rounded = add("Add", add("Round", add("Div", given, scale)), "int8.middle")
    product = add("MatMulInteger", add("Cast", rounded, to=TensorProto.UINT8), own["values"], "int8.zero")
    scaled = add("Mul", add("Cast", product, to=TensorProto.FLOAT), scale)
    if is_linear and len(node.input) > 2:
        add("Add", add("Mul", scaled, own["scale"]), node.input[2], output=node.output[0])
    else:
        add("Mul", scaled, own["scale"], output=node.output[0])
    return nodes


def _columns(weight_KN: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values from -127 to 127 and a scale for each column."""
    scale_N = np.maximum(np.abs(weight_KN).max(axis=0) / np.float32(_GREATEST), np.finfo(np.float32).tiny)
    return np.ascontiguousarray(np.round(weight_KN / scale_N).astype(np.int8)), scale_N.astype(np.float32)


def _require_exact_products() -> None:
    """Refuse a processor whose 8-bit products saturate: without VNNI two of them are added in 16 bits.

    Raises:
        ConfigError: then `onnx` is the runtime to take.
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ModuleNotFoundError as error:
        raise MissingExtraError("8-bit products", "onnx") from error

    depth = 64
    weights = numpy_helper.from_array(np.full((depth, 16), _GREATEST, np.int8), "weights")
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
    if (products != 255 * _GREATEST * depth).any():
        raise ConfigError("runtime int8: this processor adds 8-bit products in 16 bits, which overflow; take onnx")
