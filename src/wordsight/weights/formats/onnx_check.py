"""Check an ONNX graph before ONNX Runtime opens it: graphs are untrusted input.

ONNX Runtime executes whatever a graph says, and some of it already when the graph is opened: a loop of 2^62 rounds, a
tensor of a terabyte, weights read from any path. A graph is accepted if it consists of the operators that `onnx.py` and
`int8.py` write (and their close relatives), has one input and one output of the shapes that the card implies, and if
the sizes of all intermediate tensors, inferred for a whole batch, are in proportion to the weights in the file.

The weights are not read: the check works on a copy of the graph without them, and takes about 0.1 s.
"""

import math
import mmap
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordsight.errors import MissingExtraError, WeightsError
from wordsight.text.untrusted import protocol_buffer_fields
from wordsight.weights.card import Card

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

BATCH_SIZE = 64
"""Images or texts for which sizes are inferred: those that are encoded together on a CPU."""

MAX_STRUCTURE_BYTES = 1 << 24
"""Of a graph without its weights; the graphs of the largest towers have 1 MB."""

MAX_NODES = 1 << 15
"""Operators of a graph; quantised graphs of the largest towers have 5,000."""

MAX_ELEMENTS = 1 << 22
"""Of one intermediate tensor per image or text, or an eighth of the weights, if that is more."""

MAX_TOTAL_ELEMENTS = 1 << 26
"""Of all intermediate tensors per image or text, or 16 for each weight, if that is more."""

MAX_PRODUCTS = 1 << 30
"""Multiplications per image or text, or 65,536 for each weight, if that is more; a convolution at 224 pixels has
50,176 for each weight."""

_OPSETS = range(13, 27)
_MAX_INLINE_BYTES = 4096  # of an initializer that is kept, because it may state a shape
_MAX_VALUES = 64  # of a tensor whose integers are evaluated
_OPERATOR_NAMES = """
    Abs Add And ArgMax AveragePool BatchNormalization Cast Clip Concat Constant Conv Div Equal Erf Exp Expand Flatten
    Gather GatherElements GatherND Gelu Gemm GlobalAveragePool Greater GreaterOrEqual Identity IsNaN LayerNormalization
    Less LessOrEqual MatMul MatMulInteger Max Min Mul Neg Not Or Pad Pow Range Reciprocal ReduceL2 ReduceMax ReduceMean
    ReduceSum Relu Reshape Round Shape Sigmoid Slice Softmax Split Sqrt Squeeze Sub Tanh TopK Transpose Trilu Unsqueeze
    Where
"""
_OPERATORS = frozenset(_OPERATOR_NAMES.split())
_TAKE_SIZES = ("Expand", "Reshape", "Slice", "Split", "TopK")  # in their inputs after the first
_ITEM_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}  # of ONNX's types of tensors
_FLOAT, _INT32, _INT64 = 1, 6, 7
_GRAPH_FIELD, _INITIALIZER, _VALUE_INFO = 7, 5, 13  # of ModelProto; of GraphProto
_RAW_DATA = 9  # of TensorProto


