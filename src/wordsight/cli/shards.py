"""`wordsight shards`: a directory, a tar file or a table of images and texts becomes shards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wordsight.data import PackSummary


def shards(
    source: Annotated[
        Path, typer.Argument(help="Directory, .tar of a directory, or .csv, .tsv, .parquet, .jsonl table.")
    ],
    out: Annotated[Path, typer.Argument(help="Directory for the shards; new, empty, or made by this command before.")],
    image_column: Annotated[str | None, typer.Option(help="Table: column of the image's path or bytes.")] = None,
    text_column: Annotated[list[str] | None, typer.Option(help="Table: column of texts; may be repeated.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Table: column of the label.")] = None,
    names: Annotated[Path | None, typer.Option(help="JSON: label -> its names, or the list of class names.")] = None,
    size_px: Annotated[int | None, typer.Option(help="Make larger images smaller: length of the shorter side.")] = None,
    exclude: Annotated[Path | None, typer.Option(help="List of keys or file names to leave out, one a line.")] = None,
    only: Annotated[Path | None, typer.Option(help="List of keys or file names to pack, and no others.")] = None,
    max_samples: Annotated[int, typer.Option(help="Samples in a shard, at most.")] = 10_000,
    max_mb: Annotated[int, typer.Option(help="Megabytes in a shard, at most.")] = 256,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Pack images with their texts or labels into WebDataset shards.

    The form of SOURCE is recognised: captions.jsonl, pairs.jsonl or labels.jsonl in it; a .txt or .json beside each
    image; a directory for each class; or a table. What cannot be packed is listed in OUT/skipped.jsonl.

    Example: wordsight shards photos/ shards/ --size-px 256
    """
    import msgspec

    from wordsight.cli.terminal import progress_of
    from wordsight.data import PackOptions, SourceOptions, open_source, pack, read_keys

    options = PackOptions(
        size_px=size_px,
        max_samples=max_samples,
        max_bytes=max_mb * 1_000_000,
        exclude=read_keys(exclude) if exclude else frozenset(),
        only=read_keys(only) if only else None,
    )
    found = open_source(
        source,
        SourceOptions(
            image_column=image_column, text_columns=tuple(text_column or ()), label_column=label_column, names=names
        ),
    )
    with progress_of(found.count, "images") as progress:
        summary = pack(found, out, options, progress)
    typer.echo(msgspec.json.encode(summary).decode() if as_json else _in_words(summary, out))


def _in_words(summary: "PackSummary", out: Path) -> str:
    size = f"{summary.samples:,} samples in {summary.shards} shards, {summary.bytes / 1e6:,.1f} MB"
    lines = [f"{summary.form}: {size}, in {out}"]
    if summary.left_out:
        lines.append(f"{summary.left_out:,} left out as asked")
    if summary.not_found:
        lines.append(f"{summary.not_found:,} of the listed keys are not in the source")
    if summary.skipped:
        lines.append(f"{summary.skipped:,} skipped, with reasons in {out / 'skipped.jsonl'}:")
        lines += [f"  {broken.key} ({broken.shard}): {broken.reason}" for broken in summary.first_skipped]
    return "\n".join(lines)
