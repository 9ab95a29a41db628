"""A model with its tokenizer and preprocessing: the waist on which everything above stands.

Its public methods are frozen by a test. What makes inference select_runtime lies behind them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from wordsight.encoder.fingerprint import Fingerprint
from wordsight.encoder.pipeline import as_images, embed_each
from wordsight.encoder.runtime import Embeddings, Runtime
from wordsight.errors import ConfigError, DataError, ImageError, nearest
from wordsight.image import ImageSource, Policy, Preprocessing, preprocess
from wordsight.text import TextTokenizer, build_tokenizer
from wordsight.weights import Card

if TYPE_CHECKING:
    from wordsight.model import CLIP

T = TypeVar("T")

_TEXTS_AT_ONCE = 8192  # tokenised together; texts that begin alike share work among these


class DualEncoder:
    """Images and texts to unit embeddings in one space.

    Args:
        model: used where it is (device, precision), not copied; its mode of training or evaluation is left alone. Or
            another runtime.
        card: of the model.
        policy: how files are looked at: `viewer`, as a person sees them, or `published`.
        files: the tokenizer's, by name, where it is not the published one.

    Raises:
        ConfigError: no such policy, or the tokenizer's file is missing or broken.
    """

    def __init__(
        self, model: "CLIP | Runtime", card: Card, policy: Policy = "viewer", files: Mapping[str, bytes] | None = None
    ) -> None:
        if policy not in get_args(Policy):
            known = get_args(Policy)
            raise ConfigError(f"image policy {policy!r}: expected {' or '.join(known)}{nearest(policy, known)}")
        self.runtime = model if isinstance(model, Runtime) else _on_torch(model, card.preprocessing)
        self.card = card
        self.policy = policy
        self.files = dict(files or {})
        if card.tokenizer.file:
            _ = self.tokenizer  # a broken file is told now; the published one takes 40 ms, when it is needed

    def embed_images(self, sources: ImageSource | Iterable[ImageSource]) -> Embeddings:
        """Embed images.

        Args:
            sources: N paths, bytes of files, Pillow images or uint8 arrays, mixed as you like, or one of these.

        Returns:
            (N, E) float32, unit length; a row does not depend on the others.

        Raises:
            ImageError: a image cannot be read.
            WeightsError: the model's answer is not finite.
        """
        rows = []
        for embedded in embed_each(self, as_images(sources)):
            if embedded.embedding is None:
                raise ImageError(embedded.error)
            rows.append(embedded.embedding[None])
        return self._joined(rows)

    def embed_texts(self, texts: str | Sequence[str]) -> Embeddings:
        """Embed texts; one that is longer than the context is cut, as published.

        Args:
            texts: M strings, or one.

        Returns:
            (M, E) float32, unit length; a row does not depend on the others.

        Raises:
            TextError: not strings.
            WeightsError: the model's answer is not finite.
        """
        given = [texts] if isinstance(texts, str) else texts
        # of what is no sequence the tokenizer says what was expected
        groups = _groups(given, _TEXTS_AT_ONCE) if isinstance(given, Sequence) else [given]
        return self._joined([self.runtime.encode_ids(self.tokenize(group)) for group in groups])

    def similarity(self, images: Embeddings, texts: Embeddings) -> Embeddings:
        """Cosines of embeddings, which need not have unit length.

        Args:
            images: (N, E).
            texts: (M, E).

        Returns:
            (N, M) float32 in [-1, 1] up to rounding.

        Raises:
            DataError: shapes do not fit.
        """
        images, texts = np.asarray(images, np.float32), np.asarray(texts, np.float32)
        if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
            raise DataError(f"images {images.shape} and texts {texts.shape}: expected (N, E) and (M, E), equally wide")
        return _unit(images) @ _unit(texts).T

    def logits(self, images: Embeddings, texts: Embeddings) -> Embeddings:
        """Scaled cosines plus the bias, if any, as the model was trained; arguments and errors as `similarity`."""
        return np.asarray(np.float32(self.scale) * self.similarity(images, texts) + np.float32(self.bias), np.float32)

    def tokenize(self, texts: str | Sequence[str]) -> NDArray[np.int32]:
        """The ids of texts, (M, L) int32 with L the model's context; one that is too long is cut.

        Raises:
            TextError: not strings.
        """
        return self.tokenizer(texts)

    def preprocess(self, source: ImageSource) -> NDArray[np.float32]:
        """What the model sees of one image: (3, S, S) float32, mean and deviation applied.

        Raises:
            ImageError: it cannot be read.
        """
        name = None if isinstance(source, str | Path) else "image 0"
        return preprocess(source, self.card.preprocessing, self.policy, name=name)

    def save(self, directory: str | Path) -> None:
        """Write weights and card as a directory that `wordsight.load` opens; it appears whole.

        Raises:
            OutputError: the place cannot be written, or holds files that are not a model's.
        """
        from wordsight.weights.formats.wordsight import save_directory

        save_directory(directory, self.model.state_dict(), self.card, self.files)

    @property
    def model(self) -> "CLIP":
        """The model on torch.

        Raises:
            ConfigError: it runs on another runtime.
        """
        model: CLIP | None = getattr(self.runtime, "model", None)
        if model is None:
            raise ConfigError(
                f"{self.card.name}: runs on {self.runtime.name}, where its weights cannot be read; "
                "load the model from which it was exported"
            )
        return model

    @property
    def scale(self) -> float:
        """What cosines are multiplied by: the inverse of the temperature."""
        return self.runtime.scale

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """What turns texts into ids, built when it is first asked for."""
        return build_tokenizer(self.card.tokenizer, self.files)

    @property
    def bias(self) -> float:
        """What is added to scaled cosines: SigLIP learns it, the others have none (0)."""
        return self.runtime.bias

    @cached_property
    def fingerprint(self) -> Fingerprint:
        """What decides the value of this encoder's embeddings, taken when it is first asked for."""
        return Fingerprint(
            weights=self.runtime.weights_hash,
            model=self.card.model,
            tokenizer=self.card.tokenizer,
            preprocessing=self.card.preprocessing,
            policy=self.policy,
            precision=self.runtime.precision,
        )

    def _joined(self, rows: list[Embeddings]) -> Embeddings:
        return np.concatenate(rows) if rows else np.empty((0, self.card.model.embed_dim), np.float32)


def _on_torch(model: "CLIP", preprocessing: Preprocessing) -> Runtime:
    from wordsight.encoder.torch_runtime import TorchRuntime  # torch comes late (design rule 9)

    return TorchRuntime(model, preprocessing)


def _groups(items: Iterable[T], size: int) -> Iterator[list[T]]:
    remaining = iter(items)
    while group := list(islice(remaining, size)):
        yield group


def _unit(embeddings: Embeddings) -> Embeddings:
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths > 0, lengths, 1), np.float32)
