"""The embeddings of labelled images and of their texts, from a `DualEncoder` or any object with the same two methods.

Images are streamed: memory holds a few batches of them, and the embeddings of all. Each image file is hashed while it
is read, so that scores can state the data that they were computed from.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.encoder import DualEncoder
from wordsight.encoder.pipeline import EmbeddedImage, embed_each
from wordsight.errors import DataError, ImageError
from wordsight.image import ImageRef, decode
from wordsight.parallel import ordered_map
from wordsight.progress import tracked
from wordsight.zeroshot import ZeroShotClassifier, embed_ensembles

_BATCH_SIZE = 64


class Encoder(Protocol):
    """What can be evaluated: a `DualEncoder`, or an object of the user's with these methods."""

    def embed_images(self, sources: Any) -> NDArray[np.float32]:
        """Return (N, E) embeddings of N images; other objects than a `DualEncoder` get a list of RGB Pillow images."""

    def embed_texts(self, texts: Any) -> NDArray[np.float32]:
        """Return (M, E) embeddings of a list of M texts."""


@dataclass(eq=False)
class EmbeddedImages:
    """The readable images of a stream.

    Attributes:
        embeddings: (N, E) float32, unit length.
        indices: (N,) position of each in the stream.
        digests: SHA-256 of the file of each.
        unreadable: position -> reason, for the others.
    """

    embeddings: NDArray[np.float32]
    indices: NDArray[np.int64]
    digests: list[str]
    unreadable: dict[int, str] = field(default_factory=dict)


def embed_image_stream(encoder: Encoder, images: Iterable[ImageRef], total: int) -> EmbeddedImages:
    """Embed a stream of images, and list those that cannot be read.

    Args:
        encoder: the model.
        images: the stream.
        total: number of images, for the display of progress.

    Raises:
        DataError: the object returns something other than one finite embedding per image.
        WeightsError: the model returns numbers that are not finite.
    """
    embed = embed_each(encoder, images, _find_none) if isinstance(encoder, DualEncoder) else _embed(encoder, images)
    rows, indices, digests = list[NDArray[np.float32]](), list[int](), list[str]()
    unreadable: dict[int, str] = {}
    for index, embedded in enumerate(tracked(embed, "embedding images", "images", total)):
        if embedded.embedding is None:
            unreadable[index] = embedded.error
            continue
        rows.append(embedded.embedding)
        indices.append(index)
        digests.append(embedded.sha256)
    image_NE = np.stack(rows) if rows else np.empty((0, 1), np.float32)
    return EmbeddedImages(image_NE, np.array(indices, np.int64), digests, unreadable)


def embed_text_list(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    """Embed texts: (M, E) float32; errors as for `embed_image_stream`, and TextError."""
    if isinstance(encoder, DualEncoder):
        return encoder.embed_texts(texts)
    rows = []
    for start in tracked(range(0, len(texts), _BATCH_SIZE), "embedding texts", "batches"):
        batch = texts[start : start + _BATCH_SIZE]
        rows.append(_checked(encoder.embed_texts(batch), len(batch), "embed_texts"))
    return np.concatenate(rows)


def embed_classes(encoder: Encoder, classes: Sequence[tuple[str, ...]], templates: tuple[str, ...]) -> NDArray[Any]:
    """Embed the names of classes in templates: (K, E) float32, unit length, as `ZeroShotClassifier` does."""
    if isinstance(encoder, DualEncoder):
        return ZeroShotClassifier(encoder, classes, templates=templates, repeated_labels=True).weights
    return embed_ensembles(partial(embed_text_list, encoder), classes, templates, _BATCH_SIZE)


def _find_none(name: str, sha256: str) -> None:
    """Find no earlier embedding of any image; the pipeline hashes files only if earlier embeddings are looked up."""


def _embed(encoder: Encoder, images: Iterable[ImageRef]) -> Iterator[EmbeddedImage[ImageRef]]:
    """Embed with an object that knows neither `ImageRef`s nor unreadable images."""
    prepared = ordered_map(_prepare, images, ahead=_BATCH_SIZE)
    while batch := list(islice(prepared, _BATCH_SIZE)):
        pixels = [image for _, image, _, _ in batch if image is not None]
        computed = iter(_checked(encoder.embed_images(pixels), len(pixels), "embed_images") if pixels else ())
        for ref, image, error, sha256 in batch:
            yield EmbeddedImage(ref, None if image is None else next(computed), error, sha256)


def _prepare(ref: ImageRef) -> tuple[ImageRef, Image.Image | None, str, str]:
    """Read and decode an image: the reference, the image or None, the reason, and the hash of the file."""
    sha256 = ref.sha256
    try:
        content = ref.read()
        if isinstance(content, bytes):
            sha256 = hashlib.sha256(content).hexdigest()
        return ref, Image.fromarray(decode(content, name=ref.name)), "", sha256
    except ImageError as error:
        return ref, None, str(error), sha256


def _checked(embeddings: Any, num_rows: int, method: str) -> NDArray[np.float32]:
    """Return (N, E) embeddings in float32, scaled to unit length."""
    rows = np.asarray(embeddings, np.float32)
    if rows.ndim != 2 or len(rows) != num_rows:
        raise DataError(f"{method} returned an array {rows.shape} for {num_rows} inputs; expected ({num_rows}, E)")
    if not np.isfinite(rows).all():
        raise DataError(f"{method} returned numbers that are not finite; expected embeddings")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)
