"""The images of a validation set, decoded and preprocessed once and then kept in memory."""

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordsight.data import BrokenSampleError, Sample, ShardSet
from wordsight.errors import ImageError
from wordsight.image import Preprocessing, decode, resize_and_crop


class ValidationSet:
    """The readable samples of a set of shards, with their images at the model's size.

    Args:
        shards: the samples.
        preprocessing: of the model; images are resized and cropped accordingly and kept as uint8.
    """

    def __init__(self, shards: ShardSet, preprocessing: Preprocessing) -> None:
        self._shards = shards
        self._preprocessing = preprocessing

    @cached_property
    def samples(self) -> list[tuple[Sample, NDArray[np.uint8]]]:
        """Each readable sample with its (S, S, 3) image."""
        readable = []
        for index in range(len(self._shards)):
            try:
                sample = self._shards.sample(index)
                image = decode(sample.image, name=sample.key)
            except (BrokenSampleError, ImageError):
                continue
            readable.append((sample, resize_and_crop(image, self._preprocessing)))
        return readable

    @property
    def unreadable(self) -> int:
        """Number of images that could not be read."""
        return len(self._shards) - len(self.samples)


def dataset_name(path: str | Path) -> str:
    """Return the name of a validation set in scores: the last component of its path, without suffix."""
    return Path(str(path).rstrip("/")).stem
