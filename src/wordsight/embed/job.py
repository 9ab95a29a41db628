"""Embed a stream of images into a file, and do only the work that earlier runs have not done.

An image whose contents were embedded before, under whatever name, keeps its embedding: from the previous output file,
or from the parts that an interrupted run left next to it in the hidden directory `.OUT.parts`.
"""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.embed.embedding_files import (
    EmbeddingRow,
    UnreadableImage,
    check_output_path,
    parts_directory,
    second_path,
)
from wordsight.embed.previous import (
    DamagedEmbeddingsError,
    PreviousEmbeddings,
    finish_interrupted_write,
    read_embeddings,
)
from wordsight.embed.table_columns import carried_columns
from wordsight.embed.writers import Write, open_output, write_parquet
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.encoder.pipeline import embed_each
from wordsight.errors import DataError, OutputError, WeightsError, counted, encodable
from wordsight.files import open_atomic
from wordsight.image import ImageRef
from wordsight.locks import lock
from wordsight.progress import phase

if TYPE_CHECKING:
    from wordsight.encoder.dual_encoder import DualEncoder

MAX_LISTED_UNREADABLE = 1000
"""Number of unreadable images that a summary lists; a million would be too many to hold and to read."""

_ROWS_PER_PART = 2048

Embedder = Callable[["DualEncoder", Iterable[ImageRef], PreviousEmbeddings], Iterator[EmbeddingRow]]
"""Turns images into rows, in order: `embed_locally`, or `RayEmbedder` on a cluster."""


@dataclass
class EmbedSummary:
    """What `embed_files` did.

    Attributes:
        num_embeddings: embeddings in the file.
        num_computed: those among them that were computed in this run.
        num_unreadable: images without an embedding.
        unreadable: the first `MAX_LISTED_UNREADABLE` of them.
        unreadable_file: the file that lists all of them; None if there are none.
    """

    num_embeddings: int = 0
    num_computed: int = 0
    num_unreadable: int = 0
    unreadable: list[UnreadableImage] = field(default_factory=list)
    unreadable_file: Path | None = None


def embed_files(
    encoder: "DualEncoder",
    images: Iterable[ImageRef],
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
    embedder: Embedder | None = None,
    warn: Callable[[str], None] = lambda line: None,
    keep_unreadable: bool = False,
) -> EmbedSummary:
    """Embed images and write the embeddings to a file, in the order of the images.

    Args:
        encoder: the model.
        images: may be a stream; memory holds a few batches of images and a few thousand new embeddings.
        out: a `.parquet` or `.npy` file. Embeddings of the same images in an existing file are reused.
        progress: called after each image with the number of images done.
        embedder: where the work is done; by default in this process.
        warn: called with a line for each earlier file of embeddings that is damaged, before its images are embedded
            again.
        keep_unreadable: whether unreadable images are rows without an embedding in a `.parquet` file, instead of lines
            of the list `OUT.unreadable.jsonl` next to it.

    Raises:
        ConfigError: the name of the file ends neither in .parquet nor in .npy; or `keep_unreadable` with .npy.
        DataError: the existing file has another fingerprint or is not a file of embeddings; or no image could be read,
            and then nothing is written.
        OutputError: the path is not writable, or another process writes to it; an existing file is kept.
        WeightsError: the weights of the model were changed during the work.
    """
    check_output_path(out, keep_unreadable)
    parts = parts_directory(out)
    with lock(parts / ".lock"):
        try:
            previous = _read_previous(out, parts, encoder.fingerprint, warn)
            rows = (embedder or embed_locally)(encoder, images, previous)
            with open_output(out, encoder.fingerprint, keep_unreadable) as write:
                summary = _write(write, parts, map(_with_utf8_texts, rows), encoder, progress)
        except BaseException:
            if not any(parts.glob("*.parquet")):  # nothing to resume from
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)
    if summary.num_unreadable:
        summary.unreadable_file = out if keep_unreadable else second_path(out)
    return summary


