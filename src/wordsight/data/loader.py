"""Batches for training: what step s holds is a function of data, plan and s, and of nothing else.

Threads make whole batches ahead of the consumer (Pillow and the file system release the interpreter while they work).
None of them carries anything from one place to the next: order, substitute, text and crop of a place are drawn from
(seed, source, epoch, position), see `order.py`. So the number of workers, a resume and the number of ranks change
nothing, and resuming needs the step alone.

A broken sample leaves its place to another of its source, drawn by (seed, epoch, position, attempt); it is listed once
in `Loader.broken`. When too large a share of the samples seen is broken, the run stops and names the worst shard.
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
from wordsight.errors import ConfigError, DataError, ImageError
from wordsight.image import Augmentation, Policy, augment, decode

_MAX_ATTEMPTS = 100
_SEEN_BEFORE_JUDGED = 100

Tokenize: TypeAlias = Callable[[Sequence[str]], NDArray[np.int32]]
"""M texts to (M, L) int32, padded with zeros on the right, the last id of a text not zero."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchPlan:
    """What decides the content of batches.

    Attributes:
        batch_size: places in a global batch, over all ranks.
        size_px: side of the square images, or a function that gives it for a step.
        augmentation: how crops are drawn, where a source does not say it.
        seed: 0 to 2**64 - 1.
        policy: how a file is looked at; see `wordsight.image.decode`.
        trims_texts: drop the columns of ids in which every text is over; not for text towers that read their padding.
        max_broken_share: of the distinct samples seen of a source, above which the run stops; judged after 100 of them,
            or after all if there are fewer.
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
        step: whose batch this is.
        pixels: (N, H, W, 3) uint8, H = W.
        ids: (N, L) int32, L the ids of the longest text here, so not the same on every rank.
        text_numbers: (N,) int64; texts equal but for case and white space, before a template is put around them, have
            the same number, on all ranks.
        own_numbers: (N, T) int64; the numbers of all texts of a image, of which one was drawn; padded with zeros.
        own_ids: (N, T, L) int32, the ids of all these texts.
        is_label: (N,) bool, whether the text was made from a label.
        keys: of the samples.
        texts: as they were tokenised.
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
        """(N, N) bool: whether text m is one of image n's texts, and so no false answer to it."""
        return (self.own_numbers[:, :, None] == self.text_numbers).any(dim=1)


class _Place(NamedTuple):
    """One filled place of a batch."""

    key: str
    text: str
    number: int
    own_texts: tuple[str, ...]
    is_label: bool


class _Seen(NamedTuple):
    """A sample that was looked at, and what is wrong with it."""

    source: int
    number: int
    broken: BrokenSample | None


class _StoppedError(Exception):
    """The loader was closed while a worker was busy."""


