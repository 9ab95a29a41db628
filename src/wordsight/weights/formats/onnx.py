"""A model as two ONNX graphs, for programs without torch: pixels to unit embeddings, ids to unit embeddings.

    image.onnx   pixels (N, 3, S, S) float32, as the card's preprocessing gives them  -> embeddings (N, E) float32
    text.onnx    ids (M, L) int32, L from 2 to the context length where the tower is causal -> embeddings (M, E) float32

ONNX is written, never read back into a model: what it computes is compared with the model's own answers.
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
from wordsight.weights.formats.onnx_directory import IMAGE_NAME, MOST_INLINE_BYTES, TEXT_NAME
from wordsight.weights.probes import probe_ids, probe_pixels

BATCHES = (1, 2, 7)
"""Numbers of images and texts at which a written graph is compared with its model."""

_ANY_SIZE = 1 << 62


class _Images(nn.Module):
    def __init__(self, model: CLIP) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return F.normalize(self.model.encode_image(pixels), dim=1)


class _Texts(nn.Module):
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
    _write(_Images(model), directory / IMAGE_NAME, pixels, {0: batch}, "pixels")
    ids, sizes = probe_ids(model.config.text, 2), {0: batch}
    if model.config.text.is_trimmed:
        sizes[1] = torch.export.Dim("length", min=2, max=model.config.text.context_length)
    _write(_Texts(model), directory / TEXT_NAME, ids, sizes, "ids")


def _write(module: nn.Module, path: Path, example: Tensor, sizes: Mapping[int, Any], name: str) -> None:
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
            dynamic_shapes={name: dict(sizes)},
            input_names=[name],
            output_names=["embeddings"],
            verbose=False,
        )
        assert program is not None
        # transposed and scaled weights are written as they are used, whatever their size
        optimizer.fold_constants(program.model, input_size_limit=_ANY_SIZE, output_size_limit=_ANY_SIZE)
        optimizer.remove_unused_nodes(program.model)
        program.save(path, external_data=num_bytes > MOST_INLINE_BYTES)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter speaks of torchvision, of its own deprecations and of each folded constant."""
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


def greatest_differences(model: CLIP, directory: Path) -> tuple[float, float]:
    """The greatest difference of a component between the graphs' embeddings of images and of texts and the model's.

    Images at batches of 1, 2 and 7; texts too, and at lengths 2, 3, half and the whole of the context where the
    tower is causal.

    Raises:
        MissingExtraError: ONNX Runtime is not installed.
    """
    text, size_px = model.config.text, model.config.image.image_size_px
    lengths = {2, 3, text.context_length // 2, text.context_length} if text.is_trimmed else {text.context_length}
    images = [_difference(directory / IMAGE_NAME, _Images(model), probe_pixels(size_px, batch)) for batch in BATCHES]
    texts = [
        _difference(directory / TEXT_NAME, _Texts(model), probe_ids(text, batch, length))
        for batch in BATCHES
        for length in sorted(lengths)
        if length >= 2
    ]
    return max(images), max(texts)


@torch.inference_mode()
def _difference(path: Path, module: nn.Module, example: Tensor) -> float:
    found = run_graph(path, [example.numpy()])
    return float(np.abs(found - module(example).numpy()).max())


def run_graph(path: Path, inputs: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """The embeddings that one graph gives, on one thread of ONNX Runtime's CPU provider."""
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
