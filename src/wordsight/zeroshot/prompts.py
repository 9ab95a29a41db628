"""Checks of the prompts before they are embedded: labels that become the same text, and labels that are truncated."""

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from wordsight.data.named_class import quote
from wordsight.errors import ConfigError, counted
from wordsight.zeroshot.labels import normalise_name
from wordsight.zeroshot.templates import SLOT

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

T = TypeVar("T")

_TEXTS_PER_BATCH = 4096
_DIGEST_BYTES = 16


def check_prompts(clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]) -> None:
    """Refuse labels that become the same text, and warn once if labels are longer than the model's context.

    The fewer ids a template has before the slot, the more of a name it keeps: labels that are the same after the
    shortest of these starts are the same in all templates. A label is truncated if it is after the longest.

    Raises:
        ConfigError: two labels with different names have the same ids.
    """
    starts = sorted({template.partition(SLOT)[0] for template in templates}, key=lambda start: _num_ids(clip, start))
    truncated: dict[int, None] = {}
    _check_distinct(clip, labels, starts[0], truncated)
    if len(starts) > 1:
        for _ in _label_ids(clip, labels, starts[-1], truncated):
            pass
    if truncated:
        are = "is" if len(truncated) == 1 else "are"
        warnings.warn(
            f"{len(truncated):,} of {counted(len(labels), 'label')} {are} longer than the model's context of "
            f"{clip.card.tokenizer.context_length} ids and truncated: {quote(labels[next(iter(truncated))][0])}",
            stacklevel=3,
        )


def _num_ids(clip: "DualEncoder", text: str) -> int:
    return len(clip.tokenizer.encode(text))


def _check_distinct(
    clip: "DualEncoder", labels: Sequence[tuple[str, ...]], start: str, truncated: dict[int, None]
) -> None:
    digests = [hashlib.blake2b(digest_size=_DIGEST_BYTES) for _ in labels] if len(labels) > 1 else []
    for index, ids in _label_ids(clip, labels, start, truncated):
        if digests:
            digests[index].update(ids)
    first: dict[bytes, int] = {}
    for index, digest in enumerate(digests):
        earlier = first.setdefault(digest.digest(), index)
        a, b = labels[earlier][0], labels[index][0]
        if normalise_name(a) != normalise_name(b):
            why = (
                f"after the model's context of {clip.card.tokenizer.context_length} ids; shorten them"
                if index in truncated
                else "for the model's tokenizer; remove one, or add a word to tell them apart"
            )
            raise ConfigError(f"labels {quote(a)} and {quote(b)} are the same text {why}")


def _label_ids(
    clip: "DualEncoder", labels: Sequence[tuple[str, ...]], start: str, truncated: dict[int, None]
) -> Iterator[tuple[int, bytes]]:
    """Yield the index of the label and the ids of each of its names after a text; add truncated labels to a set."""
    texts = ((index, start + name) for index, names in enumerate(labels) for name in names)
    end_id = getattr(clip.tokenizer, "end_id", None)
    for batch in batches(texts, _TEXTS_PER_BATCH):
        ids_ML = clip.tokenizer([text for _, text in batch], on_truncated=_recorder(batch, truncated))
        if end_id is not None:  # a published CLIP text tower ignores everything after the first end token
            is_end_ML = ids_ML == end_id
            ids_ML[np.cumsum(is_end_ML, axis=1) - is_end_ML > 0] = 0
        for (index, _), ids_L in zip(batch, ids_ML, strict=True):
            yield index, ids_L.tobytes()


def _recorder(batch: Sequence[tuple[int, str]], truncated: dict[int, None]) -> Callable[[int], None]:
    def record(row: int) -> None:
        truncated[batch[row][0]] = None

    return record


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most `size` items."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
