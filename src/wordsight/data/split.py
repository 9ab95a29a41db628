"""The division of images into parts, such as train and val, by a hash of each image.

The part of an image is a function of the seed and of the bytes of its file. Thus equal images are in the same part,
the order of the source makes no difference to them, and adding images later moves none of the others. The price is that
the size of a part is random: a share of 0.1 of 1,000 images gives 100 with a standard deviation of 9.5.

There is one exception: the first image of each label goes to the first part, because a model cannot learn a label that
it never sees. A label that occurs once is therefore always in `train`.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from wordsight.data.manifest import ManifestSplit
from wordsight.data.order import Purpose, draws, stream_of
from wordsight.errors import ConfigError, DataError, counted

PART_NAMES = ("train", "val", "test")
_TOLERANCE = 1e-6
_NUM_SHOWN_LABELS = 3


class Split(msgspec.Struct, frozen=True):
    """How images are divided.

    Attributes:
        shares: the expected share of train and val, or of train, val and test; the sum is 1.
        seed: 0 to 2**64 - 1.
    """

    shares: tuple[float, ...]
    seed: int = 0

    def __post_init__(self) -> None:
        given = "/".join(f"{share:g}" for share in self.shares)
        if not 2 <= len(self.shares) <= len(PART_NAMES):
            raise ConfigError(f"a split into {given}: expected two or three shares, such as 0.9/0.1 or 0.8/0.1/0.1")
        if not all(0 < share < 1 for share in self.shares) or abs(sum(self.shares) - 1) > _TOLERANCE:
            raise ConfigError(
                f"a split into {given}: the sum is {sum(self.shares):g}; expected shares between 0 and 1 whose sum is "
                "1, such as 0.9/0.1"
            )

    @property
    def parts(self) -> tuple[ManifestSplit, ...]:
        """The parts in order, as their manifests record them."""
        shares = dict(zip(PART_NAMES, self.shares, strict=False))
        return tuple(ManifestSplit(part, shares, self.seed) for part in shares)


def parse_split(text: str, seed: int = 0) -> Split:
    """Parse shares such as `0.9/0.1` or `0.8/0.1/0.1`.

    Raises:
        ConfigError: there are not two or three positive numbers with the sum 1.
    """
    try:
        shares = tuple(float(share) for share in text.split("/"))
    except ValueError:
        raise ConfigError(f"a split into {text!r}: expected shares with the sum 1, such as 0.9/0.1") from None
    return Split(shares, seed)


class Splitter:
    """Chooses the part of each image.

    Args:
        split: shares and seed.

    Attributes:
        labels: how often each label has occurred so far, by part.
    """

    def __init__(self, split: Split) -> None:
        self._seed = split.seed
        self._names = [part.part for part in split.parts]
        self._ends = np.cumsum(split.shares)[:-1]
        self._images: dict[bytes, str] = {}  # those that are not where they were drawn, or not in the first part
        self.labels: dict[str, Counter[str]] = {name: Counter() for name in self._names}

    def part_of(self, digest: bytes, label: str = "") -> str:
        """Return the part of an image; call it in the order of the source.

        Args:
            digest: SHA-256 of the image file in the source, which does not depend on how it is packed.
            label: of the image, if it has one.
        """
        part = self._images.get(digest) or self._draw(digest)
        is_new_label = label and not any(count[label] for count in self.labels.values())
        if is_new_label and digest not in self._images:
            part = self._names[0]
        if part != self._names[0] or is_new_label:
            self._images[digest] = part
        if label:
            self.labels[part][label] += 1
        return part

    def notes(self) -> list[str]:
        """Return where the labels are that occur once, and which labels are missing in the first part."""
        total: Counter[str] = sum(self.labels.values(), Counter())
        first = self._names[0]
        once = sorted(label for label, count in self.labels[first].items() if total[label] == count == 1)
        unseen = sorted(total.keys() - self.labels[first].keys())
        notes = []
        if once:
            notes.append(f"{counted(len(once), 'label')} with a single image, in {first}: {_shown(once)}")
        if unseen:
            notes.append(f"{counted(len(unseen), 'label')} without an image in {first}: {_shown(unseen)}")
        return notes

    def _draw(self, digest: bytes) -> str:
        position, epoch = int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")
        number = draws(self._seed, stream_of(Purpose.SPLIT), epoch, position).random()
        return self._names[int(np.searchsorted(self._ends, number, side="right"))]


def check_parts(counts: dict[str, int], split: Split) -> None:
    """Check that each part has samples.

    Raises:
        DataError: one has none; the message says how many images there are.
    """
    empty = next((name for name, count in counts.items() if not count), None)
    if empty is not None and any(counts.values()):
        given = "/".join(f"{share:g}" for share in split.shares)
        raise DataError(
            f"a split into {given}: {empty} would be empty, with {counted(sum(counts.values()), 'sample')} in all; "
            "choose a larger share for it, another seed, or more images"
        )


def _shown(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NUM_SHOWN_LABELS:,} more" if len(labels) > _NUM_SHOWN_LABELS else ""
    return f"{', '.join(repr(label) for label in labels[:_NUM_SHOWN_LABELS])}{more}"