class _Maker:
    """Makes the part of any step's batch that belongs to one rank; threads share it."""

    def __init__(self, mixture: Mixture, tokenize: Tokenize, plan: BatchPlan, rank: int, world: int) -> None:
        self._sources = mixture.sources
        self._tokenize = tokenize
        self._plan = plan
        self._counts = mixture.slots(plan.batch_size)
        self._walks = [SourceOrder(source.shards, plan.seed, number) for number, source in enumerate(mixture.sources)]
        owners = [(source, place) for source, count in enumerate(self._counts) for place in range(count)]
        share = plan.batch_size // world
        self._owners = owners[rank * share : (rank + 1) * share]
        self.stopped = threading.Event()

    def make(self, step: int, size_px: int) -> tuple[Batch, list[_Seen]]:
        """The batch of a step, and all samples that were looked at for it."""
        pixels = np.empty((len(self._owners), size_px, size_px, 3), np.uint8)
        seen: list[_Seen] = []
        places = []
        for row, (source, place) in enumerate(self._owners):
            if self.stopped.is_set():
                raise _StoppedError
            position = step * self._counts[source] + place
            places.append(self._fill(source, position, pixels[row], seen))
        texts = tuple(place.text for place in places)
        ids = self._tokenize(texts)
        own_numbers, own_ids = self._own([place.own_texts for place in places])
        batch = Batch(
            step=step,
            pixels=torch.from_numpy(pixels),
            ids=torch.from_numpy(_trim(ids) if self._plan.trims_texts else ids),
            text_numbers=torch.tensor([place.number for place in places], dtype=torch.int64),
            own_numbers=torch.from_numpy(own_numbers),
            own_ids=torch.from_numpy(own_ids),
            is_label=torch.tensor([place.is_label for place in places], dtype=torch.bool),
            keys=tuple(place.key for place in places),
            texts=texts,
        )
        return batch, seen

    def _fill(self, source: int, position: int, square: NDArray[np.uint8], seen: list[_Seen]) -> _Place:
        """Fill one place of a batch, by a substitute where its sample is broken."""
        plan, shards = self._plan, self._sources[source].shards
        epoch, place = divmod(position, len(shards))
        number = self._walks[source].sample_at(position)
        broken = []
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                sample = shards.sample(number)
                image = self._decode(sample)
            except BrokenSampleError as error:
                broken.append(error.broken)
                seen.append(_Seen(source, number, error.broken))
                generator = draws(plan.seed, stream_of(Purpose.SUBSTITUTE, source), epoch, place, attempt)
                number = int(generator.integers(len(shards)))
                continue
            seen.append(_Seen(source, number, None))
            crop = draws(plan.seed, stream_of(Purpose.CROP, source), epoch, place)
            augmentation = self._sources[source].augmentation or plan.augmentation
            square[:] = augment(image, square.shape[0], augmentation, crop)
            return self._place_of(source, sample, epoch, place)
        worst, count = Counter(item.shard for item in broken).most_common(1)[0]
        raise DataError(
            f"{worst}: {count} of {_MAX_ATTEMPTS} samples drawn one after another are broken; "
            f"the last: {broken[-1].key}: {broken[-1].reason}"
        )

    def _decode(self, sample: Sample) -> NDArray[np.uint8]:
        try:
            return decode(sample.image, self._plan.policy, name=sample.key)
        except ImageError as error:
            reason = str(error).removeprefix(f"{sample.key}: ")
            raise BrokenSampleError(BrokenSample(sample.key, sample.shard, reason)) from error
        except Exception as error:  # the edge of a worker: whatever it is, say which sample
            error.add_note(f"while decoding {sample.key} of {sample.shard}")
            raise

    def _place_of(self, source: int, sample: Sample, epoch: int, place: int) -> _Place:
        generator = draws(self._plan.seed, stream_of(Purpose.TEXT, source), epoch, place)
        bare, text = draw_text(sample, self._sources[source].templates, generator)
        text = drop_words(text, self._sources[source].word_dropout, generator)
        own_texts = sample.captions or sample.names
        return _Place(sample.key, text, text_number(bare), own_texts, is_label=not sample.captions)

    def _own(self, texts: Sequence[tuple[str, ...]]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Numbers (N, T) and ids (N, T, L) of all texts of N images."""
        is_there = np.arange(max(map(len, texts))) < np.array([[len(own)] for own in texts])
        flat = [text for own in texts for text in own]
        numbers = np.zeros(is_there.shape, np.int64)
        numbers[is_there] = [text_number(text) for text in flat]
        ids = _trim(self._tokenize(flat))
        padded = np.zeros((*is_there.shape, ids.shape[1]), np.int32)
        padded[is_there] = ids
        return numbers, padded


class Loader:
    """An endless iterator over batches; a context manager that ends its threads.

    Args:
        mixture: the open sources.
        tokenize: texts to ids.
        plan: what decides the content.
        workers: threads that make batches ahead; 0 makes each batch when it is asked for, in the caller's thread.
        prefetch: finished or unfinished batches held ahead, the bound on memory; as many workers can be busy at once.
        first_step: the step of the first batch, for a resume.
        rank: which part of every global batch is wanted: the rank-th of `world` equal, contiguous parts.
        world: number of ranks, a divisor of the batch size.

    Raises:
        ConfigError: the numbers do not fit one another.
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
            raise ConfigError(f"{workers} workers, {prefetch} batches ahead, first step {first_step}: too few")
        self._maker = _Maker(mixture, tokenize, plan, rank, world)
        self._tally = _Tally(mixture, plan.max_broken_share)
        self._size_px = plan.size_px
        self._prefetch = prefetch
        self._next_step = first_step
        self._pool = ThreadPoolExecutor(workers, "wordsight-loader") if workers else None
        self._ahead: deque[Future[tuple[Batch, list[_Seen]]]] = deque()

    @property
    def broken(self) -> tuple[BrokenSample, ...]:
        """The broken samples met in the batches handed out so far, each once, in the order in which they were met."""
        return tuple(self._tally.broken)

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        """The next step's batch.

        Raises:
            DataError: a shard cannot be read, or too many samples are broken.
            StopIteration: the loader was closed.
        """
        if self._maker.stopped.is_set():
            raise StopIteration
        try:
            batch, seen = self._make_next()
            self._tally.add(seen)
        except BaseException:
            self.close()
            raise
        return batch

    def close(self) -> None:
        """End the threads; may be called twice."""
        self._maker.stopped.set()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_next(self) -> tuple[Batch, list[_Seen]]:
        if self._pool is None:
            return self._maker.make(*self._take_step())
        while len(self._ahead) < self._prefetch:
            self._ahead.append(self._pool.submit(self._maker.make, *self._take_step()))
        result = self._ahead.popleft().result()
        self._ahead.append(self._pool.submit(self._maker.make, *self._take_step()))
        return result

    def _take_step(self) -> tuple[int, int]:
        """The next step to be made, and its size."""
        step = self._next_step
        self._next_step += 1
        return step, self._size_px(step) if callable(self._size_px) else self._size_px


class _Tally:
    """Which samples were seen and which of them are broken; kept by the consumer alone, in the order of batches."""

    def __init__(self, mixture: Mixture, max_share: float) -> None:
        self._sources = mixture.sources
        self._max_share = max_share
        self._seen = [np.zeros(len(source.shards), bool) for source in mixture.sources]
        self._num_seen = [0] * len(mixture.sources)
        self._broken_shards: list[Counter[str]] = [Counter() for _ in mixture.sources]
        self.broken: list[BrokenSample] = []

    def add(self, seen: Sequence[_Seen]) -> None:
        """Count the samples of one batch.

        Raises:
            DataError: too many of a source are broken.
        """
        for source, number, broken in seen:
            if self._seen[source][number]:
                continue
            self._seen[source][number] = True
            self._num_seen[source] += 1
            if broken is not None:
                self.broken.append(broken)
                self._broken_shards[source][broken.shard] += 1
        for source, shards in enumerate(self._broken_shards):
            if shards:
                self._judge(source, shards)

    def _judge(self, source: int, shards: Counter[str]) -> None:
        num_seen = self._num_seen[source]
        num_broken = shards.total()
        if num_seen < min(_SEEN_BEFORE_JUDGED, len(self._seen[source])) or num_broken <= self._max_share * num_seen:
            return
        worst, count = shards.most_common(1)[0]
        example = next(item for item in self.broken if item.shard == worst)
        raise DataError(
            f"{worst}: {count} broken samples, the most of any shard; {num_broken} of {num_seen} seen are broken, more "
            f"than {self._max_share:.1%}; the first: {example.key}: {example.reason}; pack the shards again"
        )


def draw_text(sample: Sample, templates: Sequence[str], generator: np.random.Generator) -> tuple[str, str]:
    """One of a sample's captions, or of the names of its label: alone, and in one of the templates if there are any."""
    texts = sample.captions or sample.names
    text = texts[int(generator.integers(len(texts)))]
    if not templates:
        return text, text
    return text, templates[int(generator.integers(len(templates)))].replace(SLOT, text)


def drop_words(text: str, probability: float, generator: np.random.Generator) -> str:
    """A text without some of its words, but for one at least: an augmentation where captions are few and seen often."""
    words = text.split()
    if not probability or not words:
        return text
    drawn = generator.random(len(words))
    kept = [word for word, number in zip(words, drawn, strict=True) if number >= probability]
    return " ".join(kept or [words[int(drawn.argmax())]])


def text_number(text: str) -> int:
    """A number that equal texts share, whatever their case and white space: 64 bits of BLAKE2b."""
    digest = hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _trim(ids_NL: NDArray[np.int32]) -> NDArray[np.int32]:
    """Without the columns in which every text is over."""
    used = np.flatnonzero(ids_NL.any(axis=0))
    return np.ascontiguousarray(ids_NL[:, : used[-1] + 1 if len(used) else 1])
