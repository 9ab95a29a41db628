"""What computes embeddings: two functions from pixels and ids, behind which torch or another runtime may lie.

A `DualEncoder` is given one. `TorchRuntime` (`on_torch.py`) is the default; `OnnxRuntime` (`on_onnx.py`) runs a model
that was exported, without torch, in float32 or, as `int8`, with 8-bit products.
"""

from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError, WeightsError, nearest

Embeddings = NDArray[np.float32]
RuntimeName = Literal["torch", "half", "onnx", "int8", "auto"]


@runtime_checkable
class Runtime(Protocol):
    """Pixels and ids to unit embeddings. A embedding does not depend on the others that are asked for with it.

    Attributes:
        name: as `--runtime` has it.
        precision: of the computation, such as `float32`.
        scale: what multiplies a cosine.
        bias: what is added to it.
        weights_hash: SHA-256 of the weights.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102
    @property
    def bias(self) -> float: ...  # noqa: D102
    @property
    def weights_hash(self) -> str: ...  # noqa: D102

    def encode_pixels(self, squares: NDArray[np.uint8]) -> Embeddings:
        """Images of the model's size, (N, S, S, 3) uint8 -> (N, E) float32, unit length.

        Raises:
            WeightsError: the model answers with numbers that are not finite.
        """

    def encode_ids(self, ids: NDArray[np.int32]) -> Embeddings:
        """Texts as the model's tokenizer gives them, (M, L) int32 -> (M, E) float32, unit length; errors as above."""


def check_runtime(name: str) -> None:
    """Refuse a runtime that there is not.

    Raises:
        ConfigError: with the nearest name.
    """
    known = get_args(RuntimeName)
    if name not in known:
        raise ConfigError(f"runtime {name!r}: expected {', '.join(known)}{nearest(name, known)}")


def require_finite(embeddings: Embeddings) -> Embeddings:
    """The embeddings themselves.

    Raises:
        WeightsError: some are not finite.
    """
    if not np.isfinite(embeddings).all():
        raise WeightsError("the model's embeddings are not finite numbers; its weights are damaged or diverged")
    return embeddings
