"""Images in number: found in directories, and embedded although some of them may be broken."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.errors import ImageError
from wordsight.image import ImageRef, ImageSource, load_pixels
from wordsight.parallel import ordered_map

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Embedded:
    """A image and its embedding, (E,) float32 of unit length; or None, and the reason."""

    source: ImageSource | ImageRef
    embedding: NDArray[np.float32] | None
    error: str = ""


def as_images(
    sources: ImageSource | ImageRef | Iterable[ImageSource | ImageRef],
) -> Iterable[ImageSource | ImageRef]:
    """One image as a list of one; what is no image at all too, so that decoding says what was expected."""
    if isinstance(sources, np.ndarray):
        return sources if sources.ndim in (1, 4) else [sources]
    if isinstance(sources, str | Path | bytes | Image.Image | ImageRef) or not isinstance(sources, Iterable):
        return [sources]
    return sources


def embed_each(clip: "DualEncoder", sources: Iterable[ImageSource | ImageRef]) -> Iterator[Embedded]:
    """Embed images, in order; a broken one is given its reason and does not stop the others.

    While a group is encoded, the next is read and decoded by as many threads as there are processors. Two groups are
    held, whatever the number of images.
    """
    prepared = ordered_map(lambda item: _prepare(clip, *item), enumerate(sources), ahead=_AT_ONCE)
    while group := list(islice(prepared, _AT_ONCE)):
        yield from _encode(clip, group)


class _Prepared(NamedTuple):
    """A image as the model's square, (S, S, 3) uint8; or None, and the reason."""

    source: ImageSource | ImageRef
    square: NDArray[np.uint8] | None
    error: str = ""


def _prepare(clip: "DualEncoder", number: int, source: ImageSource | ImageRef) -> _Prepared:
    name = None if isinstance(source, str | Path) else f"image {number}"
    try:
        if isinstance(source, ImageRef):
            pixels = load_pixels(source.read(), clip.card.preprocessing, clip.policy, name=source.name)
            return _Prepared(source, pixels)
        return _Prepared(source, load_pixels(source, clip.card.preprocessing, clip.policy, name=name))
    except ImageError as error:
        return _Prepared(source, None, str(error))


def _encode(clip: "DualEncoder", prepared: Sequence[_Prepared]) -> Iterator[Embedded]:
    squares = [one.square for one in prepared if one.square is not None]
    embeddings = iter(clip.runtime.encode_pixels(np.stack(squares)) if squares else ())
    for one in prepared:
        yield Embedded(one.source, None if one.square is None else next(embeddings), one.error)
