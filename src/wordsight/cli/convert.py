"""`wordsight convert`: write a model in another format, with a certificate of equality."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    JsonOption,
    MirrorOption,
    QuietOption,
    choice,
    published_names,
)

if TYPE_CHECKING:
    from wordsight.weights.certificate import Certificate

TARGETS = ("openai", "open_clip", "hf", "onnx", "wordsight")


def convert(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A name listed by 'wordsight models', a weights file, a directory of a model or a training run, or "
            "hf-hub:ORG/NAME.",
            autocompletion=published_names,
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The directory to create.", show_default=False)],
    target: Annotated[str, typer.Option("--to", help="The format to write.", **choice("--to", TARGETS))],
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    mirror: MirrorOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Convert a model to another format and verify the result.

    The written files are read again and compared with the source on fixed images and texts. The result is printed and
    saved as OUT/certificate.json. If the two differ, nothing is written.

    \b
    Example:
      wordsight convert models/mine converted --to hf
    """
    from wordsight.cli.terminal import print_json, print_lines, show_byte_progress
    from wordsight.encoder.loading import find_checkpoint
    from wordsight.weights.convert import convert as convert_checkpoint

    with show_byte_progress(quiet) as progress:
        checkpoint = find_checkpoint(model, architecture, averaged, mirror, progress)
    certificate = convert_checkpoint(checkpoint, out, target)
    if as_json:
        print_json(certificate)
    else:
        print_lines(*_describe(certificate, out, target))


def _describe(certificate: "Certificate", out: Path, target: str) -> list[str]:
    lines = [f"{out}: {target}; maximum differences on fixed inputs (tolerance {certificate.tolerance:g}):"]
    lines += [f"  {name:7} {getattr(certificate, name):.3g}" for name in ("images", "texts", "scale", "pixels")]
    if certificate.crop:
        lines.append(f"  crop    {certificate.crop}: shifted by one pixel if an image's margin is odd")
    lines.append(f"  {certificate.ids} token ids differ; details in {out / 'certificate.json'}")
    if certificate.unchecked:
        lines.append(f"  only wordsight has read these files: {certificate.unchecked}")
    if certificate.library:
        differences = max(certificate.library_images, certificate.library_texts)
        lines.append(f"  opened by {certificate.library}: maximum difference {differences:.3g}")
    if certificate.differing_texts:
        texts = ", ".join(map(ascii, certificate.differing_texts))
        lines.append(f"  {certificate.library} cleans some texts differently, such as {texts}")
    return lines
