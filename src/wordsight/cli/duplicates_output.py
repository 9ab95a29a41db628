"""The output of `wordsight duplicates`: lines, JSON and a page."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wordsight.cli.terminal import human_bytes, print_json
from wordsight.errors import ImageError, counted, printable
from wordsight.files import check_writable
from wordsight.image import ImageRef, thumbnail
from wordsight.report import Gallery, ImageCard, Page, RankedText, Section, Table, Tile, Tiles
from wordsight.search import Duplicate, DuplicateGroup, DuplicateScan, ImageFacts

MAX_PAGE_GROUPS = 500
"""With more groups, browsers take too long to open the page."""

MAX_SHOWN_DUPLICATES = 20

_RULE = "Keep: the image with the most pixels, then the largest file, then the name that comes first."


def print_groups(groups: Sequence[DuplicateGroup]) -> None:
    """Print a line per image: what to keep, and how much each other image of its group resembles it."""
    for number, group in enumerate(groups):
        if number:
            print()
        print(f"keep\t{_described(group.kept)}")
        for duplicate in group.duplicates:
            print(f"{_relation(duplicate)}\t{_described(duplicate.facts)}")


def print_groups_as_json(groups: Sequence[DuplicateGroup], scan: DuplicateScan, threshold: float | None) -> None:
    """Print one object with all groups."""
    print_json(
        {
            "images": len(scan.facts),
            "threshold": threshold,
            "groups": [
                {
                    "kind": group.kind,
                    "keep": _facts(group.kept),
                    "duplicates": [
                        {
                            **_facts(duplicate.facts),
                            "exact": duplicate.is_exact,
                            "resemblance": round(duplicate.resemblance, 4),
                        }
                        for duplicate in group.duplicates
                    ],
                }
                for group in groups
            ],
            "unreadable": [{"image": name, "reason": reason} for name, reason in scan.unreadable],
        }
    )


def check_page(path: Path) -> None:
    """Refuse a page that cannot be written, before any work is done.

    Raises:
        OutputError: the path is not writable.
        MissingExtraError: the packages of the extra `report` are not installed.
    """
    check_writable(path)
    _page([], 0, None).render()


def write_page(path: Path, groups: Sequence[DuplicateGroup], num_images: int, threshold: float | None) -> None:
    """Write the page; errors as for `Page.write`."""
    _page(groups, num_images, threshold).write(path)


def _page(groups: Sequence[DuplicateGroup], num_images: int, threshold: float | None) -> Page:
    num_duplicates = sum(len(group.duplicates) for group in groups)
    num_exact = sum(duplicate.is_exact for group in groups for duplicate in group.duplicates)
    tiles = Tiles(
        [
            Tile("Images", f"{num_images:,}"),
            Tile("Groups", f"{len(groups):,}"),
            Tile("Duplicates", f"{num_duplicates:,}", human_bytes(sum(group.num_bytes for group in groups))),
            Tile("With the same bytes", f"{num_exact:,}"),
        ]
    )
    text = _RULE
    if threshold is not None:
        text += f" The others resemble it by at least {threshold:g} (1: the same pixels; near 0: unrelated images)."
    if len(groups) > MAX_PAGE_GROUPS:
        text += f"\n\nOnly the first {MAX_PAGE_GROUPS:,} of {len(groups):,} groups are shown; --json lists all of them."
    shown = groups[:MAX_PAGE_GROUPS]
    sections = [Section("Overview", "", [tiles])]
    if groups:
        sections.append(Section("Groups", text, [Gallery([_card(group) for group in shown])]))
        sections.append(Section("Files", "", [_files_table(shown)]))
    return Page("Duplicates", "Groups of images that are equal or look the same. Nothing was deleted.", sections)


def _card(group: DuplicateGroup) -> ImageCard:
    shown = group.duplicates[:MAX_SHOWN_DUPLICATES]
    images = [(duplicate, _image(duplicate.facts.image)) for duplicate in shown]
    results = [
        RankedText(f"{_relation(duplicate)}: {_described(duplicate.facts, ', ')}", duplicate.resemblance, image=image)
        for duplicate, image in images
        if image is not None
    ]
    more = len(group.duplicates) - len(results)
    note = f"keep, {_size(group.kept)}; {counted(len(group.duplicates), 'duplicate')}"
    note += f", of which {more:,} are not shown" if more else ""
    return ImageCard(group.kept.image.name, _image(group.kept.image), results, note=note)


def _image(image: ImageRef) -> bytes | None:
    try:
        return thumbnail(image)
    except ImageError:  # changed since it was read
        return None


def _files_table(groups: Sequence[DuplicateGroup]) -> Table:
    rows = []
    for number, group in enumerate(groups, start=1):
        rows.append((number, "keep", group.kept.image.name, _size(group.kept)))
        rows += [(number, _relation(each), each.facts.image.name, _size(each.facts)) for each in group.duplicates]
    return Table(("group", "resemblance", "image", "size"), rows)


def describe_counts(groups: Sequence[DuplicateGroup]) -> str:
    """Return how many duplicates there are: `17 duplicates in 5 groups, 2 of them with the same bytes`."""
    members = [duplicate for group in groups for duplicate in group.duplicates]
    num_exact = sum(duplicate.is_exact for duplicate in members)
    in_groups = f"{counted(len(members), 'duplicate')} in {counted(len(groups), 'group')}"
    return (
        f"{in_groups}, {num_exact:,} of them with the same bytes as the image to keep" if members else "no duplicates"
    )


def _relation(duplicate: Duplicate) -> str:
    return "same bytes" if duplicate.is_exact else f"{duplicate.resemblance:.3f}"


def _size(facts: ImageFacts) -> str:
    size = f"{facts.width} x {facts.height}"
    return f"{size}, {human_bytes(facts.num_bytes)}" if facts.num_bytes else size


def _described(facts: ImageFacts, separator: str = "\t") -> str:
    return f"{printable(facts.image.name)}{separator}{_size(facts)}"


def _facts(facts: ImageFacts) -> dict[str, Any]:
    return {
        "image": facts.image.name,
        "sha256": facts.sha256,
        "bytes": facts.num_bytes,
        "width": facts.width,
        "height": facts.height,
    }
