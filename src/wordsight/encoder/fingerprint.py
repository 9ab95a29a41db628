"""What decides the value of a embedding; whoever stores embeddings stores it, and does not mix two (design rule 5)."""

import hashlib

import msgspec

from wordsight.config import Config
from wordsight.image import Policy, Preprocessing
from wordsight.model import ModelConfig
from wordsight.weights import TokenizerConfig

_SHOWN_DIGITS = 12


class Fingerprint(Config, frozen=True):
    """Everything on which an embedding depends, beside the image or the text.

    Attributes:
        weights: SHA-256 of names, shapes, types and values, whatever file they came from.
        model: the architecture; the activation is not in the weights.
        tokenizer: how texts became ids.
        preprocessing: how pixels became numbers.
        policy: how files became pixels.
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
        """SHA-256 of it all: two fingerprints are equal when their digests are."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()

    def __str__(self) -> str:
        """One line: `3f0a91c2be77: weights 08d1..., 64 px, exact, viewer, float32`."""
        weights, form = self.weights[:_SHOWN_DIGITS], self.preprocessing
        parts = (f"weights {weights}", f"{form.size_px} px", form.decoding, self.policy, self.precision)
        return f"{self.digest[:_SHOWN_DIGITS]}: {', '.join(parts)}"
