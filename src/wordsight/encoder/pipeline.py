"""Pictures in number: found in folders, and embedded although some of them may be broken."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.errors import PictureError
from wordsight.image import PictureSource, square_of
from wordsight.parallel import in_order

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

_AT_ONCE = 64


@dataclass(frozen=True, eq=False)
class Embedded:
    """A picture and its vector, (E,) float32 of unit length; or None, and the reason."""

    source: PictureSource
    vector: NDArray[np.float32] | None
    error: str = ""


def as_pictures(sources: PictureSource | Iterable[PictureSource]) -> Iterable[PictureSource]:
    """One picture as a list of one; what is no picture at all too, so that decoding says what was expected."""
    if isinstance(sources, np.ndarray):
        return sources if sources.ndim in (1, 4) else [sources]
    if isinstance(sources, str | Path | bytes | Image.Image) or not isinstance(sources, Iterable):
        return [sources]
    return sources


def embed_each(clip: "DualEncoder", sources: Iterable[PictureSource]) -> Iterator[Embedded]:
    """Embed pictures, in order; a broken one is given its reason and does not stop the others.

    While a group is encoded, the next is read and decoded by as many threads as there are processors. Two groups are
    held, whatever the number of pictures.
    """
    prepared = in_order(lambda item: _prepare(clip, *item), enumerate(sources), ahead=_AT_ONCE)
    while group := list(islice(prepared, _AT_ONCE)):
        yield from _encode(clip, group)


class _Prepared(NamedTuple):
    """A picture as the model's square, (S, S, 3) uint8; or None, and the reason."""

    source: PictureSource
    square: NDArray[np.uint8] | None
    error: str = ""


def _prepare(clip: "DualEncoder", number: int, source: PictureSource) -> _Prepared:
    name = None if isinstance(source, str | Path) else f"picture {number}"
    try:
        return _Prepared(source, square_of(source, clip.card.preprocessing, clip.policy, name=name))
    except PictureError as error:
        return _Prepared(source, None, str(error))


def _encode(clip: "DualEncoder", prepared: Sequence[_Prepared]) -> Iterator[Embedded]:
    squares = [one.square for one in prepared if one.square is not None]
    vectors = iter(clip.runtime.encode_squares(np.stack(squares)) if squares else ())
    for one in prepared:
        yield Embedded(one.source, None if one.square is None else next(vectors), one.error)
