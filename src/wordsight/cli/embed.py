"""`wordsight embed`: pictures to a file of vectors."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer


def embed(
    pictures: Annotated[
        list[Path], typer.Argument(help="Pictures, or folders of them.", metavar="PICTURES...", show_default=False)
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
    as_json: Annotated[bool, typer.Option("--json", help="What was done, as one JSON object.")] = False,
) -> None:
    """Turn pictures into vectors of unit length.

    The file carries the fingerprint of what made the vectors; broken pictures are listed in it with their reasons.

    \b
    Example:
      wordsight embed photos/ --out photos.parquet --model runs/first
    """
    from wordsight.cli.terminal import open_model, printable, progress_of
    from wordsight.infer.embed_files import check_out, embed_files
    from wordsight.infer.pictures import find_pictures

    check_out(out)
    clip = open_model(model, mirror, runtime)
    paths = list(find_pictures(pictures))
    with progress_of(len(paths), "pictures") as progress:
        done = embed_files(clip, paths, out, progress)
    if as_json:
        broken = [{"path": picture.path, "reason": picture.reason} for picture in done.broken]
        answer = {"out": str(out), "vectors": done.vectors, "fingerprint": clip.fingerprint.digest, "broken": broken}
        print(json.dumps(answer))
        return
    for picture in done.broken:
        print(f"left out: {printable(picture.reason)}", file=sys.stderr)
    print(f"{printable(out)}: {done.vectors:,} vectors, {len(done.broken):,} broken pictures; {clip.fingerprint}")
