"""`wordsight convert`: a model from one format to another, with a certificate."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    model: Annotated[
        str, typer.Argument(help="A name of 'wordsight models', a file, or a directory.", metavar="MODEL")
    ],
    out: Annotated[Path, typer.Argument(help="A directory that is not there yet.", metavar="OUT")],
    target: Annotated[
        str,
        typer.Option("--to", help="openai, open_clip, hf, onnx or wordsight.", metavar="FORMAT", show_default=False),
    ],
    architecture: Annotated[
        str | None,
        typer.Option("--as", help="Architecture of weights that do not say theirs, such as ViT-B-32-quickgelu."),
    ] = None,
    averaged: Annotated[
        bool | None, typer.Option("--averaged/--plain", help="Which weights of a checkpoint that has both.")
    ] = None,
    mirror: Annotated[str | None, typer.Option(help="A server in place of the one that published the weights.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the certificate as one line of JSON.")] = False,
) -> None:
    """Write a model in another format and prove that it is the same.

    \b
    Example:
      wordsight convert models/mine converted --to hf
    """
    import msgspec

    from wordsight.cli.terminal import progress_of_bytes
    from wordsight.encoder.loading import find_checkpoint
    from wordsight.weights.convert import convert as write

    with progress_of_bytes() as progress:
        found = find_checkpoint(model, architecture, averaged, mirror, progress)
    certificate = write(found, out, target)
    if as_json:
        typer.echo(msgspec.json.encode(certificate).decode())
        return
    typer.echo(f"{out}: {target}; greatest differences on fixed inputs, of at most {certificate.tolerance:g}:")
    for name in ("images", "texts", "scale", "pixels"):
        typer.echo(f"  {name:7} {getattr(certificate, name):.3g}")
    if certificate.crop:
        typer.echo(f"  crop    {certificate.crop}: one pixel, where the margin of a image is odd")
    typer.echo(f"  {certificate.ids} token ids differ; all of it stands in {out / 'certificate.json'}")