def embed_locally(
    encoder: "DualEncoder", images: Iterable[ImageRef], previous: PreviousEmbeddings
) -> Iterator[EmbeddingRow]:
    """Embed images in this process and yield their rows, in order."""
    for embedded in embed_each(encoder, images, previous.find):
        row = EmbeddingRow(embedded.source.name, embedded.sha256, embedded.embedding, embedded.error, embedded.is_new)
        yield row._replace(columns=carried_columns(embedded.source))


@phase("reading earlier embeddings")
def _read_previous(out: Path, parts: Path, fingerprint: Fingerprint, warn: Callable[[str], None]) -> PreviousEmbeddings:
    """Read the embeddings of an earlier file and of interrupted runs, except for damaged ones."""
    finish_interrupted_write(out)
    previous = PreviousEmbeddings()
    for path in [out, *sorted(parts.glob("*.parquet"))]:
        if not path.exists():
            continue
        try:
            stored = read_embeddings(path, fingerprint)
        except DamagedEmbeddingsError as error:
            warn(f"{error}; its images are embedded again")
            continue
        if stored.num_damaged:
            warn(f"{path}: {stored.num_damaged:,} rows are not embeddings of unit length; they are embedded again")
        previous.update(stored)
    return previous


def _with_utf8_texts(row: EmbeddingRow) -> EmbeddingRow:
    """Return a row that any file format can store: bytes of file names that are not UTF-8 become escapes."""
    return row._replace(path=encodable(row.path), error=encodable(row.error))


def _write(
    write: Write,
    parts: Path,
    new_rows: Iterator[EmbeddingRow],
    encoder: "DualEncoder",
    progress: Callable[[int], None],
) -> EmbedSummary:
    fingerprint = encoder.fingerprint
    summary = EmbedSummary()
    with closing(_save_parts(new_rows, encoder, parts)) as saved:
        write(_count(saved, summary, progress))
        _require_embeddings(summary)
        _require_fingerprint(encoder, fingerprint)
    return summary


def _save_parts(
    rows: Iterator[EmbeddingRow], encoder: "DualEncoder", parts: Path
) -> Generator[EmbeddingRow, None, None]:
    """Yield the rows, and write new ones to part files as they come; the last part only if the work ends early."""
    fingerprint = encoder.fingerprint
    new: list[EmbeddingRow] = []
    number = 1 + max((int(path.stem) for path in parts.glob("*.parquet") if path.stem.isdecimal()), default=-1)

    def write_part() -> None:
        nonlocal new, number
        _require_fingerprint(encoder, fingerprint)
        if new:
            with open_atomic(parts / f"{number:06d}.parquet") as file:
                write_parquet(file, iter(new), fingerprint)
        new, number = [], number + 1

    try:
        for row in rows:
            if row.is_new:
                new.append(row)
            if len(new) == _ROWS_PER_PART:
                write_part()
            yield row
    except BaseException:  # an interrupt, or the consumer stopped early
        with suppress(OutputError, WeightsError):  # most likely a full disk; report the original error
            write_part()
        raise


def _require_fingerprint(encoder: "DualEncoder", fingerprint: Fingerprint) -> None:
    """Refuse to store embeddings of a model whose weights have changed since the first of them."""
    if encoder.fingerprint != fingerprint:
        raise WeightsError(
            f"{encoder.card.name}: its weights were changed while images were embedded; embed them again"
        )


def _count(
    rows: Iterator[EmbeddingRow], summary: EmbedSummary, progress: Callable[[int], None]
) -> Iterator[EmbeddingRow]:
    for row in rows:
        if row.embedding is None:
            summary.num_unreadable += 1
            if len(summary.unreadable) < MAX_LISTED_UNREADABLE:
                summary.unreadable.append(UnreadableImage(row.path, row.error))
        else:
            summary.num_embeddings += 1
            summary.num_computed += row.is_new
        yield row
        progress(summary.num_embeddings + summary.num_unreadable)


def _require_embeddings(summary: EmbedSummary) -> None:
    if not summary.num_embeddings:
        first = f"; the first: {summary.unreadable[0].reason}" if summary.unreadable else ""
        raise DataError(f"none of {counted(summary.num_unreadable, 'image')} could be read{first}")
