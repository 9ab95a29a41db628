"""Embed a stream of images into a file, and do only the work that earlier runs have not done.

An image whose contents were embedded before, under whatever name, keeps its embedding: from the previous output file,
or from the parts that an interrupted run left next to it in the hidden directory `.OUT.parts`.
"""

import shutil
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from wordsight.embed.embedding_files import (
    EmbeddingRow,
    PreviousEmbeddings,
    UnreadableImage,
    check_output_path,
    open_numpy,
    read_embeddings,
    write_parquet,
)
from wordsight.encoder.fingerprint import Fingerprint
from wordsight.encoder.pipeline import embed_each
from wordsight.errors import DataError, OutputError, counted
from wordsight.files import lock, open_atomic
from wordsight.image import ImageRef

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
        unreadable: the first `MAX_LISTED_UNREADABLE` of them; the file lists all.
    """

    num_embeddings: int = 0
    num_computed: int = 0
    num_unreadable: int = 0
    unreadable: list[UnreadableImage] = field(default_factory=list)


def embed_files(
    encoder: "DualEncoder",
    images: Iterable[ImageRef],
    out: Path,
    progress: Callable[[int], None] = lambda done: None,
    embedder: Embedder | None = None,
) -> EmbedSummary:
    """Embed images and write the embeddings to a file, in the order of the images.

    Args:
        encoder: the model.
        images: may be a stream; memory holds a few batches of images and a few thousand new embeddings.
        out: a `.parquet` or `.npy` file. Embeddings of the same images in an existing file are reused.
        progress: called after each image with the number of images done.
        embedder: where the work is done; by default in this process.

    Raises:
        ConfigError: the name of the file ends neither in .parquet nor in .npy.
        DataError: the existing file has another fingerprint or is not a file of embeddings; or no image could be read,
            and then nothing is written.
        OutputError: the path is not writable, or another process writes to it; an existing file is kept.
    """
    check_output_path(out)
    parts = out.with_name(f".{out.name}.parts")
    with lock(parts / ".lock"):
        try:
            summary = _write_output(out, parts, partial(embedder or embed_locally, encoder, images), encoder, progress)
        except BaseException:
            if not any(parts.glob("*.parquet")):  # nothing to resume from
                shutil.rmtree(parts, ignore_errors=True)
            raise
        shutil.rmtree(parts, ignore_errors=True)
    return summary


def embed_locally(
    encoder: "DualEncoder", images: Iterable[ImageRef], previous: PreviousEmbeddings
) -> Iterator[EmbeddingRow]:
    """Embed images in this process and yield their rows, in order."""
    for embedded in embed_each(encoder, images, previous.find):
        yield EmbeddingRow(embedded.source.name, embedded.sha256, embedded.embedding, embedded.error, embedded.is_new)


def _write_output(
    out: Path,
    parts: Path,
    embed: Callable[[PreviousEmbeddings], Iterator[EmbeddingRow]],
    encoder: "DualEncoder",
    progress: Callable[[int], None],
) -> EmbedSummary:
    fingerprint = encoder.fingerprint
    previous = PreviousEmbeddings()
    for path in [out, *sorted(parts.glob("*.parquet"))]:
        if path.exists():
            previous.update(read_embeddings(path, fingerprint))
    summary = EmbedSummary()
    with closing(_save_parts(embed(previous), fingerprint, parts)) as saved:
        rows = _count(saved, summary, progress)
        if out.suffix == ".parquet":
            with open_atomic(out) as file:
                write_parquet(file, rows, fingerprint)
                _require_embeddings(summary)
        else:
            with open_numpy(out, fingerprint) as writer:
                writer.write(rows)
                _require_embeddings(summary)
    return summary


def _save_parts(
    rows: Iterator[EmbeddingRow], fingerprint: Fingerprint, parts: Path
) -> Generator[EmbeddingRow, None, None]:
    """Yield the rows, and write new ones to part files as they come; the last part only if the work ends early."""
    new: list[EmbeddingRow] = []
    number = len(list(parts.glob("*.parquet")))
    try:
        for row in rows:
            if row.is_new:
                new.append(row)
            if len(new) == _ROWS_PER_PART:
                _write_part(parts / f"{number:06d}.parquet", new, fingerprint)
                new, number = [], number + 1
            yield row
    except BaseException:  # an interrupt, or the consumer stopped early
        with suppress(OutputError):  # most likely a full disk; report the original error
            _write_part(parts / f"{number:06d}.parquet", new, fingerprint)
        raise


def _write_part(path: Path, rows: list[EmbeddingRow], fingerprint: Fingerprint) -> None:
    if rows:
        with open_atomic(path) as file:
            write_parquet(file, iter(rows), fingerprint)


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
