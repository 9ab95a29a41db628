"""The protocol of whatever computes embeddings: two functions, from pixels and from token ids.

A `DualEncoder` has one. `TorchRuntime` (`torch_runtime.py`) is the default; `OnnxRuntime` (`onnx_runtime.py`) runs an
exported model without torch, in float32 or, as `int8`, with 8-bit products.
"""

from typing import Any, Literal, Protocol, TypeGuard, get_args

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError, WeightsError, nearest

Embeddings = NDArray[np.float32]
RuntimeName = Literal["torch", "half", "onnx", "int8", "auto"]


class Runtime(Protocol):
    """Computes unit-length embeddings. An embedding does not depend on the rest of the batch.

    Attributes:
        name: `torch`, `onnx` or `int8`.
        device_type: where it computes, as torch names it: `cpu`, `cuda`, ...
        precision: of the computation, such as `float32`.
        scale: logit scale, the factor of the cosine similarity.
        bias: logit bias, added to the scaled similarity; 0 for a model without one.
        weights_hash: SHA-256 of the weights.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def device_type(self) -> str: ...  # noqa: D102
    @property
    def precision(self) -> str: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102
    @property
    def bias(self) -> float: ...  # noqa: D102
    @property
    def weights_hash(self) -> str: ...  # noqa: D102

    def encode_pixels(self, pixels: NDArray[np.uint8], /) -> Embeddings:
        """Encode images of the model's input size: (N, S, S, 3) uint8 -> (N, E) float32, unit length.

        Raises:
            WeightsError: the model returns numbers that are not finite.
        """

    def encode_ids(self, ids: NDArray[np.int32], /) -> Embeddings:
        """Encode texts as tokenised for this model: (M, L) int32 -> (M, E) float32, unit length.

        Raises:
            WeightsError: the model returns numbers that are not finite.
        """


def is_runtime(model: Any) -> TypeGuard[Runtime]:
    """Whether an object is a `Runtime` rather than a model.

    `isinstance` with the protocol would evaluate every property, and `weights_hash` reads all the weights.
    """
    return hasattr(model, "encode_pixels")


def check_runtime(name: str) -> None:
    """Refuse an unknown name of a runtime.

    Raises:
        ConfigError: the message lists the names and the nearest one.
    """
    names = get_args(RuntimeName)
    if name not in names:
        raise ConfigError(f"runtime {name!r}: expected {', '.join(names)}{nearest(name, names)}")


def require_finite(embeddings: Embeddings) -> Embeddings:
    """Return the embeddings unchanged.

    Raises:
        WeightsError: some of them are not finite.
    """
    if not np.isfinite(embeddings).all():
        raise WeightsError(
            "the model's embeddings are not finite numbers: its weights are damaged, or its training diverged"
        )
    return embeddings
