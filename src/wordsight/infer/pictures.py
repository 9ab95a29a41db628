"""Pictures in number: found in folders, and embedded although some of them may be broken."""

import heapq
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wordsight.data.in_order import in_order
from wordsight.data.sample import PICTURE_SUFFIXES
from wordsight.errors import DataError, PictureError
from wordsight.image import PictureSource, square_of

if TYPE_CHECKING:
    from wordsight.infer.dual_encoder import DualEncoder

_AT_ONCE = 64
_NAMES_AT_ONCE = 1 << 17


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


def find_pictures(places: Sequence[str | Path]) -> Iterator[Path]:
    """The pictures in folders and below, by suffix and in the order of their names, and files just as given.

    Hidden files and folders, and links to folders, are passed over; a folder that cannot be listed is given in place of
    its pictures. A million names in one folder stream: it is read several times, some names at a time.

    Raises:
        DataError: a folder without pictures.
    """
    for place in map(Path, places):
        if not place.is_dir():
            yield place
            continue
        found = False
        for path in _walk(place, _in_order):
            found = True
            yield path
        if not found:
            raise _nothing_in(place)


def count_pictures(places: Sequence[str | Path]) -> int:
    """How many `find_pictures` gives, without their order and so in one reading; errors as there."""
    total = 0
    for place in map(Path, places):
        count = sum(1 for _ in _walk(place, _names)) if place.is_dir() else 1
        if not count:
            raise _nothing_in(place)
        total += count
    return total


def _nothing_in(folder: Path) -> DataError:
    kinds = ", ".join(sorted(PICTURE_SUFFIXES))
    return DataError(f"{folder}: no pictures in this folder or below ({kinds}); choose another")


def _walk(folder: Path, names_of: Callable[[Path], Iterator[str]]) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        try:
            for name in names_of(folder):
                yield folder / name
            with os.scandir(folder) as entries:
                below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
            waiting += [folder / name for name in sorted(below, reverse=True) if not name.startswith(".")]
        except OSError:
            yield folder  # whoever reads it is told why it cannot be


def _in_order(folder: Path) -> Iterator[str]:
    """The pictures' names sorted, while no more than some are held."""
    after = ""
    while group := heapq.nsmallest(_NAMES_AT_ONCE, _names(folder, after)):
        yield from group
        if len(group) < _NAMES_AT_ONCE:
            return
        after = group[-1]


def _names(folder: Path, after: str = "") -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in entries:
            begin, _, suffix = entry.name.rpartition(".")
            is_picture = begin and begin[0] != "." and suffix.lower() in PICTURE_SUFFIXES
            if is_picture and entry.name > after and not _is_folder(entry):
                yield entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


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
