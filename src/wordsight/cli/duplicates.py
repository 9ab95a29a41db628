"""`wordsight duplicates`: files with the same bytes, and images that look the same."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from wordsight.cli.options import FramesOption, ImagesArgument, JsonOption, PolicyOption, QuietOption

if TYPE_CHECKING:
    from wordsight.image import ImageRef, Policy

ThresholdOption = Annotated[
    float,
    typer.Option(
        min=0.5,
        max=1.0,
        metavar="T",
        help="Resemblance from which two images are near-duplicates: 1 for equal pixels, near 0 for unrelated images.",
    ),
]
ExactOption = Annotated[bool, typer.Option("--exact", help="Find files with the same bytes only.")]
DuplicatesPageOption = Annotated[
    Path | None, typer.Option("--page", metavar="FILE.html", help="Write a page with the groups.")
]


def duplicates(
    images: ImagesArgument,
    threshold: ThresholdOption = 0.9,
    exact: ExactOption = False,
    page: DuplicatesPageOption = None,
    policy: PolicyOption = "viewer",
    frames_per_s: FramesOption = 1.0,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find files with the same bytes and images that look the same.

    Prints groups of images and the one to keep: the one with the most pixels, then the largest file, then the name
    that comes first. Images that were compressed again, scaled or cropped by up to a tenth of each side are found. The
    input can also be files that 'wordsight embed' wrote. No model is needed, and nothing is deleted.

    \b
    Example:
      wordsight duplicates photos/ --page duplicates.html
    """
    from wordsight.cli.duplicates_output import (
        check_page,
        describe_counts,
        print_groups,
        print_groups_as_json,
        write_page,
    )
    from wordsight.cli.terminal import print_note, show_progress
    from wordsight.errors import counted
    from wordsight.search import find_duplicates, scan_images

    if page is not None:
        check_page(page)
    total = _count(images)
    with show_progress(total, "images", quiet) as progress:
        scan = scan_images(_iter(images, frames_per_s), cast("Policy", policy), progress)
    for name, reason in scan.unreadable:
        print_note(f"unreadable: {reason if name in reason else f'{name}: {reason}'}", quiet)
    with show_progress(len(scan.facts), "images compared", quiet) as progress:
        groups = find_duplicates(scan, 2.0 if exact else threshold, progress)
    if as_json:
        print_groups_as_json(groups, scan, None if exact else threshold)
    else:
        print_groups(groups)
    print_note(f"{counted(len(scan.facts), 'image')}: {describe_counts(groups)}; nothing was deleted", quiet)
    if page is not None:
        write_page(page, groups, len(scan.facts), None if exact else threshold)
        print_note(f"{page}: written", quiet)


def _count(paths: Sequence[Path]) -> int | None:
    from wordsight.data.inputs import count_images
    from wordsight.embed import open_embeddings

    counts = [open_embeddings(path).num_embeddings if _is_embeddings(path) else count_images([path]) for path in paths]
    return None if None in counts else sum(count or 0 for count in counts)


def _iter(paths: Sequence[Path], frames_per_s: float) -> Iterator["ImageRef"]:
    """Stream the images of inputs; those of a file of embeddings are the files that it names."""
    from wordsight.data.inputs import file_image, iter_images
    from wordsight.embed import open_embeddings

    for path in paths:
        if _is_embeddings(path):
            stored = open_embeddings(path)
            for row in stored.rows(range(stored.num_embeddings)):
                yield file_image(_located(row.path, path))
        else:
            yield from iter_images([path], frames_per_s)


def _located(name: str, file: Path) -> Path:
    """Return the path of an image relative to the working directory; if it is not there, next to the file."""
    beside = file.parent / name
    return beside if not Path(name).exists() and beside.exists() else Path(name)


def _is_embeddings(path: Path) -> bool:
    from wordsight.embed.embedding_files import FINGERPRINT_KEY

    if path.suffix != ".parquet" or not path.is_file():
        return path.suffix == ".npy"
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return FINGERPRINT_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False  # the reader of tables reports it
