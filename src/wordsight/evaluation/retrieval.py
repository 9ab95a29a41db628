"""Retrieval: recall@k from images to captions and from captions to images."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data import Sample, ShardSet
from wordsight.errors import DataError
from wordsight.evaluation.measurement import Measurement
from wordsight.evaluation.validation_set import ValidationSet
from wordsight.image import Preprocessing
from wordsight.metrics import Score, positions_by_embedding, recall_chance
from wordsight.progress import phase

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

KS = (1, 5, 10)
"""The k of every reported recall@k."""

_METRICS = tuple(f"{direction}_recall@{k}" for direction in ("image_to_text", "text_to_image") for k in KS)


def measure_retrieval(
    image_NE: NDArray[np.float32], text_ME: NDArray[np.float32], owner_M: Sequence[int] | NDArray[np.integer]
) -> list[Measurement]:
    """Measure recall@1, @5 and @10, first from images to texts, then from texts to images.

    For image to text, a hit is any caption of the image; for text to image, each caption has one image. The captions
    of an image are not independent, so the interval of text to image counts images, not captions. Similarities are
    computed in blocks: memory does not grow with N x M.

    Args:
        image_NE: unit embeddings of the images, each of which has a caption.
        text_ME: unit embeddings of all their captions.
        owner_M: for each caption the index of its image.
    """
    owner = np.asarray(owner_M, np.int64)
    num_images, num_texts = len(image_NE), len(text_ME)
    captions_N = np.bincount(owner, minlength=num_images)
    order_M = np.argsort(owner, kind="stable")
    text_positions = positions_by_embedding(image_NE, text_ME, owner[order_M], order_M)
    image_positions = positions_by_embedding(text_ME, image_NE, np.arange(num_texts), owner)
    measurements = []
    for k in KS:
        counts, images = np.unique(captions_N, return_counts=True)
        chances = [recall_chance(num_texts, int(count), k) for count in counts]
        chance = float(np.average(chances, weights=images))
        measurements.append(Measurement(f"image_to_text_recall@{k}", text_positions.hits(k), chance))
    for k in KS:
        value_N = np.bincount(owner, weights=image_positions.hits(k), minlength=num_images) * num_images / num_texts
        chance = recall_chance(num_images, 1, k)
        measurements.append(Measurement(f"text_to_image_recall@{k}", value_N, chance, basis="over images"))
    return measurements


def retrieval_scores(
    image_NE: NDArray[np.float32],
    text_ME: NDArray[np.float32],
    owner_M: Sequence[int],
    dataset: str,
    unreadable: int = 0,
) -> list[Score]:
    """Return the scores of `measure_retrieval`.

    Args:
        image_NE, text_ME, owner_M: see `measure_retrieval`.
        dataset: name of the dataset in the scores.
        unreadable: number of images of the dataset that could not be read.
    """
    return [measured.score(dataset, unreadable) for measured in measure_retrieval(image_NE, text_ME, owner_M)]


def embed_captions(
    embed_texts: Callable[[list[str]], NDArray[np.float32]], captions: Sequence[tuple[str, ...]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Embed the captions of N images.

    Args:
        embed_texts: of the model.
        captions: the captions of each image.

    Returns:
        (M, E) embeddings, and (M,) the index of each caption's image.
    """
    owner_M = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    return embed_texts([text for texts in captions for text in texts]), owner_M


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
        """Evaluate an encoder; see `measure_retrieval`, and `captioned` for errors."""
        with phase(f"evaluating on {self.dataset}"):
            image_NE = encoder.embed_images([image for _, image in self.captioned])
            text_ME, owner_M = embed_captions(encoder.embed_texts, [sample.captions for sample, _ in self.captioned])
        measurements = measure_retrieval(image_NE, text_ME, owner_M)
        return [measured.score(self.dataset, self.images.unreadable) for measured in measurements]
