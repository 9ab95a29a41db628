"""ONNX Runtime on the CPU, without torch: runs a directory written by `wordsight convert --to onnx`."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.encoder.batch_sizes import batch_sizes
from wordsight.encoder.runtime import Embeddings, require_finite
from wordsight.errors import MissingExtraError, WeightsError
from wordsight.image import normalise
from wordsight.progress import phase
from wordsight.weights.formats.onnx_check import check_graph
from wordsight.weights.formats.onnx_directory import IMAGE_NAME, TEXT_NAME, read_exported

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_MAX_REASON_LENGTH = 200
_WARNINGS_OFF = 3  # ONNX Runtime's severities: 2 is warning, 3 is error


class OnnxRuntime:
    """Runs the image graph and the text graph of an exported model; see `Runtime`. Each is opened on first use.

    Args:
        directory: holds `image.onnx`, `text.onnx`, the card and the tokenizer's files.
        num_threads: of each session; 0 is ONNX Runtime's default, one thread per core.

    Attributes:
        card: describes the model.
        files: contents of the tokenizer's files by name.

    Raises:
        WeightsError: a file is missing or broken.
    """

    device_type = "cpu"

    def __init__(self, directory: Path, num_threads: int = 0) -> None:
        self.card, exported, self.files = read_exported(directory)
        self.precision: str = exported.precision
        self.name = "int8" if self.precision == "int8" else "onnx"
        self.scale = exported.scale
        self.bias = exported.bias
        self.weights_hash = exported.weights
        self._directory = directory
        self._num_threads = num_threads

    def encode_pixels(self, pixels: NDArray[np.uint8]) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, E) float32."""
        return _run(self._image_session, normalise(pixels, self.card.preprocessing))

    def encode_ids(self, ids: NDArray[np.int32]) -> Embeddings:
        """(M, L) int32 -> (M, E) float32. A causal text tower receives texts of equal length without their padding."""
        text = self.card.model.text
        batch_size = batch_sizes(self.device_type).texts
        embeddings = np.empty((len(ids), self.card.model.embed_dim), np.float32)
        lengths = self._lengths(ids) if text.is_trimmed else np.full(len(ids), ids.shape[1])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for batch in np.split(rows, range(batch_size, len(rows), batch_size)):
                embeddings[batch] = _run(self._text_session, np.ascontiguousarray(ids[batch, :length]))
        return embeddings

    def _lengths(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Number of tokens of each text up to its end; at least 2, the minimum of the exported graph."""
        end_id = self.card.model.text.end_id
        ends = ids.argmax(axis=1) if end_id is None else (ids == end_id).argmax(axis=1)
        return np.maximum(ends + 1, 2)

    @cached_property
    def _image_session(self) -> "InferenceSession":
        check_graph(self._directory / IMAGE_NAME, self.card, is_image=True)
        return _open_session(self._directory / IMAGE_NAME, self._num_threads)

    @cached_property
    def _text_session(self) -> "InferenceSession":
        check_graph(self._directory / TEXT_NAME, self.card, is_image=False)
        return _open_session(self._directory / TEXT_NAME, self._num_threads)


@phase("opening the ONNX graph")
def _open_session(path: Path, num_threads: int) -> "InferenceSession":
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("running an ONNX graph", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _WARNINGS_OFF
    options.intra_op_num_threads = num_threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors have no common base class
        reason = _reason(error)
        raise WeightsError(f"{path}: ONNX Runtime cannot open it: {reason}; export it again") from error


def _run(session: "InferenceSession", value: NDArray[np.float32] | NDArray[np.int32]) -> Embeddings:
    try:
        (embeddings,) = session.run(None, {session.get_inputs()[0].name: value})
    except Exception as error:  # the library's errors have no common base class
        raise WeightsError(f"the ONNX graph cannot be run: {_reason(error)}; export the model again") from error
    return require_finite(np.asarray(embeddings, np.float32))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_REASON_LENGTH] or type(error).__name__
