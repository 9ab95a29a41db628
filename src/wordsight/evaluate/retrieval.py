"""Retrieval: recall@k from images to captions and from captions to images."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data import Sample, ShardSet
from wordsight.errors import DataError
from wordsight.evaluate.validation_set import ValidationSet
from wordsight.image import Preprocessing
from wordsight.metrics import Score, recall_chance, recall_hits, score_hits, wilson_interval
from wordsight.progress import phase

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

KS = (1, 5, 10)
"""The k of every reported recall@k."""

_METRICS = tuple(f"{direction}_recall@{k}" for direction in ("image_to_text", "text_to_image") for k in KS)


def retrieval_scores(
    image_NE: NDArray[np.float32],
    text_ME: NDArray[np.float32],
    owner_M: Sequence[int],
    dataset: str,
    unreadable: int = 0,
) -> list[Score]:
    """Return recall@1, @5 and @10, first from images to texts, then from texts to images.

    For image to text, a hit is any caption of the image; for text to image, each caption has one image. The captions
    of an image are not independent, so the interval of text to image counts images, not captions.

    Args:
        image_NE: unit embeddings of the images.
        text_ME: unit embeddings of all their captions.
        owner_M: for each caption the index of its image.
        dataset: name of the dataset in the scores.
        unreadable: number of images of the dataset that could not be read.
    """
    similarity_NM = image_NE @ text_ME.T
    owner = np.asarray(owner_M)
    captions_of = [np.flatnonzero(owner == image).tolist() for image in range(len(image_NE))]
    scores = []
    for k in KS:
        chance = float(np.mean([recall_chance(len(owner), len(captions), k) for captions in captions_of]))
        hits_N = recall_hits(similarity_NM, captions_of, k)
        metric = f"image_to_text_recall@{k}"
        scores.append(score_hits(hits_N, dataset=dataset, metric=metric, chance=chance, unreadable=unreadable))
    for k in KS:
        hits_M = recall_hits(similarity_NM.T, [[int(image)] for image in owner], k)
        value = float(hits_M.mean())
        low, high = wilson_interval(value * len(image_NE), len(image_NE))
        scores.append(
            Score(
                dataset=dataset,
                metric=f"text_to_image_recall@{k}",
                value=value,
                low=low,
                high=high,
                n=len(image_NE),
                unreadable=unreadable,
                chance=recall_chance(len(image_NE), 1, k),
                method="Wilson 95 % over images",
            )
        )
    return scores


class Retrieval:
    """An evaluator: recall@k in both directions on captioned images.

    Args:
        shards: images with captions; others are ignored.
        dataset: name of the dataset in the scores.
        preprocessing: of the models that will be evaluated.
        max_unreadable_share: a larger share of unreadable images is an error.

    Attributes:
        metrics: names of the metrics of its scores.
        dataset: as above.
        images: the set, which is decoded when it is first needed.
    """

    metrics = _METRICS

    def __init__(
        self, shards: ShardSet, dataset: str, preprocessing: Preprocessing, max_unreadable_share: float = 1.0
    ) -> None:
        self.dataset = dataset
        self.images = ValidationSet(shards, preprocessing, dataset, max_unreadable_share)

    @cached_property
    def captioned(self) -> list[tuple[Sample, NDArray[np.uint8]]]:
        """The samples with captions.

        Raises:
            DataError: the set contains no readable image with a caption, or too many unreadable ones.
        """
        captioned = [(sample, image) for sample, image in self.images.samples if sample.captions]
        if not captioned:
            raise DataError(
                f"{self.dataset}: no images with captions, as validation.retrieval requires; "
                "list images with labels under validation.labels"
            )
        return captioned

    def prepare(self) -> None:
        """Decode the images now and report what is wrong with the set; errors as for `captioned`."""
        _ = self.captioned

    def __call__(self, encoder: "DualEncoder", steps: int) -> list[Score]:
        """Evaluate an encoder; see `retrieval_scores`, and `captioned` for errors."""
        with phase(f"evaluating on {self.dataset}"):
            image_NE = encoder.embed_images([image for _, image in self.captioned])
            text_ME = encoder.embed_texts([caption for sample, _ in self.captioned for caption in sample.captions])
        owner_M = [index for index, (sample, _) in enumerate(self.captioned) for _ in sample.captions]
        return retrieval_scores(image_NE, text_ME, owner_M, self.dataset, self.images.unreadable)
