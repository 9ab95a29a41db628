"""Images to a file of embeddings: what was done is not done again.

A image whose bytes were embedded before, under whatever name, keeps its embedding: from the former file, or from the
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

from wordsight.embed.embedding_files import (
    Broken,
    Known,
    Row,
    check_out,
    read_known,
    write_parquet,
    writing_numpy,
)
from wordsight.errors import DataError, ImageError, OutputError
from wordsight.files import lock, open_atomic
from wordsight.image import ImageRef, load_pixels
from wordsight.parallel import ordered_map

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

MOST_BROKEN = 1000
"""So many broken images are told; a million are too many to hold, and to read."""

AT_ONCE = 64
"""Images that are encoded together."""

_ROWS_IN_PART = 2048

RowsOf = Callable[["DualEncoder", Iterable[ImageRef], Known], Iterator[Row]]
"""What turns items into rows, in order: `rows_here`, or other machines (`on_ray.py`)."""


@dataclass
class Embedding:
    """What `embed_files` did.

    Attributes:
        embeddings: in the file.
        computed: of these, how many were not known before.
        num_broken: images without a embedding.
        broken: the first `MOST_BROKEN` of them; the file has all.
    """

    embeddings: int = 0
    computed: int = 0
    num_broken: int = 0
    broken: list[Broken] = field(default_factory=list)


class Prepared(NamedTuple):
    """A row, and the image that it waits for: (S, S, 3) uint8, or None."""

    row: Row
    square: NDArray[np.uint8] | None = None


def embed_files(
    clip: "DualEncoder",
    items: Iterable[ImageRef],
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
    rows_of: RowsOf | None = None,
) -> Embedding:
    """Embed images and write their embeddings in the order of the items.

    Args:
        items: may stream; only a few hundred images and a few thousand new embeddings are held.
        out: a `.parquet` or `.npy` file. What a former one has of the same images is taken over.
        progress: is told after each image how many are done.
        rows_of: where the work is done; by default here.

    Raises:
        ConfigError: another kind of file.
        DataError: the former file is of another fingerprint, or no file of embeddings; or not one image could be read,
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
            with open_atomic(out) as file:
                write_parquet(file, rows, clip.fingerprint)
                _check(done)
        else:
            with writing_numpy(out, clip.fingerprint) as (file, numpy_rows):
                numpy_rows.write(file, rows, width)
                _check(done)
    return done


def rows_here(clip: "DualEncoder", items: Iterable[ImageRef], known: Known) -> Iterator[Row]:
    """Each item's row, in order; what is not known is decoded and encoded here, some images at a time."""
    prepared = ordered_map(lambda item: prepare(clip, item, known), items, ahead=AT_ONCE)
    while group := list(islice(prepared, AT_ONCE)):
        squares = [one.square for one in group if one.square is not None]
        embeddings = iter(clip.runtime.encode_pixels(np.stack(squares)) if squares else ())
        for row, square in group:
            yield row if square is None else row._replace(embedding=next(embeddings), is_new=True)


def prepare(clip: "DualEncoder", item: ImageRef, known: Known) -> Prepared:
    """An item's row where it is known or cannot be read; else the model's square of it beside."""
    row, image = look_up(item, known)
    if image is None:
        return Prepared(row)
    try:
        return Prepared(row, load_pixels(image, clip.card.preprocessing, clip.policy, name=item.name))
    except ImageError as error:
        return Prepared(row._replace(error=str(error)))


def look_up(item: ImageRef, known: Known) -> tuple[Row, bytes | NDArray[np.uint8] | None]:
    """An item's row where it is known or cannot be read; else what was read beside."""
    sha256 = item.sha256
    try:
        embedding = known.embedding(item.name, sha256)
        image = None if embedding is not None else item.read()
        if isinstance(image, bytes):
            sha256 = hashlib.sha256(image).hexdigest()
            embedding = known.embedding(item.name, sha256)
    except ImageError as error:
        return Row(item.name, sha256, None, str(error)), None
    return Row(item.name, sha256, embedding), image if embedding is None else None


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
        with open_atomic(path) as file:
            write_parquet(file, iter(rows), clip.fingerprint)


def _counted(rows: Iterator[Row], done: Embedding, progress: Callable[[int], None]) -> Iterator[Row]:
    for row in rows:
        if row.embedding is None:
            done.num_broken += 1
            if len(done.broken) < MOST_BROKEN:
                done.broken.append(Broken(row.path, row.error))
        else:
            done.embeddings += 1
            done.computed += row.is_new
        yield row
        progress(done.embeddings + done.num_broken)


def _check(done: Embedding) -> None:
    if not done.embeddings:
        first = f"; the first: {done.broken[0].reason}" if done.broken else ""
        raise DataError(f"none of {done.num_broken} images could be read{first}")
