"""The fingerprint of an encoder: everything that determines the value of an embedding.

Stored embeddings carry the fingerprint of the encoder that computed them, and embeddings of two fingerprints are never
mixed.
"""

import hashlib

import msgspec

from wordsight.config import Config
from wordsight.image import Policy, Preprocessing
from wordsight.model import ModelConfig
from wordsight.weights import TokenizerConfig

_DISPLAYED_DIGITS = 12


class Fingerprint(Config, frozen=True):
    """Everything on which an embedding depends besides the image or the text itself.

    Attributes:
        weights: SHA-256 of the names, shapes, types and values of the weights, independent of their file format.
        model: architecture. It includes the activation, which the weights do not determine.
        tokenizer: how texts are turned into token ids.
        preprocessing: how decoded pixels are turned into the model's input.
        policy: how image files are decoded.
        precision: of the computation, such as `float32`.
    """

    weights: str
    model: ModelConfig
    tokenizer: TokenizerConfig
    preprocessing: Preprocessing
    policy: Policy
    precision: str

    @property
    def digest(self) -> str:
        """SHA-256 of all attributes; two fingerprints are equal if and only if their digests are."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def __str__(self) -> str:
        """One line: `3f0a91c2be77: weights 08d1..., 64 px, exact, viewer, float32`."""
        preprocessing = self.preprocessing
        parts = (
            f"weights {self.weights[:_DISPLAYED_DIGITS]}",
            f"{preprocessing.size_px} px",
            preprocessing.decoding,
            self.policy,
            self.precision,
        )
        return f"{self.digest[:_DISPLAYED_DIGITS]}: {', '.join(parts)}"
