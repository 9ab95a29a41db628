"""Pictures to a file of vectors: what was done is not done again.

A picture whose bytes were embedded before, under whatever name, keeps its vector: from the former file, or from the
parts that an interrupted run left in `.OUT.parts` beside it. Only what is new is decoded and encoded.
"""

import hashlib
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordsight.data.inputs import Item
from wordsight.embed.embedding_files import (
    Broken,
    Known,
    Row,
    check_out,
    read_known,
    write_parquet,
    writing_numpy,
)
from wordsight.errors import DataError, OutputError, PictureError
from wordsight.files import lock, open_whole
from wordsight.image import square_of
from wordsight.parallel import in_order

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

MOST_BROKEN = 1000
"""So many broken pictures are told; a million are too many to hold, and to read."""

AT_ONCE = 64
"""Pictures that are encoded together."""

_ROWS_IN_PART = 2048

RowsOf = Callable[["DualEncoder", Iterable[Item], Known], Iterator[Row]]
"""What turns items into rows, in order: `rows_here`, or other machines (`on_ray.py`)."""


@dataclass
class Embedding:
    """What `embed_files` did.

    Attributes:
        vectors: in the file.
        computed: of these, how many were not known before.
        num_broken: pictures without a vector.
        broken: the first `MOST_BROKEN` of them; the file has all.
    """

    vectors: int = 0
    computed: int = 0
    num_broken: int = 0
    broken: list[Broken] = field(default_factory=list)


class Prepared(NamedTuple):
    """A row, and the picture that it waits for: (S, S, 3) uint8, or None."""

    row: Row
    square: NDArray[np.uint8] | None = None


def embed_files(
    clip: "DualEncoder",
    items: Iterable[Item],
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
    rows_of: RowsOf | None = None,
) -> Embedding:
    """Embed pictures and write their vectors in the order of the items.

    Args:
        items: may stream; only a few hundred pictures and a few thousand new vectors are held.
        out: a `.parquet` or `.npy` file. What a former one has of the same pictures is taken over.
        progress: is told after each picture how many are done.
        rows_of: where the work is done; by default here.

    Raises:
        ConfigError: another kind of file.
        DataError: the former file is of another fingerprint, or no file of vectors; or not one picture could be read,
            and then nothing is written.
        OutputError: the place cannot be written; a former file stays.
    """
    check_out(out)
    parts = out.with_name(f".{out.name}.parts")
    with lock(parts / ".lock"):
        try:
            done = _embed(clip, partial(rows_of or rows_here, clip, items), out, parts, progress)
        except BaseException:
            if not any(parts.glob("*.parquet")):  # nothing worth keeping
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)
    return done


def _embed(
    clip: "DualEncoder",
    rows_of: Callable[[Known], Iterator[Row]],
    out: Path,
    parts: Path,
    progress: Callable[[int], None],
) -> Embedding:
    known = Known({})
    for path in [out, *sorted(parts.glob("*.parquet"))]:
        if path.exists():
            known.places.update(read_known(path, clip.fingerprint).places)
    done = Embedding()
    width = clip.card.model.embed_dim
    with closing(_kept(rows_of(known), clip, parts)) as kept:
        rows = _counted(kept, done, progress)
        if out.suffix == ".parquet":
            with open_whole(out) as file:
                write_parquet(file, rows, clip.fingerprint)
                _check(done)
        else:
            with writing_numpy(out, clip.fingerprint) as (file, numpy_rows):
                numpy_rows.write(file, rows, width)
                _check(done)
    return done


def rows_here(clip: "DualEncoder", items: Iterable[Item], known: Known) -> Iterator[Row]:
    """Each item's row, in order; what is not known is decoded and encoded here, some pictures at a time."""
    prepared = in_order(lambda item: prepare(clip, item, known), items, ahead=AT_ONCE)
    while group := list(islice(prepared, AT_ONCE)):
        squares = [one.square for one in group if one.square is not None]
        vectors = iter(clip.runtime.encode_squares(np.stack(squares)) if squares else ())
        for row, square in group:
            yield row if square is None else row._replace(vector=next(vectors), is_new=True)


def prepare(clip: "DualEncoder", item: Item, known: Known) -> Prepared:
    """An item's row where it is known or cannot be read; else the model's square of it beside."""
    row, picture = look_up(item, known)
    if picture is None:
        return Prepared(row)
    try:
        return Prepared(row, square_of(picture, clip.card.preprocessing, clip.policy, name=item.name))
    except PictureError as error:
        return Prepared(row._replace(error=str(error)))


def look_up(item: Item, known: Known) -> tuple[Row, bytes | NDArray[np.uint8] | None]:
    """An item's row where it is known or cannot be read; else what was read beside."""
    sha256 = item.sha256
    try:
        vector = known.vector(item.name, sha256)
        picture = None if vector is not None else item.read()
        if isinstance(picture, bytes):
            sha256 = hashlib.sha256(picture).hexdigest()
            vector = known.vector(item.name, sha256)
    except PictureError as error:
        return Row(item.name, sha256, None, str(error)), None
    return Row(item.name, sha256, vector), picture if vector is None else None


def _kept(rows: Iterator[Row], clip: "DualEncoder", parts: Path) -> Generator[Row, None, None]:
    """The rows, while those that are new are also written to parts, the last of them when the work ends early."""
    new: list[Row] = []
    number = len(list(parts.glob("*.parquet")))
    try:
        for row in rows:
            if row.is_new:
                new.append(row)
            if len(new) == _ROWS_IN_PART:
                _write_part(parts / f"{number:06d}.parquet", new, clip)
                new, number = [], number + 1
            yield row
    except BaseException:  # an interrupt, or a consumer that ended early
        with suppress(OutputError):  # a full disk, most likely; the first error is the one to tell
            _write_part(parts / f"{number:06d}.parquet", new, clip)
        raise


def _write_part(path: Path, rows: list[Row], clip: "DualEncoder") -> None:
    if rows:
        with open_whole(path) as file:
            write_parquet(file, iter(rows), clip.fingerprint)


def _counted(rows: Iterator[Row], done: Embedding, progress: Callable[[int], None]) -> Iterator[Row]:
    for row in rows:
        if row.vector is None:
            done.num_broken += 1
            if len(done.broken) < MOST_BROKEN:
                done.broken.append(Broken(row.path, row.error))
        else:
            done.vectors += 1
            done.computed += row.is_new
        yield row
        progress(done.vectors + done.num_broken)


def _check(done: Embedding) -> None:
    if not done.vectors:
        first = f"; the first: {done.broken[0].reason}" if done.broken else ""
        raise DataError(f"none of {done.num_broken} pictures could be read{first}")
