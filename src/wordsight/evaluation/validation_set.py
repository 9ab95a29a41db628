"""The images of a validation set, decoded and preprocessed once and then kept in memory."""

import hashlib
from functools import cached_property
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.data import BrokenSampleError, Sample, ShardSet
from wordsight.errors import DataError, ImageError, printable
from wordsight.image import Preprocessing, decode, resize_and_crop
from wordsight.progress import tracked


class ValidationSet:
    """The readable samples of a set of shards, with their images at the model's size.

    Args:
        shards: the samples.
        preprocessing: of the model; images are resized and cropped accordingly and kept as uint8.
        dataset: name of the set in errors.
        max_unreadable_share: a larger share of unreadable images is an error, because scores of the others would say
            little about the set.

    Attributes:
        digests: SHA-256 of the file of each readable image -> its size in bytes; complete after `samples` was used.
    """

    def __init__(
        self, shards: ShardSet, preprocessing: Preprocessing, dataset: str = "", max_unreadable_share: float = 1.0
    ) -> None:
        self._shards = shards
        self._preprocessing = preprocessing
        self._dataset = dataset
        self._max_unreadable_share = max_unreadable_share
        self.digests: dict[bytes, int] = {}
        self._content = hashlib.sha256()

    @cached_property
    def samples(self) -> list[tuple[Sample, NDArray[np.uint8]]]:
        """Each readable sample, without the bytes of its file, and its (S, S, 3) image.

        Raises:
            DataError: more images are unreadable than `max_unreadable_share` permits.
        """
        readable = []
        reason = ""
        for index in tracked(range(len(self._shards)), f"decoding {self._dataset}", "images"):
            try:
                sample = self._shards.sample(index)
                image = resize_and_crop(decode(sample.image, name=sample.key), self._preprocessing, sample.key)
            except (BrokenSampleError, ImageError) as error:
                reason = reason or str(error)
                continue
            digest = hashlib.sha256(sample.image).digest()
            self.digests[digest] = len(sample.image)
            self._content.update(digest + msgspec.json.encode([sample.captions, sample.names]))
            readable.append((msgspec.structs.replace(sample, image=b""), image))
        num_unreadable = len(self._shards) - len(readable)
        if num_unreadable > self._max_unreadable_share * len(self._shards):
            raise DataError(
                f"{self._dataset}: {num_unreadable} of {len(self._shards)} validation samples are unreadable, more "
                f"than {self._max_unreadable_share:.1%}; the first: {reason}; pack the set again, or raise "
                "validation.max_unreadable_share"
            )
        return readable

    @property
    def content_hash(self) -> str:
        """Hash of the readable images with their captions and names, in their order: equal sets have equal hashes."""
        _ = self.samples
        return self._content.hexdigest()[:16]

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return len(self._shards) - len(self.samples)


def dataset_name(path: str | Path) -> str:
    """Return the name of a dataset in scores: the last component of its path, without suffix."""
    stem = Path(str(path).rstrip("/")).stem
    return printable(stem if stem.strip(".") else Path(path).resolve().stem)
