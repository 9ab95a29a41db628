"""Zero-shot classification: accuracy on labelled images."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wordsight.data import ShardSet
from wordsight.errors import DataError
from wordsight.evaluate.validation_set import ValidationSet
from wordsight.image import Preprocessing
from wordsight.metrics import Score, accuracy_hits, score_hits
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
    """

    def __init__(self, shards: ShardSet, dataset: str, templates: Sequence[str], preprocessing: Preprocessing) -> None:
        self._dataset = dataset
        self._templates = tuple(templates)
        self._images = ValidationSet(shards, preprocessing)

    def __call__(self, encoder: "DualEncoder", steps: int) -> list[Score]:
        """Evaluate an encoder.

        Raises:
            DataError: the set contains no readable image with a label.
        """
        labelled = [(sample, image) for sample, image in self._images.samples if sample.names]
        if not labelled:
            raise DataError(
                f"{self._dataset}: no images with labels, as validation.labels requires; "
                "list images with captions under validation.retrieval"
            )
        classes = sorted({sample.names for sample, _ in labelled})
        target_N = np.array([classes.index(sample.names) for sample, _ in labelled])
        weights_KE = ZeroShotClassifier(encoder, classes, templates=self._templates, repeated_labels=True).weights
        scores_NK = encoder.embed_images([image for _, image in labelled]) @ weights_KE.T
        return [
            score_hits(
                accuracy_hits(scores_NK, target_N),
                dataset=self._dataset,
                metric="accuracy",
                chance=1 / len(classes),
                unreadable=self._images.unreadable,
            )
        ]
