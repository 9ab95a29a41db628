"""The output of `wordsight find`: lines or JSON, a page, and copies of the images."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from wordsight.cli.terminal import print_json, print_note
from wordsight.cli.transfer import TransferOptions, plan_transfers, run_transfers
from wordsight.errors import ImageError, counted, printable
from wordsight.files import check_writable

if TYPE_CHECKING:
    from wordsight.embed import StoredEmbeddings
    from wordsight.encoder import DualEncoder
    from wordsight.report import GridImage, Page
    from wordsight.search import ExactSearch, Match, QueryPart

MAX_PAGE_IMAGES = 1000
"""With more images, browsers take too long to open the page."""

_MISSING = "no longer exists"


class Result(NamedTuple):
    """An image among the results.

    Attributes:
        name: as the file of embeddings has it.
        score: cosine similarity to the query.
        columns: of the table from which the image came.
        path: where the file is; None if it does not exist, or if the image is in a table, in shards or in a video.
    """

    name: str
    score: float
    columns: Mapping[str, Any]
    path: Path | None


class FindOutput:
    """Writes the results of queries; checks the options before any work is done.

    Args:
        sources: the inputs.
        top: number of results.
        page: the HTML file to write.
        copy_to: directory for copies of the images.
        dry_run: whether to list the copies only.
        as_json: whether to print JSON, one line per query.
        quiet: whether to print results only.

    Raises:
        OutputError: an output path is not writable, or the directory for copies is inside an input.
        MissingExtraError: the packages of the extra `report` are not installed.
        ConfigError: `--dry-run` without `--copy-to`.
    """

    def __init__(
        self,
        sources: Sequence[Path],
        top: int,
        page: Path | None,
        copy_to: Path | None,
        dry_run: bool,
        as_json: bool,
        quiet: bool,
    ) -> None:
        self.top = top
        self._page, self._copy_to, self._as_json, self._quiet = page, copy_to, as_json, quiet
        self._transfer = TransferOptions(copy_to, dry_run=dry_run, inputs=tuple(sources))
        if page is not None:
            check_writable(page)
            _empty_page().render()

    def write(
        self,
        encoder: "DualEncoder",
        search: "ExactSearch",
        files: Sequence["StoredEmbeddings"],
        parts: Sequence["QueryPart"],
        matches: Sequence["Match"],
    ) -> None:
        """Print the results of a query, and write the page and the copies."""
        results = _results(files, matches)
        transfers = None
        if self._copy_to is not None:
            options = TransferOptions(
                self._copy_to,
                dry_run=self._transfer.dry_run,
                inputs=(*self._transfer.inputs, *{image.path.parent for image in results if image.path}),
            )
            transfers = plan_transfers(((image.path, ()) for image in results if image.path), options)
        if self._as_json:
            print_json(_as_data(encoder, search, parts, results))
        else:
            print("".join(f"{image.score:.4f}\t{printable(image.name)}\n" for image in results), end="")
        sys.stdout.flush()
        missing = sum(image.path is None for image in results)
        if missing and not self._quiet:
            files_are = "images are not files that exist" if missing > 1 else "image is not a file that exists"
            print_note(f"{missing:,} {files_are}: moved, deleted, or in a table, shards or a video")
        if self._page is not None:
            _page(search, parts, results).write(self._page)
            print_note(f"{self._page}: {counted(min(len(results), MAX_PAGE_IMAGES), 'image')}", self._quiet)
        if transfers is not None:
            run_transfers(transfers, options, self._quiet)


def _results(files: Sequence["StoredEmbeddings"], matches: Sequence["Match"]) -> list[Result]:
    results: list[Result | None] = [None] * len(matches)
    for index, file in enumerate(files):
        slots = [slot for slot, match in enumerate(matches) if match.file == index]
        rows = file.rows([matches[slot].number for slot in slots])
        for slot, row in zip(slots, rows, strict=True):
            path = _existing(row.path, file.path)
            results[slot] = Result(row.path, matches[slot].score, row.columns, path)
    return [image for image in results if image is not None]


def _existing(name: str, file: Path) -> Path | None:
    """Return the path of an image, relative to the working directory or next to the file of embeddings."""
    for path in (Path(name), file.parent / name):
        try:
            if path.is_file():
                return path
        except (OSError, ValueError):  # a name that no file can have
            continue
    return None


def _as_data(
    encoder: "DualEncoder", search: "ExactSearch", parts: Sequence["QueryPart"], results: Sequence[Result]
) -> dict[str, Any]:
    return {
        "query": [{part.kind: part.value, "weight": part.weight} for part in parts],
        "embeddings": search.num_embeddings,
        "fingerprint": encoder.fingerprint.digest,
        "results": [
            {
                "image": image.name,
                "score": round(image.score, 6),
                "file": None if image.path is None else os.fspath(image.path),
                **({"columns": image.columns} if image.columns else {}),
            }
            for image in results
        ],
    }


def _empty_page() -> "Page":
    from wordsight.report import ImageGrid, Page, Section

    return Page("Images found", "", [Section("Results", "", [ImageGrid([], [])])])


def _page(search: "ExactSearch", parts: Sequence["QueryPart"], results: Sequence[Result]) -> "Page":
    from wordsight.report import ImageGrid, Page, Section

    query = " + ".join(map(str, parts))
    columns = list(dict.fromkeys(name for image in results for name in image.columns))
    cards = [_card(image, columns) for image in results[:MAX_PAGE_IMAGES]]
    grid = ImageGrid(["similarity", *columns], cards, total=len(results), advice="Lower --top to see all of them.")
    lead = f"The {counted(len(results), 'image')} most similar to {query}, of {search.num_embeddings:,}."
    text = "The similarity is the cosine between the embeddings of an image and of the query; the search is exact."
    return Page("Images found", lead, [Section("Results", text, [grid])])


def _card(image: Result, columns: Sequence[str]) -> "GridImage":
    from wordsight.image import thumbnail
    from wordsight.report import GridImage

    encoded, note = None, _MISSING if image.path is None else ""
    if image.path is not None:
        try:
            encoded = thumbnail(image.path)
        except ImageError as error:
            note = str(error)
    values = (round(image.score, 4), *(_field(image.columns.get(name)) for name in columns))
    return GridImage(image.name, encoded, values, note=note)


def _field(value: Any) -> str | int | float | None:
    return value if value is None or isinstance(value, str | int | float) else str(value)
