"""`wordsight embed`: images to a file of embeddings."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from wordsight.embed.job import EmbedSummary
    from wordsight.encoder import DualEncoder
    from wordsight.image import Decoding


def embed(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Images, directories of them or of shards, tables of paths, videos.",
            metavar="IMAGES...",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE.parquet|FILE.npy", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            help="A name of 'wordsight models', a model, or a training run.", metavar="MODEL", show_default=False
        ),
    ],
    runtime: Annotated[
        str, typer.Option(help="torch, onnx, auto: the select_runtime of both here; half, int8.")
    ] = "torch",
    mirror: Annotated[str | None, typer.Option(help="A server in place of the one that published the weights.")] = None,
    decoding: Annotated[
        Literal["exact", "cropped", "scaled"] | None,
        typer.Option(help="exact; or select_runtime, and nearly the same: cropped, scaled."),
    ] = None,
    frames_per_s: Annotated[float, typer.Option(help="How many frames of a video.", min=0.001)] = 1.0,
    ray: Annotated[
        str | None, typer.Option(help="Work on the cluster of Ray at this address, or on one of this machine: local.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as one JSON object.")] = False,
) -> None:
    """Turn images into embeddings of unit length.

    The file carries the fingerprint of what made the embeddings; broken images are listed in it with their reasons. What
    was embedded before is not embedded again: a second run does what is new or changed, and one that was
    interrupted goes on.

    \b
    Example:
      wordsight embed photos/ --out photos.parquet --model runs/first
    """
    from wordsight.cli.terminal import open_model, progress_of
    from wordsight.data.inputs import count_images, iter_images
    from wordsight.embed.embedding_files import check_output_path
    from wordsight.embed.job import embed_files
    from wordsight.embed.ray_cluster import RayEmbedder

    check_output_path(out)
    total = count_images(images)
    clip = open_model(model, mirror, runtime, decoding)
    embedder = None if ray is None else RayEmbedder(ray, _loader(model, mirror, runtime, decoding))
    with progress_of(total, "images") as progress:
        done = embed_files(clip, iter_images(images, frames_per_s), out, progress, embedder)
    _tell(done, clip, out, as_json)


def _tell(done: "EmbedSummary", clip: "DualEncoder", out: Path, as_json: bool) -> None:
    from wordsight.cli.terminal import printable

    if as_json:
        broken = [{"path": image.path, "reason": image.reason} for image in done.unreadable]
        counts = {"embeddings": done.num_embeddings, "computed": done.num_computed, "num_broken": done.num_unreadable}
        answer = {"out": str(out), **counts, "fingerprint": clip.fingerprint.digest, "broken": broken}
        print(json.dumps(answer))
        return
    for image in done.unreadable:
        print(f"left out: {printable(image.reason)}", file=sys.stderr)
    if done.num_unreadable > len(done.unreadable):
        print(f"left out: {done.num_unreadable - len(done.unreadable):,} more, listed in the file", file=sys.stderr)
    print(
        f"{printable(out)}: {done.num_embeddings:,} embeddings, {done.num_computed:,} of them new, "
        f"{done.num_unreadable:,} broken images; {clip.fingerprint}"
    )


def _loader(model: str, mirror: str | None, runtime: str, decoding: "Decoding | None") -> "Callable[[], DualEncoder]":
    """What gives the workers of a cluster the same model, a directory of this machine by its whole path."""
    from wordsight.encoder import load

    place = str(Path(model).resolve()) if Path(model).exists() else model
    return partial(load, place, mirror=mirror, runtime=runtime, decoding=decoding)
