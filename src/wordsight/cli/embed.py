"""`wordsight embed`: embed images into a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    BatchSizeOption,
    DecodingOption,
    DeviceOption,
    FramesOption,
    ImageColumnOption,
    ImageRootOption,
    ImagesArgument,
    JsonOption,
    LabelColumnOption,
    MirrorOption,
    ModelOption,
    NamesOption,
    PolicyOption,
    QuietOption,
    RuntimeOption,
    TextColumnOption,
)

if TYPE_CHECKING:
    from wordsight.embed.job import EmbedSummary
    from wordsight.encoder import DualEncoder

OutOption = Annotated[
    Path, typer.Option(metavar="FILE.parquet|FILE.npy", help="The file to write.", show_default=False)
]
KeepUnreadableOption = Annotated[
    bool, typer.Option("--keep-unreadable", help="Write unreadable images as rows, with a null and the reason.")
]
RayOption = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Use the Ray cluster at this address; local: start one on this machine."),
]


def embed(
    images: ImagesArgument,
    out: OutOption,
    model: ModelOption,
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = "torch",
    decoding: DecodingOption = None,
    policy: PolicyOption = "viewer",
    batch_size: BatchSizeOption = None,
    frames_per_s: FramesOption = 1.0,
    image_column: ImageColumnOption = None,
    text_column: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    image_root: ImageRootOption = None,
    names: NamesOption = None,
    keep_unreadable: KeepUnreadableOption = False,
    ray: RayOption = None,
    mirror: MirrorOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write embeddings of images to a Parquet or NumPy file.

    Embeddings have unit length. The file contains the fingerprint of the model and its settings, and the columns of
    tables; a second file lists unreadable images with the reasons. Images that were embedded before are not embedded
    again: run the same command to add new images, to update changed ones, or to continue after an interruption.

    \b
    Example:
      wordsight embed photos/ --out photos.parquet --model runs/first
    """
    from wordsight.cli.loading import ModelOptions, load_model
    from wordsight.cli.terminal import show_progress
    from wordsight.data.inputs import InputOptions, count_images, iter_images
    from wordsight.embed.embedding_files import check_output_path
    from wordsight.embed.job import embed_files
    from wordsight.embed.ray_cluster import RayEmbedder

    check_output_path(out, keep_unreadable)
    inputs = InputOptions(
        image_column=image_column,
        text_columns=tuple(text_column or ()),
        label_column=label_column,
        image_root=image_root,
        names=names,
    )
    total = count_images(images, inputs)
    options = ModelOptions(model, architecture, averaged, device, runtime, decoding, policy, batch_size, mirror)
    encoder = load_model(options, quiet)
    embedder = None if ray is None else RayEmbedder(ray, options.with_absolute_path().load)
    with show_progress(total, "images", quiet) as progress:
        stream = iter_images(images, frames_per_s, inputs)
        summary = embed_files(encoder, stream, out, progress, embedder, _warn, keep_unreadable)
    _print_summary(summary, encoder, out, as_json)


def _warn(line: str) -> None:
    from wordsight.errors import printable

    print(printable(line), file=sys.stderr, flush=True)


def _print_summary(summary: "EmbedSummary", encoder: "DualEncoder", out: Path, as_json: bool) -> None:
    from wordsight.cli.terminal import print_json
    from wordsight.errors import counted, printable

    listed = summary.unreadable_file
    if as_json:
        result = {
            "out": str(out),
            "embeddings": summary.num_embeddings,
            "computed": summary.num_computed,
            "num_unreadable": summary.num_unreadable,
            "unreadable_file": str(listed) if listed else None,
            "fingerprint": encoder.fingerprint.digest,
            "unreadable": [{"image": image.path, "reason": image.reason} for image in summary.unreadable],
        }
        print_json(result)
        return
    for image in summary.unreadable:
        print(f"unreadable: {printable(image.reason)}", file=sys.stderr)
    num_more = summary.num_unreadable - len(summary.unreadable)
    if num_more:
        print(f"unreadable: {num_more:,} more, listed in {printable(listed)}", file=sys.stderr)
    print(
        f"{printable(out)}: {counted(summary.num_embeddings, 'embedding')} ({summary.num_computed:,} new), "
        f"{counted(summary.num_unreadable, 'unreadable image')}"
        f"{f' (listed in {printable(listed)})' if listed else ''}; {encoder.fingerprint}"
    )
