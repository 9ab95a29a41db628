"""Write a model as two ONNX graphs, for programs without torch.

    image.onnx   pixels (N, 3, H, W) float32, preprocessed as the card says -> unit-length embeddings (N, E) float32
    text.onnx    token ids (M, L) int32 -> unit-length embeddings (M, E) float32; L is the context length; if texts can
                 be trimmed (`TextConfig.is_trimmed`), L is from 2 to the context length

A graph is never read back into a model; instead its outputs are compared with those of the model.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from wordsight.errors import MissingExtraError
from wordsight.model import CLIP
from wordsight.weights.certificate import probe_ids, probe_pixels
from wordsight.weights.formats.onnx_directory import IMAGE_NAME, MAX_INLINE_BYTES, TEXT_NAME

BATCH_SIZES = (1, 2, 7)
"""Batch sizes at which a written graph is compared with its model."""

_NO_LIMIT = 1 << 62


class _ImageEncoder(nn.Module):
    """Pixels (N, 3, H, W) -> unit-length embeddings (N, E)."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(pixels), dim=1)


class _TextEncoder(nn.Module):
    """Token ids (M, L) -> unit-length embeddings (M, E)."""

    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return F.normalize(self.model.encode_text(ids), dim=1)


def write_graphs(model: CLIP, directory: Path) -> None:
    """Write `image.onnx` and `text.onnx` for a float32 model on the CPU.

    Raises:
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    pixels = torch.zeros(2, 3, *(2 * [model.config.image.image_size_px]))
    _write(_ImageEncoder(model), directory / IMAGE_NAME, pixels, {0: batch}, "pixels")
    ids, dimensions = probe_ids(model.config.text, 2), {0: batch}
    if model.config.text.is_trimmed:
        dimensions[1] = torch.export.Dim("length", min=2, max=model.config.text.context_length)
    _write(_TextEncoder(model), directory / TEXT_NAME, ids, dimensions, "ids")


def _write(module: nn.Module, path: Path, example: Tensor, dimensions: Mapping[int, Any], name: str) -> None:
    try:
        from onnxscript import optimizer
    except ModuleNotFoundError as error:
        raise MissingExtraError("ONNX export", "onnx") from error
    num_bytes = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            (example,),
            dynamo=True,
            dynamic_shapes={name: dict(dimensions)},
            input_names=[name],
            output_names=["embeddings"],
            verbose=False,
        )
        assert program is not None
        # constants of any size are folded, so that weights are stored transposed and scaled, not computed at run time
        optimizer.fold_constants(program.model, input_size_limit=_NO_LIMIT, output_size_limit=_NO_LIMIT)
        optimizer.remove_unused_nodes(program.model)
        program.save(path, external_data=num_bytes > MAX_INLINE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which reports torchvision, its own deprecations and every folded constant."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def max_differences(model: CLIP, directory: Path) -> tuple[float, float]:
    """Compare the embeddings of written graphs with those of their model.

    Images and texts are compared at batch sizes 1, 2 and 7. If texts can be trimmed, they are compared at lengths of 2,
    3, half the context and the whole context.

    Returns:
        The largest absolute difference of a component, for images and for texts.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    text, size_px = model.config.text, model.config.image.image_size_px
    lengths = {2, 3, text.context_length // 2, text.context_length} if text.is_trimmed else {text.context_length}
    images = [
        _difference(directory / IMAGE_NAME, _ImageEncoder(model), probe_pixels(size_px, batch_size))
        for batch_size in BATCH_SIZES
    ]
    texts = [
        _difference(directory / TEXT_NAME, _TextEncoder(model), probe_ids(text, batch_size, length))
        for batch_size in BATCH_SIZES
        for length in sorted(lengths)
        if length >= 2
    ]
    return max(images), max(texts)


@torch.inference_mode()
def _difference(path: Path, module: nn.Module, example: Tensor) -> float:
    embeddings = run_graph(path, [example.numpy()])
    return float(np.abs(embeddings - module(example).numpy()).max())


def run_graph(path: Path, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Run a graph on ONNX Runtime's CPU provider and return its embeddings.

    Args:
        path: the graph.
        inputs: arrays in the order of the graph's inputs.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("running an ONNX graph", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    (embeddings,) = session.run(None, dict(zip(names, inputs, strict=True)))
    return np.asarray(embeddings, np.float32)
