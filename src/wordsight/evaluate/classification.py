"""Zero-shot classification: accuracy on labelled images."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data import Sample, ShardSet
from wordsight.errors import DataError
from wordsight.evaluate.validation_set import ValidationSet
from wordsight.image import Preprocessing
from wordsight.metrics import Score, accuracy_hits, score_hits
from wordsight.progress import phase
from wordsight.zeroshot import ZeroShotClassifier

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder


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
        labelled = self.labelled
        classes = sorted({sample.names for sample, _ in labelled})
        target_N = np.array([classes.index(sample.names) for sample, _ in labelled])
        weights_KE = ZeroShotClassifier(encoder, classes, templates=self._templates, repeated_labels=True).weights
        with phase(f"evaluating on {self.dataset}"):
            scores_NK = encoder.embed_images([image for _, image in labelled]) @ weights_KE.T
        return [
            score_hits(
                accuracy_hits(scores_NK, target_N),
                dataset=self.dataset,
                metric="accuracy",
                chance=1 / len(classes),
                unreadable=self.images.unreadable,
            )
        ]
