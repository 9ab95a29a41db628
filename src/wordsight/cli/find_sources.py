"""What `wordsight find` searches: files of embeddings, and images that are embedded into the cache first."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wordsight.cache import cache_directory
from wordsight.cli.loading import ModelOptions, load_model
from wordsight.cli.terminal import print_note, show_progress
from wordsight.embed import StoredEmbeddings, open_embeddings
from wordsight.encoder import DualEncoder
from wordsight.errors import counted
from wordsight.search import reading_ahead

_RUNTIMES = {"float32": "torch", "float16": "half", "int8": "int8"}  # by the precision in a fingerprint


def open_sources(
    paths: Sequence[Path], options: ModelOptions, given: frozenset[str], quiet: bool
) -> tuple[DualEncoder, list[StoredEmbeddings]]:
    """Open files of embeddings, embed the images of other inputs, and load the model.

    Args:
        paths: the inputs.
        options: the model.
        given: which of `runtime`, `decoding` and `policy` the user gave; the others are those of the first file.
        quiet: whether to show neither progress nor notes.

    Raises:
        DataError: a file has no embeddings, or those of another model, which the message names; or an input has no
            images.
    """
    from wordsight.data.inputs import count_images

    opened = {path: open_embeddings(path) for path in paths if path.suffix in (".parquet", ".npy")}
    totals = {path: count_images([path]) for path in paths if path not in opened}
    if opened:
        stored = next(iter(opened.values())).fingerprint
        for file in opened.values():
            file.require_fingerprint(stored)
        own: dict[str, Any] = {
            "policy": stored.policy,
            "decoding": stored.preprocessing.decoding,
            "runtime": _RUNTIMES.get(stored.precision, options.runtime),
        }
        options = replace(options, **{name: value for name, value in own.items() if name not in given})
    with reading_ahead(list(opened)):
        encoder = load_model(options, quiet)
        for file in opened.values():
            file.require_fingerprint(encoder.fingerprint)
    return encoder, [opened[path] if path in opened else _embed(encoder, path, totals[path], quiet) for path in paths]


def _embed(encoder: DualEncoder, path: Path, total: int | None, quiet: bool) -> StoredEmbeddings:
    """Embed images into the cache, those that are not there yet."""
    from wordsight.data.inputs import iter_images
    from wordsight.embed.job import embed_files

    identity = f"{os.path.realpath(path)}\n{encoder.fingerprint.digest}"
    out = cache_directory("embeddings") / f"{hashlib.sha256(os.fsencode(identity)).hexdigest()[:32]}.parquet"
    with show_progress(total, "images", quiet) as progress:
        summary = embed_files(encoder, iter_images([path]), out, progress, warn=lambda line: print_note(line, quiet))
    unreadable = f", {counted(summary.num_unreadable, 'unreadable image')}" if summary.num_unreadable else ""
    print_note(
        f"{path}: {counted(summary.num_embeddings, 'embedding')} ({summary.num_computed:,} new){unreadable}, kept in "
        f"the cache",
        quiet,
    )
    return open_embeddings(out)
