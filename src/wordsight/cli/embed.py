"""`wordsight embed`: pictures to a file of vectors."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def embed(
    pictures: Annotated[
        list[Path],
        typer.Argument(
            help="Pictures, folders of them or of shards, tables of paths, videos.",
            metavar="PICTURES...",
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
    runtime: Annotated[str, typer.Option(help="torch, onnx, or auto: the quicker of both here.")] = "torch",
    mirror: Annotated[str | None, typer.Option(help="A server in place of the one that published the weights.")] = None,
    scaled: Annotated[
        bool,
        typer.Option("--scaled", help="Decode JPEG files at a part of their size: quicker, and nearly the same."),
    ] = False,
    frames_per_s: Annotated[float, typer.Option(help="How many frames of a video.", min=0.001)] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as one JSON object.")] = False,
) -> None:
    """Turn pictures into vectors of unit length.

    The file carries the fingerprint of what made the vectors; broken pictures are listed in it with their reasons. What
    was embedded before is not embedded again: a second run does what is new or changed, and one that was
    interrupted goes on.

    \b
    Example:
      wordsight embed photos/ --out photos.parquet --model runs/first
    """
    from wordsight.cli.terminal import open_model, printable, progress_of
    from wordsight.infer.embed_files import embed_files
    from wordsight.infer.items import count_items, find_items
    from wordsight.infer.vector_files import check_out

    check_out(out)
    total = count_items(pictures)
    clip = open_model(model, mirror, runtime, scaled)
    with progress_of(total, "pictures") as progress:
        done = embed_files(clip, find_items(pictures, frames_per_s), out, progress)
    if as_json:
        broken = [{"path": picture.path, "reason": picture.reason} for picture in done.broken]
        counts = {"vectors": done.vectors, "computed": done.computed, "num_broken": done.num_broken}
        answer = {"out": str(out), **counts, "fingerprint": clip.fingerprint.digest, "broken": broken}
        print(json.dumps(answer))
        return
    for picture in done.broken:
        print(f"left out: {printable(picture.reason)}", file=sys.stderr)
    if done.num_broken > len(done.broken):
        print(f"left out: {done.num_broken - len(done.broken):,} more, listed in the file", file=sys.stderr)
    print(
        f"{printable(out)}: {done.vectors:,} vectors, {done.computed:,} of them new, "
        f"{done.num_broken:,} broken pictures; {clip.fingerprint}"
    )
