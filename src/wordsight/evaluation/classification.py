"""Zero-shot classification: accuracy on labelled images."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data import Sample, ShardSet
from wordsight.errors import DataError
from wordsight.evaluation.measurement import Measurement
from wordsight.evaluation.validation_set import ValidationSet
from wordsight.image import Preprocessing
from wordsight.metrics import Score, positions_by_embedding
from wordsight.progress import phase
from wordsight.zeroshot import ZeroShotClassifier

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

TOP_K = 5
"""Accuracy@5 is reported if there are more classes than this."""


def classes_of(names: Sequence[tuple[str, ...]]) -> tuple[list[tuple[str, ...]], NDArray[np.int64]]:
    """Return the names of the K classes that occur, sorted, and the class of each image, (N,).

    Args:
        names: for each image the names of its label; equal names are one class.
    """
    classes = sorted(set(names))
    index_of = {label: index for index, label in enumerate(classes)}
    return classes, np.array([index_of[label] for label in names], np.int64)


def measure_classification(
    image_NE: NDArray[np.float32], weights_KE: NDArray[np.float32], target_N: NDArray[np.int64]
) -> list[Measurement]:
    """Measure accuracy, accuracy@5 if there are more than five classes, and mean per-class accuracy.

    Mean per-class accuracy weights each class that occurs equally, however many images it has. With different weights,
    N images determine it as well as (sum of weights)^2 / sum of squared weights images of equal weight (Kish's
    effective sample size), which is the n of its Wilson interval; n of the score is the number of images.

    Args:
        image_NE: unit embeddings of the images.
        weights_KE: unit embeddings of the classes.
        target_N: class of each image; every class occurs.
    """
    num_images, num_classes = len(image_NE), len(weights_KE)
    positions = positions_by_embedding(image_NE, weights_KE, np.arange(num_images), target_N)
    hits_N = positions.hits(1)
    measurements = [Measurement("accuracy", hits_N, 1 / num_classes)]
    if num_classes > TOP_K:
        measurements.append(Measurement(f"accuracy@{TOP_K}", positions.hits(TOP_K), TOP_K / num_classes))
    counts_K = np.bincount(target_N, minlength=num_classes)
    value_N = hits_N * (num_images / num_classes / counts_K[target_N])
    effective_n = float(num_classes**2 / (1 / counts_K).sum())
    basis = "with Kish's effective sample size"
    return [*measurements, Measurement("mean_per_class_accuracy", value_N, 1 / num_classes, effective_n, basis)]


class Classification:
    """An evaluator: zero-shot accuracy on labelled images, among the classes that occur in the set.

    Args:
        shards: images with labels; others are ignored.
        dataset: name of the dataset in the scores.
        templates: prompt templates of the classifier, each with one `{}`.
        preprocessing: of the models that will be evaluated.
        max_unreadable_share: a larger share of unreadable images is an error.

    Attributes:
        metrics: names of the metrics of its scores.
        dataset: as above.
        images: the set, which is decoded when it is first needed.
    """

    metrics = ("accuracy",)

    def __init__(
        self,
        shards: ShardSet,
        dataset: str,
        templates: Sequence[str],
        preprocessing: Preprocessing,
        max_unreadable_share: float = 1.0,
    ) -> None:
        self.dataset = dataset
        self._templates = tuple(templates)
        self.images = ValidationSet(shards, preprocessing, dataset, max_unreadable_share)

    @cached_property
    def labelled(self) -> list[tuple[Sample, NDArray[np.uint8]]]:
        """The samples with labels.

        Raises:
            DataError: the set contains no readable image with a label, or too many unreadable ones.
        """
        labelled = [(sample, image) for sample, image in self.images.samples if sample.names]
        if not labelled:
            raise DataError(
                f"{self.dataset}: no images with labels, as validation.labels requires; "
                "list images with captions under validation.retrieval"
            )
        return labelled

    def prepare(self) -> None:
        """Decode the images now and report what is wrong with the set; errors as for `labelled`."""
        _ = self.labelled

    def __call__(self, encoder: "DualEncoder", steps: int) -> list[Score]:
        """Evaluate an encoder; see `labelled` for errors."""
        classes, target_N = classes_of([sample.names for sample, _ in self.labelled])
        with phase(f"evaluating on {self.dataset}"):
            weights_KE = ZeroShotClassifier(encoder, classes, templates=self._templates, repeated_labels=True).weights
            image_NE = encoder.embed_images([image for _, image in self.labelled])
        measurements = measure_classification(image_NE, weights_KE, target_N)
        scores = [measured.score(self.dataset, self.images.unreadable) for measured in measurements]
        return [score for score in scores if score.metric in self.metrics]
