"""The built-in evaluators: retrieval on captioned pairs, zero-shot labels on labelled images.

An evaluator is `Callable[[DualEncoder, int], Mapping[str, float]]`: a model and the number of steps that trained it
in, scores out. Beside a score `name` stand `name.low` and `name.high` (its 95 % interval) and `name.chance`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wordsight.data import BrokenSampleError, Sample, ShardSet
from wordsight.encoder import DualEncoder
from wordsight.errors import DataError, ImageError
from wordsight.image import Preprocessing, decode, resize_and_crop
from wordsight.metrics import Score, accuracy_hits, recall_chance, recall_hits, share, wilson_interval
from wordsight.zeroshot import ZeroShotClassifier

Evaluator = Callable[[DualEncoder, int], Mapping[str, float]]

KS = (1, 5, 10)


def retrieval_scores(
    image_NE: NDArray[np.float32], text_ME: NDArray[np.float32], owner_M: Sequence[int]
) -> list[Score]:
    """Recall at 1, 5 and 10 both ways.

    Image to text a image's hit is any of its captions; text to image each caption has one image. The captions of
    a image are not independent, so the second interval counts images, not captions.

    Args:
        image_NE: unit embeddings of the images.
        text_ME: unit embeddings of all their captions.
        owner_M: for each caption the number of its image.
    """
    similarity_NM = image_NE @ text_ME.T
    owner = np.asarray(owner_M)
    captions_of = [np.flatnonzero(owner == number).tolist() for number in range(len(image_NE))]
    figures = []
    for rank in KS:
        chance = float(np.mean([recall_chance(len(owner), len(own), rank) for own in captions_of]))
        figures.append(share(f"image_to_text_recall_at_{rank}", recall_hits(similarity_NM, captions_of, rank), chance))
    for rank in KS:
        hits = recall_hits(similarity_NM.T, [[int(number)] for number in owner], rank)
        value = float(hits.mean())
        low, high = wilson_interval(value * len(image_NE), len(image_NE))
        chance = recall_chance(len(image_NE), 1, rank)
        name = f"text_to_image_recall_at_{rank}"
        figures.append(Score(name, value, low, high, len(image_NE), chance, "Wilson 95 % over images"))
    return figures


def as_scores(prefix: str, figures: Sequence[Score]) -> dict[str, float]:
    """Figures as flat scores, each with its interval and chance."""
    scores: dict[str, float] = {}
    for figure in figures:
        name = f"{prefix}/{figure.name}"
        scores |= {name: figure.value, f"{name}.low": figure.low, f"{name}.high": figure.high}
        scores[f"{name}.chance"] = figure.chance
    return scores


def selection_score(scores: Mapping[str, float]) -> float:
    """The one number by which the best model is chosen: the mean of recall at 10 and accuracy over all sets."""
    parts = [value for name, value in scores.items() if name.endswith(("_recall_at_10", "/accuracy"))]
    return sum(parts) / len(parts) if parts else 0.0


class _Squares:
    """The samples of a validation set with their images at the model's size, decoded once and kept as uint8."""

    def __init__(self, shards: ShardSet, preprocessing: Preprocessing) -> None:
        self._shards = shards
        self._preprocessing = preprocessing

    @cached_property
    def items(self) -> list[tuple[Sample, NDArray[np.uint8]]]:
        """Readable samples and (S, S, 3) uint8 images."""
        return list(self._read())

    def _read(self) -> Iterator[tuple[Sample, NDArray[np.uint8]]]:
        for number in range(len(self._shards)):
            try:
                sample = self._shards.sample(number)
                image = decode(sample.image, name=sample.key)
            except (BrokenSampleError, ImageError):
                continue
            yield sample, resize_and_crop(image, self._preprocessing)


class Retrieval:
    """Recall both ways on captioned pairs."""

    def __init__(self, shards: ShardSet, name: str, preprocessing: Preprocessing) -> None:
        self._name = name
        self._squares = _Squares(shards, preprocessing)

    def __call__(self, encoder: DualEncoder, steps: int) -> Mapping[str, float]:
        """Scores of a model.

        Raises:
            DataError: no sample of the set has a image and a caption.
        """
        items = [(sample, square) for sample, square in self._squares.items if sample.captions]
        if not items:
            raise DataError(f"{self._name}: no captioned images to validate on; labelled ones belong under labels")
        image_NE = encoder.embed_images([square for _, square in items])
        text_ME = encoder.embed_texts([caption for sample, _ in items for caption in sample.captions])
        owner = [number for number, (sample, _) in enumerate(items) for _ in sample.captions]
        return as_scores(self._name, retrieval_scores(image_NE, text_ME, owner))


class Classification:
    """Zero-shot accuracy on labelled images, among the labels that occur in the set."""

    def __init__(self, shards: ShardSet, name: str, templates: Sequence[str], preprocessing: Preprocessing) -> None:
        self._name = name
        self._templates = tuple(templates)
        self._squares = _Squares(shards, preprocessing)

    def __call__(self, encoder: DualEncoder, steps: int) -> Mapping[str, float]:
        """Scores of a model.

        Raises:
            DataError: no sample of the set has a image and a label.
        """
        items = [(sample, square) for sample, square in self._squares.items if sample.names]
        if not items:
            raise DataError(f"{self._name}: no labelled images to validate on; captioned ones belong under retrieval")
        names = sorted({sample.names for sample, _ in items})
        label_N = np.array([names.index(sample.names) for sample, _ in items])
        weights_KE = ZeroShotClassifier(encoder, names, templates=self._templates).weights
        scores_NK = encoder.embed_images([square for _, square in items]) @ weights_KE.T
        return as_scores(self._name, [share("accuracy", accuracy_hits(scores_NK, label_N), 1 / len(names))])


def set_name(path: str | Path) -> str:
    """How a validation set is called in scores: the last part of its path."""
    return Path(str(path).rstrip("/")).stem
