"""Batches for training; the batch of step s is a function of the data, the plan and s alone.

Threads make whole batches ahead of the consumer; Pillow and the file system release the interpreter lock meanwhile.
Threads share no random state: the sample, its substitute, its text and its crop are drawn for each slot of a batch from
(seed, source, epoch, position), see `order.py`. Therefore the numbers of workers and ranks do not affect the batches,
and resuming needs only the number of the step.

A broken sample is replaced by another one of the same source, drawn from (seed, epoch, position, attempt), and is
listed once in `Loader.broken`. If too large a share of the samples is broken, the run stops and names the worst shard.
"""

import dataclasses
import hashlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from wordsight.data.mixture import SLOT, Mixture, SourceOrder
from wordsight.data.order import Purpose, draws, stream_of
from wordsight.data.sample import BrokenSample, BrokenSampleError, Sample
from wordsight.errors import ConfigError, DataError, ImageError, counted
from wordsight.image import Augmentation, Policy, augment, decode

_MAX_ATTEMPTS = 100
_MIN_SAMPLES_JUDGED = 100

Tokenize: TypeAlias = Callable[[Sequence[str]], NDArray[np.int32]]
"""Maps M texts to (M, L) int32 ids, padded with zeros on the right; the last id of a text is not zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """The settings that determine the content of batches.

    Attributes:
        batch_size: number of pairs in a global batch, over all ranks.
        size_px: side of the square images, or a function that returns it for a step.
        augmentation: default for sources without their own.
        seed: 0 to 2**64 - 1.
        policy: decoding policy; see `wordsight.image.decode`.
        trims_texts: drop the columns of ids that are padding in all texts; must be false for text towers that attend to
            padding.
        max_broken_share: the run stops if a larger share of the distinct samples that were read from a source is
            broken; this is checked after 100 of them, or after all if there are fewer.
    """

    batch_size: int
    size_px: int | Callable[[int], int]
    augmentation: Augmentation
    seed: int = 0
    policy: Policy = "viewer"
    trims_texts: bool = True
    max_broken_share: float = 0.02

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ConfigError(f"batch size {self.batch_size}: expected at least 1")
        if not 0 <= self.seed < 1 << 64:
            raise ConfigError(f"seed {self.seed}: expected 0 to 2**64 - 1")


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """N pairs.

    Attributes:
        step: number of the training step.
        pixels: (N, H, W, 3) uint8, H = W.
        ids: (N, L) int32, where L is the length of the longest text, which differs between ranks.
        text_numbers: (N,) int64; texts that are equal up to case and white space, before they are put into a template,
            have the same number on all ranks.
        own_numbers: (N, T) int64; numbers of all texts of an image, of which one was drawn; padded with zeros.
        own_ids: (N, T, L) int32; ids of all these texts.
        is_label: (N,) bool; whether the text was made from a label.
        keys: keys of the samples.
        texts: the texts that were tokenised.
    """

    step: int
    pixels: torch.Tensor
    ids: torch.Tensor
    text_numbers: torch.Tensor
    own_numbers: torch.Tensor
    own_ids: torch.Tensor
    is_label: torch.Tensor
    keys: tuple[str, ...]
    texts: tuple[str, ...]

    def is_own_text(self) -> torch.Tensor:
        """Return (N, N) bool: whether text m is one of the texts of image n, and therefore not a negative for it."""
        return (self.own_numbers[:, :, None] == self.text_numbers).any(dim=1)


class _Slot(NamedTuple):
    """The texts of one slot of a batch; its image is written into the batch directly."""

    key: str
    text: str
    number: int
    own_texts: tuple[str, ...]
    is_label: bool


class _Attempt(NamedTuple):
    """A sample that was read for a batch; `broken` is None if it could be used."""

    source: int
    number: int
    broken: BrokenSample | None


class _StoppedError(Exception):
    """The loader was closed while a worker was making a batch."""


class _BatchMaker:
    """Makes one rank's part of the batch of any step; shared by all threads."""

    def __init__(self, mixture: Mixture, tokenize: Tokenize, plan: BatchPlan, rank: int, world: int) -> None:
        self._sources = mixture.sources
        self._tokenize = tokenize
        self._plan = plan
        self._counts = mixture.slots(plan.batch_size)
        self._orders = [SourceOrder(source.shards, plan.seed, number) for number, source in enumerate(mixture.sources)]
        slots = [(source, slot) for source, count in enumerate(self._counts) for slot in range(count)]
        share = plan.batch_size // world
        self._slots = slots[rank * share : (rank + 1) * share]
        self.stopped = threading.Event()

    def make(self, step: int, size_px: int) -> tuple[Batch, list[_Attempt]]:
        """Return the batch of a step, and all samples that were read for it."""
        pixels = np.empty((len(self._slots), size_px, size_px, 3), np.uint8)
        attempts: list[_Attempt] = []
        slots = []
        for row, (source, slot) in enumerate(self._slots):
            if self.stopped.is_set():
                raise _StoppedError
            position = step * self._counts[source] + slot
            slots.append(self._fill(source, position, pixels[row], attempts))
        texts = tuple(slot.text for slot in slots)
        ids = self._tokenize(texts)
        own_numbers, own_ids = self._own_texts([slot.own_texts for slot in slots])
        batch = Batch(
            step=step,
            pixels=torch.from_numpy(pixels),
            ids=torch.from_numpy(_trim(ids) if self._plan.trims_texts else ids),
            text_numbers=torch.tensor([slot.number for slot in slots], dtype=torch.int64),
            own_numbers=torch.from_numpy(own_numbers),
            own_ids=torch.from_numpy(own_ids),
            is_label=torch.tensor([slot.is_label for slot in slots], dtype=torch.bool),
            keys=tuple(slot.key for slot in slots),
            texts=texts,
        )
        return batch, attempts

    def _fill(self, source: int, position: int, pixels: NDArray[np.uint8], attempts: list[_Attempt]) -> _Slot:
        """Fill one slot of a batch, with a substitute if its sample is broken."""
        plan, shards = self._plan, self._sources[source].shards
        epoch, index = divmod(position, len(shards))
        number = self._orders[source].sample_at(position)
        broken = []
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                sample = shards.sample(number)
                image = self._decode(sample)
            except BrokenSampleError as error:
                broken.append(error.broken)
                attempts.append(_Attempt(source, number, error.broken))
                generator = draws(plan.seed, stream_of(Purpose.SUBSTITUTE, source), epoch, index, attempt)
                number = int(generator.integers(len(shards)))
                continue
            attempts.append(_Attempt(source, number, None))
            crop = draws(plan.seed, stream_of(Purpose.CROP, source), epoch, index)
            augmentation = self._sources[source].augmentation or plan.augmentation
            pixels[:] = augment(image, pixels.shape[0], augmentation, crop)
            return self._slot_of(source, sample, epoch, index)
        distinct = list(dict.fromkeys((item.shard, item.key, item.reason) for item in broken))
        worst, count = Counter(shard for shard, _, _ in distinct).most_common(1)[0]
        key, reason = next((key, reason) for shard, key, reason in distinct if shard == worst)
        raise DataError(
            f"{worst}: {count} broken samples, the most of any shard; none of {len(distinct)} samples drawn in a row "
            f"can be used; the first: {key}: {reason}; pack it again"
        )

    def _decode(self, sample: Sample) -> NDArray[np.uint8]:
        try:
            return decode(sample.image, self._plan.policy, name=sample.key)
        except ImageError as error:
            reason = str(error).removeprefix(f"{sample.key}: ")
            raise BrokenSampleError(BrokenSample(sample.key, sample.shard, reason)) from error
        except Exception as error:  # the outer edge of a worker: name the sample, whatever the error is
            error.add_note(f"while decoding {sample.key} of {sample.shard}")
            raise

    def _slot_of(self, source: int, sample: Sample, epoch: int, index: int) -> _Slot:
        generator = draws(self._plan.seed, stream_of(Purpose.TEXT, source), epoch, index)
        origin = self._sources[source]
        own_texts = origin.texts_of(sample)
        bare, text = draw_text(own_texts, origin.templates, generator)
        text = drop_words(text, origin.word_dropout, generator)
        return _Slot(sample.key, text, text_number(bare), own_texts, origin.uses_names(sample))

    def _own_texts(self, texts: Sequence[tuple[str, ...]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the numbers (N, T) and ids (N, T, L) of all texts of N images, padded with zeros."""
        is_text = np.arange(max(map(len, texts))) < np.array([[len(own)] for own in texts])
        flat = [text for own in texts for text in own]
        numbers = np.zeros(is_text.shape, np.int64)
        numbers[is_text] = [text_number(text) for text in flat]
        ids = _trim(self._tokenize(flat))
        padded = np.zeros((*is_text.shape, ids.shape[1]), np.int32)
        padded[is_text] = ids
        return numbers, padded


class Loader:
    """An endless iterator over batches, and a context manager that stops its threads.

    Args:
        mixture: the open sources.
        tokenize: maps texts to ids.
        plan: determines the content of batches.
        workers: number of threads that make batches ahead; with 0 each batch is made when it is requested, in the
            caller's thread.
        prefetch: number of batches made ahead, which bounds the memory and the number of busy workers.
        first_step: the step of the first batch, for resuming.
        rank: index of this rank, which gets the rank-th of `world` equal, contiguous parts of every global batch.
        world: number of ranks; must divide the batch size.

    Raises:
        ConfigError: the numbers are inconsistent or out of range.
    """

    def __init__(
        self,
        mixture: Mixture,
        tokenize: Tokenize,
        plan: BatchPlan,
        *,
        workers: int = 0,
        prefetch: int = 3,
        first_step: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if world < 1 or plan.batch_size % world or not 0 <= rank < world:
            raise ConfigError(f"a batch of {plan.batch_size} for rank {rank} of {world}: expected equal parts")
        if workers < 0 or prefetch < 1 or first_step < 0:
            raise ConfigError(f"{workers=}, {prefetch=}, {first_step=}: expected at least 0, 1 and 0")
        self._maker = _BatchMaker(mixture, tokenize, plan, rank, world)
        self._tally = _Tally(mixture, plan.max_broken_share)
        self._size_px = plan.size_px
        self._prefetch = prefetch
        self._next_step = first_step
        self._pool = ThreadPoolExecutor(workers, "wordsight-loader") if workers else None
        self._ahead: deque[Future[tuple[Batch, list[_Attempt]]]] = deque()

    @property
    def broken(self) -> tuple[BrokenSample, ...]:
        """The distinct broken samples of the batches returned so far, in the order of their first occurrence."""
        return tuple(self._tally.broken)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """Return the batch of the next step.

        Raises:
            DataError: a shard cannot be read, or too many samples are broken.
            StopIteration: the loader was closed.
        """
        if self._maker.stopped.is_set():
            raise StopIteration
        try:
            batch, attempts = self._make_next()
            self._tally.add(attempts)
        except BaseException:
            self.close()
            raise
        return batch

    def close(self) -> None:
        """Stop the threads; can be called more than once."""
        self._maker.stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_next(self) -> tuple[Batch, list[_Attempt]]:
        if self._pool is None:
            return self._maker.make(*self._take_step())
        while len(self._ahead) < self._prefetch:
            self._ahead.append(self._pool.submit(self._maker.make, *self._take_step()))
        result = self._ahead.popleft().result()
        self._ahead.append(self._pool.submit(self._maker.make, *self._take_step()))
        return result

    def _take_step(self) -> tuple[int, int]:
        """Advance to the next step, and return it with its image size."""
        step = self._next_step
        self._next_step += 1
        return step, self._size_px(step) if callable(self._size_px) else self._size_px


class _Tally:
    """The distinct samples used so far, and the broken ones among them.

    It is updated only by the consumer, in the order of batches, so that it does not depend on the workers either.
    """

    def __init__(self, mixture: Mixture, max_share: float) -> None:
        self._sources = mixture.sources
        self._max_share = max_share
        self._is_used = [np.zeros(len(source.shards), bool) for source in mixture.sources]
        self._num_used = [0] * len(mixture.sources)
        self._broken_shards: list[Counter[str]] = [Counter() for _ in mixture.sources]
        self.broken: list[BrokenSample] = []

    def add(self, attempts: Sequence[_Attempt]) -> None:
        """Count the samples of one batch.

        Raises:
            DataError: too many samples of a source are broken.
        """
        for source, number, broken in attempts:
            if self._is_used[source][number]:
                continue
            self._is_used[source][number] = True
            self._num_used[source] += 1
            if broken is not None:
                self.broken.append(broken)
                self._broken_shards[source][broken.shard] += 1
        for source, shards in enumerate(self._broken_shards):
            if shards:
                self._judge(source, shards)

    def _judge(self, source: int, shards: Counter[str]) -> None:
        num_used = self._num_used[source]
        num_broken = shards.total()
        if num_used < min(_MIN_SAMPLES_JUDGED, len(self._is_used[source])) or num_broken <= self._max_share * num_used:
            return
        worst, count = shards.most_common(1)[0]
        example = next(item for item in self.broken if item.shard == worst)
        raise DataError(
            f"{worst}: {counted(count, 'broken sample')}, the most of any shard; {num_broken} of {num_used} samples "
            f"read are broken, more than {self._max_share:.1%}; the first: {example.key}: {example.reason}; "
            "pack it again"
        )


def draw_text(texts: Sequence[str], templates: Sequence[str], generator: np.random.Generator) -> tuple[str, str]:
    """Draw one of a sample's texts, which are captions or the names of its label.

    Returns:
        The text alone, and the text in one of the templates, if there are any.
    """
    text = texts[int(generator.integers(len(texts)))]
    if not templates:
        return text, text
    return text, templates[int(generator.integers(len(templates)))].replace(SLOT, text)


def drop_words(text: str, probability: float, generator: np.random.Generator) -> str:
    """Leave out each word of a text with the given probability, but keep at least one.

    This is an augmentation for small datasets, whose captions are repeated often.
    """
    words = text.split()
    if not probability or not words:
        return text
    drawn = generator.random(len(words))
    kept = [word for word, number in zip(words, drawn, strict=True) if number >= probability]
    return " ".join(kept or [words[int(drawn.argmax())]])


def text_number(text: str) -> int:
    """Hash a text to 64 bits (BLAKE2b), ignoring case and white space."""
    digest = hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _trim(ids_NL: NDArray[np.int32]) -> NDArray[np.int32]:
    """Drop the columns on the right that are padding in every text."""
    used = np.flatnonzero(ids_NL.any(axis=0))
    return np.ascontiguousarray(ids_NL[:, : used[-1] + 1 if len(used) else 1])
