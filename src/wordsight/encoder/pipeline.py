"""The one path from images to embeddings: read, decode, preprocess, batch, encode.

`DualEncoder.embed_images`, `ZeroShotClassifier.classify` and `wordsight embed` all use it, so they agree on every
embedding and on every error. An unreadable image is returned with the reason and does not stop the others.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.encoder.runtime import Runtime
from wordsight.errors import ImageError
from wordsight.image import ImageRef, ImageSource, Policy, Preprocessing, load_pixels
from wordsight.parallel import ordered_map
from wordsight.weights import Card

AnyImage: TypeAlias = ImageSource | ImageRef
"""Everything that the pipeline accepts as an image."""

AnyImageT = TypeVar("AnyImageT", bound=AnyImage)

FindEmbedding = Callable[[str, str], NDArray[np.float32] | None]
"""Takes the name of an image and the SHA-256 of its file; returns the embedding of an earlier run, or None."""


class ImageEncoder(Protocol):
    """The attributes of a `DualEncoder` that the pipeline reads."""

    @property
    def runtime(self) -> Runtime: ...  # noqa: D102
    @property
    def card(self) -> Card: ...  # noqa: D102
    @property
    def policy(self) -> Policy: ...  # noqa: D102
    @property
    def batch_size(self) -> int: ...  # noqa: D102


@dataclass(frozen=True, eq=False)
class EmbeddedImage(Generic[AnyImageT]):
    """An image and its embedding, or the reason why it has none.

    Attributes:
        source: the image as it was passed in.
        embedding: (E,) float32, unit length; None for an unreadable image.
        error: why the image is unreadable, otherwise empty.
        sha256: of the image file. Set for an `ImageRef` if earlier embeddings are looked up, otherwise empty.
        is_new: whether the embedding was computed now, not found among earlier ones.
    """

    source: AnyImageT
    embedding: NDArray[np.float32] | None
    error: str = ""
    sha256: str = ""
    is_new: bool = False


class PreparedImage(NamedTuple):
    """An image before it is encoded: has pixels, or an embedding, or an error.

    Attributes:
        pixels: (S, S, 3) uint8, the input of the model.
        embedding: (E,) float32, if it was computed earlier.
        error: why the image is unreadable.
        sha256: see `EmbeddedImage`.
    """

    pixels: NDArray[np.uint8] | None = None
    embedding: NDArray[np.float32] | None = None
    error: str = ""
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class ImagePipeline:
    """Decodes images in threads and encodes them in batches.

    Attributes:
        runtime: computes the embeddings.
        preprocessing: of the model.
        policy: how image files are decoded.
        batch_size: number of images encoded together; as many are decoded ahead.
    """

    runtime: Runtime
    preprocessing: Preprocessing
    policy: Policy
    batch_size: int

    @classmethod
    def of(cls, encoder: ImageEncoder) -> "ImagePipeline":
        """Return the pipeline of an encoder."""
        return cls(encoder.runtime, encoder.card.preprocessing, encoder.policy, encoder.batch_size)

    def embed(
        self, images: Iterable[AnyImageT], find_embedding: FindEmbedding | None = None
    ) -> Iterator[EmbeddedImage[AnyImageT]]:
        """Embed a stream of images; see `embed_each`."""

        def prepare(numbered: tuple[int, AnyImageT]) -> tuple[AnyImageT, PreparedImage]:
            number, image = numbered
            return image, self.prepare(image, number, find_embedding)

        prepared = ordered_map(prepare, enumerate(images), ahead=self.batch_size)
        while batch := list(islice(prepared, self.batch_size)):
            yield from self._encode(batch)

    def prepare(self, image: AnyImage, number: int = 0, find_embedding: FindEmbedding | None = None) -> PreparedImage:
        """Read, decode and preprocess one image.

        Args:
            image: the image.
            number: position in the input; errors call an image without a name `image <number>`.
            find_embedding: returns the embedding of an earlier run; what has one is not decoded. Used for `ImageRef`s.
        """
        name, sha256 = None if isinstance(image, str | Path) else f"image {number}", ""
        try:
            if isinstance(image, ImageRef):
                name = image.name
                found, content = read_ref(image, find_embedding)
                if content is None:
                    return found
                image, sha256 = content, found.sha256
            return PreparedImage(load_pixels(image, self.preprocessing, self.policy, name=name), sha256=sha256)
        except ImageError as error:
            return PreparedImage(error=str(error), sha256=sha256)

    def _encode(self, batch: Sequence[tuple[AnyImageT, PreparedImage]]) -> Iterator[EmbeddedImage[AnyImageT]]:
        pixels = [prepared.pixels for _, prepared in batch if prepared.pixels is not None]
        computed = iter(self.runtime.encode_pixels(np.stack(pixels)) if pixels else ())
        for image, prepared in batch:
            is_new = prepared.pixels is not None
            embedding = next(computed) if is_new else prepared.embedding
            yield EmbeddedImage(image, embedding, prepared.error, prepared.sha256, is_new)


def embed_each(
    encoder: ImageEncoder, images: Iterable[AnyImageT], find_embedding: FindEmbedding | None = None
) -> Iterator[EmbeddedImage[AnyImageT]]:
    """Embed images in order; an unreadable one is returned with the reason and does not stop the others.

    One thread per CPU reads and decodes the next batch while the current one is encoded. At most two batches are held
    in memory, whatever the number of images.

    Args:
        encoder: usually a `DualEncoder`.
        images: may be a stream.
        find_embedding: looks up the embedding of an earlier run, by the name of an `ImageRef` and the SHA-256 of its
            file. Images that have one are neither decoded nor encoded.

    Raises:
        WeightsError: the model returns numbers that are not finite.
    """
    return ImagePipeline.of(encoder).embed(images, find_embedding)


def read_ref(
    image: ImageRef, find_embedding: FindEmbedding | None = None
) -> tuple[PreparedImage, bytes | NDArray[np.uint8] | None]:
    """Read an image unless its embedding is known.

    Returns:
        What is known about the image, and the content to decode: the bytes of a file or (H, W, 3) uint8 pixels. The
        content is None if the embedding was computed earlier or the image is unreadable.
    """
    sha256 = image.sha256
    try:
        embedding = find_embedding(image.name, sha256) if find_embedding else None
        content = None if embedding is not None else image.read()
    except ImageError as error:
        return PreparedImage(error=str(error), sha256=sha256), None
    if find_embedding and isinstance(content, bytes):
        sha256 = hashlib.sha256(content).hexdigest()
        embedding = find_embedding(image.name, sha256)
    return PreparedImage(embedding=embedding, sha256=sha256), content if embedding is None else None


def as_images(sources: AnyImage | Iterable[AnyImage]) -> Iterable[AnyImage]:
    """Turn a single image into a list of one.

    A single object that is not an image becomes a list of one as well, so that decoding it raises the helpful error.
    """
    if isinstance(sources, np.ndarray):
        return sources if sources.ndim in (1, 4) else [sources]
    if isinstance(sources, str | Path | bytes | Image.Image | ImageRef) or not isinstance(sources, Iterable):
        return [sources]
    return sources
