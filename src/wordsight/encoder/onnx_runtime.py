"""The runtime of ONNX Runtime: a directory that `wordsight convert --to onnx` wrote, on the CPU, without torch."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.encoder.dual_encoder import DualEncoder
from wordsight.encoder.runtime import Embeddings, require_finite
from wordsight.errors import MissingExtraError, WeightsError
from wordsight.image import normalise
from wordsight.weights.formats.onnx_directory import IMAGE_NAME, TEXT_NAME, ExportedDirectory, read_exported

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_TEXTS_AT_ONCE = 64


def load_onnx_directory(directory: Path, threads: int = 0) -> DualEncoder:
    """The model of an exported directory; `threads` as below.

    Raises:
        WeightsError: a file is missing or broken.
    """
    content = read_exported(directory)
    return DualEncoder(OnnxRuntime(directory, content, threads), content.card, files=content.files)


class OnnxRuntime:
    """Two graphs; see `Runtime`. Each is opened when it is first needed.

    Args:
        directory: with `image.onnx` and `text.onnx`.
        content: what was read of it.
        threads: of the sessions; 0 leaves it to ONNX Runtime, which takes one a core.
    """

    def __init__(self, directory: Path, content: ExportedDirectory, threads: int = 0) -> None:
        self._directory = directory
        self._card = content.card
        self._threads = threads
        self.precision: str = content.exported.precision
        self.name = "int8" if self.precision == "int8" else "onnx"
        self.scale = content.exported.scale
        self.bias = content.exported.bias
        self.weights_hash = content.exported.weights

    def encode_pixels(self, squares: NDArray[np.uint8]) -> Embeddings:
        """(N, S, S, 3) uint8 -> (N, E) float32."""
        return _run(self._images, normalise(squares, self._card.preprocessing))

    def encode_ids(self, ids: NDArray[np.int32]) -> Embeddings:
        """(M, L) int32 -> (M, E) float32; a causal tower is given texts of one length without their padding."""
        text = self._card.model.text
        embeddings = np.empty((len(ids), self._card.model.embed_dim), np.float32)
        lengths = self._lengths(ids) if text.is_trimmed else np.full(len(ids), ids.shape[1])
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            for group in np.split(rows, range(_TEXTS_AT_ONCE, len(rows), _TEXTS_AT_ONCE)):
                embeddings[group] = _run(self._texts, np.ascontiguousarray(ids[group, :length]))
        return embeddings

    def _lengths(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """How many tokens of each text count; the graph takes two at least."""
        end_id = self._card.model.text.end_id
        ends = ids.argmax(axis=1) if end_id is None else (ids == end_id).argmax(axis=1)
        return np.maximum(ends + 1, 2)

    @cached_property
    def _images(self) -> "InferenceSession":
        return _open(self._directory / IMAGE_NAME, self._threads)

    @cached_property
    def _texts(self) -> "InferenceSession":
        return _open(self._directory / TEXT_NAME, self._threads)


def _open(path: Path, threads: int) -> "InferenceSession":
    try:
        import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingExtraError("running an ONNX graph", "onnx") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library's errors have no common class of their own
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: ONNX Runtime cannot open it: {reason}; export it again") from error


def _run(session: "InferenceSession", value: NDArray[np.float32] | NDArray[np.int32]) -> Embeddings:
    (embeddings,) = session.run(None, {session.get_inputs()[0].name: value})
    return require_finite(np.asarray(embeddings, np.float32))
