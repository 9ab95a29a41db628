"""Groups of duplicates among images: files with the same bytes, and images that resemble each other.

Images are sorted by how much one would want to keep them: most pixels first, then the largest file, then the name that
comes first. Each image in turn keeps its place or joins the group of an earlier one that it resembles. Every member of
a group has therefore been compared with the image that is kept; two images are never in one group only because both
resemble a third.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import DataError, ImageError, counted
from wordsight.image import ImageRef, Policy, perceptual_thumbnail
from wordsight.parallel import ordered_map
from wordsight.search.resemblance import Candidates, Resemblance

DEFAULT_THRESHOLD = 0.9
"""Resemblance from which two images count as near-duplicates; the docs have its measured precision and recall."""

_AHEAD = 64
_PAIRS_PER_STEP = 512


class ImageFacts(NamedTuple):
    """What is known about an image besides its pixels.

    Attributes:
        image: the image.
        sha256: of its file, or of the pixels of a video frame.
        num_bytes: size of its file; 0 for a video frame.
        width, height: in pixels.
    """

    image: ImageRef
    sha256: str
    num_bytes: int
    width: int
    height: int


@dataclass(frozen=True)
class Duplicate:
    """A member of a group besides the image to keep.

    Attributes:
        facts: about the image.
        resemblance: to the image to keep, in [0, 1]; 1 if the bytes are the same.
        is_exact: whether its bytes are those of the image to keep.
    """

    facts: ImageFacts
    resemblance: float
    is_exact: bool


@dataclass(frozen=True)
class DuplicateGroup:
    """A group of equal or similar images.

    Attributes:
        kept: the image to keep: the one with the most pixels, then the largest file, then the first name.
        duplicates: the others; exact ones first, then by falling resemblance.
    """

    kept: ImageFacts
    duplicates: Sequence[Duplicate]

    @property
    def kind(self) -> Literal["exact", "near"]:
        """`exact` if all bytes are the same, otherwise `near`."""
        return "exact" if all(duplicate.is_exact for duplicate in self.duplicates) else "near"

    @property
    def num_bytes(self) -> int:
        """Bytes that the duplicates occupy."""
        return sum(duplicate.facts.num_bytes for duplicate in self.duplicates)


@dataclass
class DuplicateScan:
    """What was read, before it is compared.

    Attributes:
        facts: about each readable image, in the order of the input.
        unreadable: name and reason of each unreadable image.
    """

    facts: list[ImageFacts] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    _thumbnails: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def pixels(self, sha256: Sequence[str]) -> NDArray[np.uint8]:
        """Return the perceptual thumbnails of images by their hashes, (N, 32, 32, 3) uint8."""
        return np.stack([self._thumbnails[digest] for digest in sha256])


def scan_images(
    images: Iterable[ImageRef], policy: Policy = "viewer", progress: Callable[[int], None] = lambda done: None
) -> DuplicateScan:
    """Read images: hash their files and compute perceptual thumbnails. Memory: about 4 kB per image.

    Args:
        images: may be a stream; an image that occurs again under the same name is left out.
        policy: how they are decoded.
        progress: called with the number of images done.

    Raises:
        DataError: no image could be read.
    """
    scan = DuplicateScan()
    names: set[str] = set()

    def read(image: ImageRef) -> tuple[ImageFacts, NDArray[np.uint8]] | str:
        try:
            content = image.read()
            thumbnail = perceptual_thumbnail(content, image.name, policy)
        except ImageError as error:
            return str(error)
        sha256 = hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
        num_bytes = len(content) if isinstance(content, bytes) else 0
        return ImageFacts(image, sha256, num_bytes, thumbnail.width, thumbnail.height), thumbnail.pixels

    def numbered(images: Iterable[ImageRef]) -> Iterator[ImageRef]:
        for image in images:
            if image.name not in names:
                names.add(image.name)
                yield image

    def keep_name(image: ImageRef) -> tuple[str, tuple[ImageFacts, NDArray[np.uint8]] | str]:
        return image.name, read(image)

    for done, (name, result) in enumerate(ordered_map(keep_name, numbered(images), ahead=_AHEAD), start=1):
        if isinstance(result, str):
            scan.unreadable.append((name, result))
        else:
            scan.facts.append(result[0])
            scan._thumbnails.setdefault(result[0].sha256, result[1])
        progress(done)
    if not scan.facts:
        first = f"; the first: {scan.unreadable[0][1]}" if scan.unreadable else ""
        raise DataError(f"none of {counted(len(scan.unreadable), 'image')} could be read{first}")
    return scan


def find_duplicates(
    scan: DuplicateScan, threshold: float = DEFAULT_THRESHOLD, progress: Callable[[int], None] = lambda done: None
) -> list[DuplicateGroup]:
    """Group duplicates; those that would free the most bytes first.

    The time grows with the square of the number of distinct images: 20,000 take a few seconds.

    Args:
        scan: of the images.
        threshold: resemblance from which images count as duplicates; above 1, only files with the same bytes do.
        progress: called with the number of images that have been compared.
    """
    copies: dict[str, list[ImageFacts]] = {}
    for facts in sorted(scan.facts, key=_preference):
        copies.setdefault(facts.sha256, []).append(facts)
    distinct = list(copies)
    keepers = _star_groups(scan.pixels(distinct), threshold, progress) if threshold <= 1 else {}
    groups: dict[int, list[Duplicate]] = {}
    for index, digest in enumerate(distinct):
        keeper, resemblance = keepers.get(index, (index, 1.0))
        members = copies[digest][1:] if keeper == index else copies[digest]
        groups.setdefault(keeper, []).extend(Duplicate(facts, resemblance, keeper == index) for facts in members)
    result = [
        DuplicateGroup(copies[distinct[keeper]][0], sorted(members, key=_order_in_group))
        for keeper, members in groups.items()
        if members
    ]
    return sorted(result, key=lambda group: (-group.num_bytes, group.kept.image.name))


def _preference(facts: ImageFacts) -> tuple[int, int, str]:
    return -facts.width * facts.height, -facts.num_bytes, facts.image.name


def _order_in_group(duplicate: Duplicate) -> tuple[bool, float, str]:
    return not duplicate.is_exact, -duplicate.resemblance, duplicate.facts.image.name


def _star_groups(
    pixels: NDArray[np.uint8], threshold: float, progress: Callable[[int], None]
) -> dict[int, tuple[int, float]]:
    """Assign images, sorted by preference, to earlier ones that they resemble.

    Returns:
        For each image that joins a group: the index of the image that is kept, and the resemblance to it.
    """
    resemblance = Resemblance(pixels)
    keepers: dict[int, tuple[int, float]] = {}
    for done, pairs in resemblance.candidates():
        earlier = np.minimum(pairs.first, pairs.second)
        order = np.lexsort((np.maximum(pairs.first, pairs.second), earlier))
        _assign(resemblance, Candidates(*(column[order] for column in pairs)), threshold, keepers)
        progress(done)
    return keepers


def _assign(
    resemblance: Resemblance, pairs: Candidates, threshold: float, keepers: dict[int, tuple[int, float]]
) -> None:
    """Measure pairs in their order, and add the images that join a group to `keepers`.

    Pairs with an image that has joined a group are not measured, so that a thousand copies of an image cost a thousand
    measurements and not a million.
    """
    for start in range(0, len(pairs.first), _PAIRS_PER_STEP):
        step = Candidates(*(column[start : start + _PAIRS_PER_STEP] for column in pairs))
        joined = np.fromiter(keepers, np.int64, len(keepers))
        is_open = ~(np.isin(step.first, joined) | np.isin(step.second, joined))
        step = Candidates(*(column[is_open] for column in step))
        measured = resemblance.measure(step)
        for number in np.flatnonzero(measured >= threshold).tolist():
            kept, other = sorted((int(step.first[number]), int(step.second[number])))
            if kept not in keepers and other not in keepers:
                keepers[other] = kept, float(measured[number])
