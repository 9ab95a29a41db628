"""`DualEncoder`: a model with its tokenizer and preprocessing, the interface for all higher layers.

A test freezes its public methods. Everything that makes inference fast is hidden behind them.
"""

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence, Sized
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np
from numpy.typing import NDArray

from wordsight.encoder.batch_sizes import batch_sizes
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.encoder.pipeline import AnyImage, as_images, embed_each
from wordsight.encoder.runtime import Embeddings, Runtime, is_runtime
from wordsight.errors import ConfigError, DataError, ImageError, WeightsError, counted, nearest
from wordsight.image import ImageSource, Policy, Preprocessing, preprocess
from wordsight.progress import tracked
from wordsight.text import TextTokenizer, build_tokenizer
from wordsight.text.tokenizer import as_list
from wordsight.weights import Card

if TYPE_CHECKING:
    from wordsight.model import CLIP

_NUM_QUOTED_CHARACTERS = 60


class DualEncoder:
    """Embeds images and texts in one space, where cosine similarity measures how well they match.

    `wordsight.load` returns one; constructing it directly is for models built in Python. Embeddings are NumPy arrays of
    unit length, and an embedding does not depend on the rest of its batch (to within 1e-5 in float32).

    ```python
    clip = wordsight.load("openai/ViT-B-32")
    images = clip.embed_images(["cat.jpg", "dog.jpg"])        # (2, E) float32
    texts = clip.embed_texts(["a photo of a cat"])            # (1, E) float32
    clip.similarity(images, texts)                            # (2, 1), cosine similarity
    ```

    Args:
        model: a `wordsight.model.CLIP`, used on its device and in its precision. It is not copied, and its training or
            evaluation mode is preserved. Or a `Runtime`.
        card: describes the model: architecture, preprocessing, tokenizer, name, licence.
        policy: how image files are decoded: `viewer`, as a person sees them (EXIF rotation applied, alpha over white),
            or `published`, as the published pipelines do.
        files: contents of the tokenizer's files by name, if it is not the published CLIP tokenizer.
        batch_size: number of images encoded together; by default the one for the device in `encoder/batch_sizes.py`.

    Attributes:
        runtime: computes the embeddings.
        card: as above.
        policy: as above.
        files: as above.
        batch_size: as above; the device's default if none was given.

    Raises:
        ConfigError: unknown policy, a batch size below 1, or a tokenizer file that is missing or broken.
    """

    def __init__(
        self,
        model: "CLIP | Runtime",
        card: Card,
        policy: Policy = "viewer",
        files: Mapping[str, bytes] | None = None,
        batch_size: int | None = None,
    ) -> None:
        check_options(policy, batch_size)
        self.runtime: Runtime = model if is_runtime(model) else _torch_runtime(cast("CLIP", model), card.preprocessing)
        self.card = card
        self.policy = policy
        self.files = dict(files or {})
        self.batch_size = batch_size or batch_sizes(self.runtime.device_type).images
        if card.tokenizer.file:
            _ = self.tokenizer  # report a broken file now; building the published tokenizer (40 ms) can wait

    def embed_images(self, sources: AnyImage | Iterable[AnyImage]) -> Embeddings:
        """Embed images.

        Args:
            sources: N images, or a single one: paths, bytes of image files, Pillow images, uint8 arrays ((H, W, 3) RGB,
                (H, W) gray or (H, W, 4) RGBA) and `ImageRef`s, in any mixture.

        Returns:
            (N, E) float32, unit length.

        Raises:
            ImageError: an image is unreadable. To skip such images, use `ZeroShotClassifier.classify` with
                `on_unreadable` or `wordsight embed`.
            WeightsError: the model returns numbers that are not finite.
        """
        rows = []
        images = as_images(sources)
        if isinstance(images, Sized) and len(images) > self.batch_size:
            images = tracked(images, "embedding images", "images")
        for embedded in embed_each(self, images):
            if embedded.embedding is None:
                raise ImageError(embedded.error)
            rows.append(embedded.embedding[None])
        return self._concatenate(rows)

    def embed_texts(self, texts: str | Sequence[str], truncate: bool = True) -> Embeddings:
        """Embed texts.

        Args:
            texts: M strings, or a single one.
            truncate: whether to truncate texts that are longer than the model's context, as published, with one warning
                that states their number, instead of raising. Texts that differ only after the end of the context have
                equal embeddings.

        Returns:
            (M, E) float32, unit length.

        Raises:
            TextError: something is not a string, or a text is too long and `truncate` is false.
            WeightsError: the model returns numbers that are not finite.
        """
        listed = as_list(texts)
        if not truncate:
            self.tokenizer(listed, truncate=False)
        size = batch_sizes(self.runtime.device_type).tokenised_texts
        rows: list[Embeddings] = []
        truncated: list[str] = []
        starts = range(0, len(listed), size)
        for start in tracked(starts, "embedding texts", "batches") if len(starts) > 1 else starts:
            batch, indices = listed[start : start + size], list[int]()
            rows.append(self.runtime.encode_ids(self.tokenizer(batch, on_truncated=indices.append)))
            truncated += [batch[index] for index in indices]
        if truncated:
            warn_truncated(len(truncated), len(listed), truncated[0], self.card.tokenizer.context_length)
        return self._concatenate(rows)

    def similarity(self, images: Embeddings, texts: Embeddings, texts_are_unit: bool = False) -> Embeddings:
        """Cosine similarity of embeddings, which need not have unit length.

        Args:
            images: (N, E).
            texts: (M, E).
            texts_are_unit: whether the texts are known to have unit length; saves normalising many texts for each call.

        Returns:
            (N, M) float32 in [-1, 1] up to rounding.

        Raises:
            DataError: the shapes do not match.
        """
        images, texts = np.asarray(images, np.float32), np.asarray(texts, np.float32)
        if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1]:
            raise DataError(
                f"images {images.shape} and texts {texts.shape}: expected (N, E) and (M, E) with the same E; "
                "pass embeddings of one model"
            )
        return unit_rows(images) @ (texts if texts_are_unit else unit_rows(texts)).T

    def logits(self, images: Embeddings, texts: Embeddings, texts_are_unit: bool = False) -> Embeddings:
        """Logits as in training: logit scale times cosine similarity, plus the logit bias if the model has one.

        Arguments, result and errors are those of `similarity`, except that the values are not bounded by 1.

        Raises:
            WeightsError: the logit scale or the logit bias is not a finite number.
        """
        similarity = self.similarity(images, texts, texts_are_unit)
        return np.asarray(np.float32(self.scale) * similarity + np.float32(self.bias), np.float32)

    def tokenize(self, texts: str | Sequence[str], truncate: bool = True) -> NDArray[np.int32]:
        """Tokenize texts for this model: (M, L) int32, where L is its context length.

        Args:
            texts: M strings, or a single one.
            truncate: whether to truncate texts that are too long, instead of raising.

        Raises:
            TextError: something is not a string, or a text is too long and `truncate` is false.
        """
        return self.tokenizer(texts, truncate)

    def preprocess(self, source: ImageSource) -> NDArray[np.float32]:
        """Decode and preprocess one image to the model's input: (3, S, S) float32, normalised by mean and deviation.

        Raises:
            ImageError: the image is unreadable.
        """
        name = None if isinstance(source, str | Path) else "image 0"
        return preprocess(source, self.card.preprocessing, self.policy, name=name)

    def save(self, directory: str | Path) -> None:
        """Write weights, card and tokenizer to a directory that `wordsight.load` reads.

        The directory appears complete or not at all. A model saved there earlier is replaced.

        Raises:
            OutputError: the path is not writable, or the directory holds files that do not belong to a model.
            ConfigError: the model runs on ONNX Runtime, where its weights are not accessible.
        """
        from wordsight.weights.formats.wordsight import save_directory

        save_directory(directory, self.model.state_dict(), self.card, self.files)

    @property
    def model(self) -> "CLIP":
        """The torch module, with `encode_image`, `encode_text` and `forward`.

        Raises:
            ConfigError: the model runs on another runtime.
        """
        model: CLIP | None = getattr(self.runtime, "model", None)
        if model is None:
            raise ConfigError(
                f"{self.card.name}: runs on {self.runtime.name}, where its weights are not accessible; "
                "load the model from which it was exported"
            )
        return model

    @property
    def scale(self) -> float:
        """The logit scale, the inverse of the softmax temperature.

        Raises:
            WeightsError: it is not a finite number.
        """
        return self._finite("logit scale", self.runtime.scale)

    @property
    def bias(self) -> float:
        """The logit bias that is added to scaled similarities. SigLIP learns one; it is 0 for other models."""
        return self._finite("logit bias", self.runtime.bias)

    @cached_property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer; built on first use."""
        vocabulary_size = self.card.model.text.vocabulary_size
        return build_tokenizer(self.card.tokenizer, self.files, vocabulary_size)

    @property
    def fingerprint(self) -> Fingerprint:
        """Everything that determines the value of this encoder's embeddings.

        The weights are hashed on first use, and again after they have been changed in place.
        """
        return Fingerprint(
            weights=self.runtime.weights_hash,
            model=self.card.model,
            tokenizer=self.card.tokenizer,
            preprocessing=self.card.preprocessing,
            policy=self.policy,
            precision=self.runtime.precision,
        )

    def _finite(self, name: str, value: float) -> float:
        if not math.isfinite(value):
            raise WeightsError(
                f"{self.card.name}: its {name} is {value}, not a finite number: the weights are damaged, or the "
                "training diverged"
            )
        return value

    def _concatenate(self, rows: list[Embeddings]) -> Embeddings:
        return np.concatenate(rows) if rows else np.empty((0, self.card.model.embed_dim), np.float32)


def check_options(policy: str, batch_size: int | None) -> None:
    """Refuse an unknown policy and an impossible batch size.

    Raises:
        ConfigError: the message says what was expected.
    """
    policies = get_args(Policy)
    if policy not in policies:
        raise ConfigError(f"image policy {policy!r}: expected {' or '.join(policies)}{nearest(policy, policies)}")
    if batch_size is not None and batch_size < 1:
        raise ConfigError(f"batch size {batch_size}: expected at least 1")


def _torch_runtime(model: "CLIP", preprocessing: Preprocessing) -> Runtime:
    from wordsight.encoder.torch_runtime import TorchRuntime  # imports torch, which an exported model does not need

    return TorchRuntime(model, preprocessing)


def warn_truncated(num_truncated: int, num_texts: int, example: str, context_length: int) -> None:
    """Warn that texts are longer than the context of a model."""
    are = "is" if num_truncated == 1 else "are"
    warnings.warn(
        f"{num_truncated:,} of {counted(num_texts, 'text')} {are} longer than the model's context of "
        f"{context_length} ids and truncated; the first begins with {example[:_NUM_QUOTED_CHARACTERS]!r}",
        stacklevel=3,
    )


def unit_rows(embeddings: Embeddings) -> Embeddings:
    """Return the rows of (N, E) scaled to unit length; rows of zeros are unchanged."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray(embeddings / np.where(lengths > 0, lengths, 1), np.float32)