def check_graph(path: Path, card: Card, is_image: bool) -> None:
    """Check the graph of one tower.

    Args:
        path: the graph.
        card: describes the model, and so the shapes of input and output.
        is_image: whether it is the image tower.

    Raises:
        WeightsError: the graph is broken, is not of the kind that `wordsight convert --to onnx` writes, or exceeds a
            limit of this module.
        MissingExtraError: the package onnx is not installed.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingExtraError("checking an ONNX graph", "onnx") from error
    size_px, length = card.model.image.image_size_px, card.model.text.context_length
    sizes = [BATCH_SIZE, 3, size_px, size_px] if is_image else [BATCH_SIZE, length]
    try:
        structure, raw_bytes = _without_weights(path)
        model = onnx.ModelProto.FromString(structure)
        _check_structure(model)
        num_weights = sum(_check_initializer(tensor, raw_bytes, path.parent) for tensor in model.graph.initializer)
        _fix_sizes(model, sizes, _FLOAT if is_image else _INT32)
        inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
        _check_sizes(inferred, num_weights, [BATCH_SIZE, card.model.embed_dim])
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check its permissions") from error
    except Exception as error:  # protobuf and onnx raise errors without a common base class
        reason = " ".join(re.sub(r"\s+", " ", str(error)).split())[:200] or type(error).__name__
        raise WeightsError(f"{path}: not a graph that wordsight runs: {reason}; export it again") from error


def _require(claim: bool, reason: str) -> None:
    if not claim:
        raise ValueError(reason)


def _without_weights(path: Path) -> tuple[bytes, dict[str, int]]:
    """Return a graph without its large initializers, and the number of bytes of each of them by name."""
    _require(stat.S_ISREG(path.stat().st_mode) and path.stat().st_size > 0, "not a file, or empty")
    raw_bytes: dict[str, int] = {}
    parts: list[bytes] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for field, value in protocol_buffer_fields(content, 0, len(content)):
            if field != _GRAPH_FIELD or isinstance(value, int):
                parts.append(_encoded(field, value, content))
                continue
            graph: list[bytes] = []
            size_bytes = 0
            for inner, span in protocol_buffer_fields(content, *value):
                if inner == _INITIALIZER and isinstance(span, tuple) and span[1] - span[0] > _MAX_INLINE_BYTES:
                    graph.append(_delimited(inner, _without_raw_data(content, span, raw_bytes)))
                elif inner != _VALUE_INFO:
                    graph.append(_encoded(inner, span, content))
                size_bytes += len(graph[-1]) if graph else 0
                _require(size_bytes <= MAX_STRUCTURE_BYTES, f"over {MAX_STRUCTURE_BYTES:,} bytes without its weights")
            parts.append(_delimited(field, b"".join(graph)))
    structure = b"".join(parts)
    _require(len(structure) <= MAX_STRUCTURE_BYTES, f"over {MAX_STRUCTURE_BYTES:,} bytes without its weights")
    return structure, raw_bytes


def _without_raw_data(content: mmap.mmap, span: tuple[int, int], raw_bytes: dict[str, int]) -> bytes:
    parts, name, length = [], "", 0
    for field, value in protocol_buffer_fields(content, *span):
        if field == _RAW_DATA and isinstance(value, tuple):
            length = value[1] - value[0]
            continue
        if field == 8 and isinstance(value, tuple):
            name = content[value[0] : value[1]].decode()
        parts.append(_encoded(field, value, content))
    raw_bytes[name] = length
    return b"".join(parts)


def _encoded(field: int, value: int | tuple[int, int], content: mmap.mmap) -> bytes:
    if isinstance(value, int):
        return _varint(field << 3) + _varint(value)
    _require(value[1] - value[0] <= MAX_STRUCTURE_BYTES, f"over {MAX_STRUCTURE_BYTES:,} bytes without its weights")
    return _delimited(field, content[value[0] : value[1]])


def _delimited(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _check_structure(model: "ModelProto") -> None:
    graph = model.graph
    for opset in model.opset_import:
        _require(opset.domain in ("", "ai.onnx"), f"operators of the domain {ascii(opset.domain)[:80]}")
        _require(opset.version in _OPSETS, f"opset {opset.version}")
    _require(not model.functions, "it defines functions")
    _require(not model.training_info, "it contains training information")
    _require(not graph.sparse_initializer, "it has sparse weights")
    _require(0 < len(graph.node) <= MAX_NODES, f"{len(graph.node):,} operators, expected 1 to {MAX_NODES:,}")
    weights = {tensor.name for tensor in graph.initializer}
    _require(len(weights) == len(graph.initializer), "two weights have the same name")
    inputs = [entry.name for entry in graph.input]
    _require(len(inputs) == 1 and not weights & set(inputs), f"{len(inputs)} inputs, expected 1")
    _require(len(graph.output) == 1, f"{len(graph.output)} outputs, expected 1")
    for node in graph.node:
        operator = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        _require(operator in _OPERATORS, f"operator {ascii(operator)[:80]}")
        for attribute in node.attribute:
            is_plain = not (attribute.HasField("g") or attribute.graphs or attribute.HasField("sparse_tensor"))
            _require(is_plain and not attribute.ref_attr_name, f"operator {operator} with a graph")
            if attribute.HasField("t"):
                _check_initializer(attribute.t, {}, None)


def _check_initializer(tensor: "TensorProto", raw_bytes: Mapping[str, int], directory: Path | None) -> int:
    """Check that the values of a tensor are where it says, and return their number."""
    name = ascii(tensor.name)[:80]
    _require(tensor.data_type in _ITEM_BYTES, f"{name}: tensors of type {tensor.data_type}")
    _require(all(size >= 0 for size in tensor.dims), f"{name}: a negative size")
    count = math.prod(tensor.dims)
    expected = count * _ITEM_BYTES[tensor.data_type]
    if tensor.data_location == 1:
        _require(directory is not None, f"{name}: a constant in another file")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        _require(bool(re.fullmatch(r"[\w.-]+", location)) and location.strip("."), f"{name}: in {ascii(location)[:80]}")
        status = ((directory or Path()) / location).lstat()
        _require(stat.S_ISREG(status.st_mode), f"{name}: {location} is not a file")
        offset, length = (int(entries.get(key) or default) for key, default in (("offset", 0), ("length", expected)))
        _require(offset >= 0 and length == expected, f"{name}: {length:,} bytes, expected {expected:,}")
        _require(offset + length <= status.st_size, f"{name}: beyond the end of {location}")
        return count
    raw = raw_bytes.get(tensor.name, 0) or len(tensor.raw_data)
    typed = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
    values = sum(map(len, typed))
    is_complete = values == count if values else raw == expected
    _require(is_complete, f"{name}: its values are not {expected:,} bytes, as its shape {[*tensor.dims]} says")
    return count


def _fix_sizes(model: "ModelProto", sizes: list[int], data_type: int) -> None:
    """Give the input its size for a whole batch, and replace integers computed from that size by constants."""
    from onnx import helper

    entry = model.graph.input[0]
    num_sizes = len(entry.type.tensor_type.shape.dim)
    is_expected = entry.type.tensor_type.elem_type == data_type and num_sizes == len(sizes)
    _require(is_expected, f"input {ascii(entry.name)[:80]} of another type or rank")
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info(entry.name, data_type, sizes))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    values = _evaluate(model, entry.name, sizes)
    constants: dict[str, Any] = {}
    for node in model.graph.node:
        is_scalar = node.op_type == "Range"
        for position, name in enumerate(node.input):
            if name in values and (is_scalar or (node.op_type in _TAKE_SIZES and position)):
                shape = [] if is_scalar and len(values[name]) == 1 else [len(values[name])]
                constant = f"{name}.{'scalar' if is_scalar else 'vector'}"
                constants[constant] = helper.make_tensor(constant, _INT64, shape, values[name])
                node.input[position] = constant
    model.graph.initializer.extend(constants.values())


def _evaluate(model: "ModelProto", input_name: str, sizes: list[int]) -> dict[str, list[int]]:
    """The integers of small tensors that follow from the input's size alone, as flat lists."""
    from onnx import helper, numpy_helper

    shapes = {input_name: sizes}
    values: dict[str, list[int]] = {
        tensor.name: numpy_helper.to_array(tensor).ravel().tolist()
        for tensor in model.graph.initializer
        if tensor.data_type == _INT64 and tensor.data_location != 1 and math.prod(tensor.dims) <= _MAX_VALUES
    }
    for node in model.graph.node:
        options = {each.name: helper.get_attribute_value(each) for each in node.attribute if not each.HasField("t")}
        operands = [values[name] for name in node.input if name in values]
        result = None
        if node.op_type == "Shape" and node.input[0] in shapes:
            result = shapes[node.input[0]][options.get("start", 0) : options.get("end")]
        elif not operands or len(operands) < len(node.input):
            continue
        elif node.op_type == "Range" and all(operands) and operands[2][0]:
            start, limit, step = (operand[0] for operand in operands)
            shapes[node.output[0]] = [max(0, -((start - limit) // step))]
        else:
            result = _evaluated(node.op_type, operands, options.get("to"))
        if result is not None and len(result) <= _MAX_VALUES and all(abs(number) < 1 << 62 for number in result):
            values[node.output[0]] = result
    return values


def _evaluated(operator: str, operands: list[list[int]], to: Any) -> list[int] | None:
    """The output of one operator, or None if it is not one that computes sizes."""
    if operator in ("Identity", "Reshape", "Squeeze", "Unsqueeze") or (operator == "Cast" and to == _INT64):
        return operands[0]
    if operator == "Concat":
        return [number for operand in operands for number in operand]
    one, other = (*operands, [], [])[:2]
    if operator == "Gather":
        return [one[index] for index in other] if all(-len(one) <= index < len(one) for index in other) else None
    if operator in _ARITHMETIC and one and other and (1 in (len(one), len(other)) or len(one) == len(other)):
        count = max(len(one), len(other))
        one, other = (operand * (count // len(operand)) for operand in (one, other))
        return [_ARITHMETIC[operator](a, b) for a, b in zip(one, other, strict=True)]
    return None


_ARITHMETIC: dict[str, Any] = {
    "Add": lambda one, other: one + other,
    "Sub": lambda one, other: one - other,
    "Mul": lambda one, other: one * other,
}


def _check_sizes(model: "ModelProto", num_weights: int, output: list[int]) -> None:
    """Check the inferred shapes of all tensors."""
    shapes = dict(_shapes(model))
    largest, total, products = 0, 0, 0
    for node in model.graph.node:
        for name in filter(None, node.output):
            _require(name in shapes, f"the size of {ascii(name)[:80]}, computed by {node.op_type}, is not known")
            elements = math.prod(shapes[name])
            largest, total = max(largest, elements), total + elements
            products += elements * _products_per_element(node, shapes)
    limits = (
        (largest, max(MAX_ELEMENTS, num_weights // 8), "elements in one tensor"),
        (total, max(MAX_TOTAL_ELEMENTS, 16 * num_weights), "elements in all tensors"),
        (products, max(MAX_PRODUCTS, num_weights << 16), "multiplications"),
    )
    for number, limit, what in limits:
        number //= BATCH_SIZE
        _require(number <= limit, f"{number:,} {what} for {num_weights:,} weights, expected at most {limit:,}")
    entry = model.graph.output[0]
    is_expected = entry.type.tensor_type.elem_type == _FLOAT and shapes.get(entry.name) == output
    _require(is_expected, f"output {ascii(entry.name)[:80]} is {shapes.get(entry.name)}, expected {output} in float32")


def _shapes(model: "ModelProto") -> Iterator[tuple[str, list[int]]]:
    graph = model.graph
    for entry in (*graph.input, *graph.output, *graph.value_info):
        sizes = entry.type.tensor_type.shape.dim
        if entry.type.tensor_type.HasField("shape") and all(size.HasField("dim_value") for size in sizes):
            yield entry.name, [size.dim_value for size in sizes]
    for tensor in graph.initializer:
        yield tensor.name, [*tensor.dims]


def _products_per_element(node: "NodeProto", shapes: Mapping[str, list[int]]) -> int:
    """How many numbers are multiplied or read for one element of a node's output."""
    options = {attribute.name: attribute for attribute in node.attribute}
    if node.op_type in ("MatMul", "MatMulInteger", "Gemm"):
        inner = shapes.get(node.input[0]) or [1]
        return inner[0] if "transA" in options and options["transA"].i else inner[-1]
    if node.op_type == "Conv":
        return math.prod((shapes.get(node.input[1]) or [1])[1:])
    if "kernel_shape" in options:
        return math.prod(options["kernel_shape"].ints)
    return 1
