"""`wordsight find`: images that match a text, an image, or several of both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    BatchSizeOption,
    DecodingOption,
    DeviceOption,
    JsonOption,
    MirrorOption,
    ModelOption,
    PolicyOption,
    QuietOption,
    RuntimeOption,
)
from wordsight.cli.transfer import CopyToOption, DryRunOption

TextsArgument = Annotated[
    list[str] | None, typer.Argument(metavar="TEXT...", help="What the images show.", show_default=False)
]
InOption = Annotated[
    list[Path],
    typer.Option(
        "--in",
        metavar="FILE|DIR",
        help="A file that 'wordsight embed' wrote, or images (a directory, a table, shards), which are embedded first; "
        "can be repeated.",
        show_default=False,
    ),
]
ImageOption = Annotated[
    list[Path] | None,
    typer.Option("--image", metavar="FILE", help="An image to which results are similar; can be repeated."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        metavar="W,W,...",
        help="One number per text, then one per image; with a negative one, similar images are ranked lower.",
        show_default="all 1",
    ),
]
TopOption = Annotated[int, typer.Option(min=1, max=100_000, metavar="N", help="Number of results.")]
PageOption = Annotated[
    Path | None, typer.Option(metavar="FILE.html", help="Write a page with the images that were found.")
]
InteractiveOption = Annotated[
    bool, typer.Option("--interactive", help="Read texts from standard input, one query per line.")
]


def find(
    context: typer.Context,
    source: InOption,
    model: ModelOption,
    texts: TextsArgument = None,
    image: ImageOption = None,
    weights: WeightsOption = None,
    top: TopOption = 10,
    page: PageOption = None,
    copy_to: CopyToOption = None,
    dry_run: DryRunOption = False,
    interactive: InteractiveOption = False,
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = "torch",
    decoding: DecodingOption = None,
    policy: PolicyOption = "viewer",
    batch_size: BatchSizeOption = None,
    mirror: MirrorOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find images by a text, by an image, or by several of both.

    Prints the cosine similarity and the name of each image, best first. The search is exact. Images in a directory are
    embedded into the cache first, and only new and changed ones when the command runs again. The model has to be the
    one that embedded the images of a file; runtime, decoding and policy are those of the file, unless given.

    \b
    Example:
      wordsight find "a dog on a beach" --in photos.parquet --model runs/first
    """
    from wordsight.cli.find_output import FindOutput
    from wordsight.cli.find_queries import answer, answer_lines, check_interactive, parse_weights
    from wordsight.cli.find_sources import open_sources
    from wordsight.cli.loading import ModelOptions
    from wordsight.search import build_query

    output = FindOutput(source, top, page, copy_to, dry_run, as_json, quiet)
    if interactive:
        check_interactive(texts, image, weights, page, copy_to)
        parts = []
    else:
        parts = build_query(texts or [], image or [], parse_weights(weights))
    options = ModelOptions(model, architecture, averaged, device, runtime, decoding, policy, batch_size, mirror)
    encoder, files = open_sources(source, options, _given(context, ("runtime", "decoding", "policy")), quiet)
    if interactive:
        answer_lines(encoder, files, output)
    else:
        answer(encoder, files, parts, output)


def _given(context: typer.Context, names: Sequence[str]) -> frozenset[str]:
    """Return those of some options that were given."""
    sources = {name: context.get_parameter_source(name) for name in names}
    return frozenset(name for name, source in sources.items() if source is not None and source.name != "DEFAULT")
