"""`wordsight shards`: pack images with texts or labels into shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import (
    ImageColumnOption,
    ImageRootOption,
    JsonOption,
    LabelColumnOption,
    NamesOption,
    QuietOption,
    TextColumnOption,
)

if TYPE_CHECKING:
    from wordsight.data import PackSummary


SourceArgument = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A directory, a .tar file of a directory, a table (.csv, .tsv, .parquet, .jsonl), or shards.",
    ),
]
OutArgument = Annotated[
    Path, typer.Argument(metavar="OUT", help="Directory for the shards: new, empty, or written by this command.")
]
SizeOption = Annotated[
    int | None, typer.Option(metavar="N", help="Shrink larger images until their shorter side has this length.")
]
ExcludeOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Skip these keys or file names, one per line.")
]
OnlyOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Pack only these keys or file names, one per line.")
]
MaxSamplesOption = Annotated[int, typer.Option(metavar="N", help="Maximum number of samples per shard.")]
MaxMegabytesOption = Annotated[int, typer.Option(metavar="N", help="Maximum size of a shard in megabytes.")]


def shards(
    source: SourceArgument,
    out: OutArgument,
    image_column: ImageColumnOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    image_root: ImageRootOption = None,
    names: NamesOption = None,
    size_px: SizeOption = None,
    exclude: ExcludeOption = None,
    only: OnlyOption = None,
    max_samples: MaxSamplesOption = 10_000,
    max_mb: MaxMegabytesOption = 256,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Pack images with their texts or labels into WebDataset shards.

    The layout of SOURCE is detected: captions.jsonl, Hugging Face imagefolder, COCO, Flickr8k; a .txt, .json or .cls
    file next to each image; one directory per class; a table; or shards of other programs. Images that cannot be packed
    are listed in OUT/skipped.jsonl.

    \b
    Example:
      wordsight shards photos/ shards/ --size-px 256
    """
    from wordsight.cli.terminal import print_json, print_lines, show_progress
    from wordsight.data import InputOptions, PackOptions, open_source, pack, read_keys

    options = PackOptions(
        size_px=size_px,
        max_samples=max_samples,
        max_bytes=max_mb * 1_000_000,
        exclude=read_keys(exclude) if exclude else frozenset(),
        only=read_keys(only) if only else None,
    )
    records = open_source(
        source,
        InputOptions(
            image_column=image_column,
            text_columns=tuple(text_column or ()),
            label_column=label_column,
            image_root=image_root,
            names=names,
        ),
    )
    with show_progress(records.count, "images", quiet) as progress:
        summary = pack(records, out, options, progress)
    print_json(summary) if as_json else print_lines(*_describe(summary, out))


def _describe(summary: "PackSummary", out: Path) -> list[str]:
    from wordsight.errors import counted

    contents = f"{counted(summary.samples, 'sample')} in {counted(summary.shards, 'shard')}"
    size = f"{contents}, {summary.bytes / 1e6:,.1f} MB"
    lines = [f"{summary.layout}: {size}, in {out}"]
    if summary.left_out:
        lines.append(f"{summary.left_out:,} left out by --exclude or --only")
    if summary.not_found:
        lines.append(f"{summary.not_found:,} of the listed keys are not in the source")
    if summary.skipped:
        lines.append(f"{summary.skipped:,} skipped; reasons in {out / 'skipped.jsonl'}:")
        lines += [f"  {sample.key} ({sample.shard}): {sample.reason}" for sample in summary.first_skipped]
    return lines
