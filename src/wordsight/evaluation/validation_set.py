"""The images of a validation set, decoded and preprocessed once and then kept in memory."""

import hashlib
import json
from collections.abc import Iterable, Sequence
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
        self._rows: list[bytes] = []

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
            digest = hashlib.sha256(sample.image)
            self.digests[digest.digest()] = len(sample.image)
            self._rows.append(row_digest(digest.hexdigest(), sample.captions, sample.names))
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
    def data_sha256(self) -> str:
        """Hash of the readable images with their texts; see `data_sha256`."""
        _ = self.samples
        return data_sha256(self._rows)

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return len(self._shards) - len(self.samples)


def row_digest(image_sha256: str, captions: Sequence[str], names: Sequence[str]) -> bytes:
    """Return the SHA-256 of one image, given that of its file, with its captions and the names of its label."""
    return hashlib.sha256(json.dumps([image_sha256, sorted(captions), names]).encode()).digest()


def data_sha256(rows: Iterable[bytes]) -> str:
    """Return the hash of evaluated data from its `row_digest`s, whatever their order and the format of the data."""
    return hashlib.sha256(b"".join(sorted(rows))).hexdigest()


def dataset_name(path: str | Path) -> str:
    """Return the name of a dataset in scores: the last component of its path, without suffix."""
    stem = Path(str(path).rstrip("/")).stem
    return printable(stem if stem.strip(".") else Path(path).resolve().stem)
