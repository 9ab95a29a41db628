"""Evaluate models on one's own images: `evaluate` for one model in Python, `evaluate_models` for the command.

The tasks are those of validation in training, chosen by the data: retrieval for images with captions, zero-shot
classification for images with labels. Every model has its own preprocessing, and all are measured on the same images:
one that any of the models cannot read is left out for all.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wordsight.data.inputs import iter_labelled
from wordsight.encoder import DualEncoder
from wordsight.errors import ConfigError, DataError, TextError
from wordsight.evaluation.classification import classes_of, measure_classification
from wordsight.evaluation.comparison import compare
from wordsight.evaluation.embeddings import EmbeddedImages, Encoder, embed_classes, embed_image_stream, embed_text_list
from wordsight.evaluation.labelled import EvaluationOptions, LabelledData, Task, read_texts
from wordsight.evaluation.measurement import Measurement
from wordsight.evaluation.retrieval import embed_captions, measure_retrieval
from wordsight.evaluation.scores import EvaluationResult, Scores
from wordsight.evaluation.validation_set import dataset_name
from wordsight.image import ImageRef
from wordsight.zeroshot import resolve_templates


class NamedModel(NamedTuple):
    """A model that is loaded when its turn comes, so that memory holds one at a time.

    Attributes:
        name: of the model in the results.
        load: returns it.
    """

    name: str
    load: Callable[[], Encoder]


@dataclass(frozen=True)
class _Measured:
    """What one model was measured to be.

    Attributes:
        excluded: positions of the images that were left out: those that this or an earlier model could not read.
        unreadable: those that this model could not read, and why.
    """

    excluded: frozenset[int]
    unreadable: dict[int, str]
    measurements: tuple[tuple[Task, Measurement], ...]
    data_sha256: str
    weights_sha256: str
    fingerprint: str


def evaluate(
    clip: Encoder,
    dataset: str | None = None,
    *,
    data: str | Path | Iterable[ImageRef],
    task: str | None = None,
    templates: str | Sequence[str] = "photo",
    split: str = "all",
    max_unreadable_share: float = 0.1,
) -> Scores:
    """Evaluate a model on images with captions (retrieval), with labels (zero-shot classification), or both.

    ```python
    clip = wordsight.load("runs/first")
    scores = wordsight.evaluate(clip, "pets", data="pets/")
    print(scores["accuracy"].value, scores["accuracy"].low, scores["accuracy"].high)
    ```

    Args:
        clip: the model: a `DualEncoder`, or any object with `embed_images`, which is called with a list of RGB Pillow
            images, and `embed_texts`, which is called with a list of strings; both return one row per input.
        dataset: name of the dataset in the scores; by default the last component of the path.
        data: a directory, a tar file, shards or a table with captions or labels, in any layout that
            `wordsight shards` reads; or `ImageRef`s with `captions` or `names`.
        task: `retrieval` or `classification`; by default every task that the data has texts for.
        templates: prompt templates for classification: the name of a set, or texts with `{}`.
        split: the part of the dataset that this is, such as `test`, for the report.
        max_unreadable_share: a larger share of unreadable images is an error.

    Returns:
        The scores, with intervals, chance, and the hashes of the weights and of the data.

    Raises:
        DataError: the data has no captions and no labels, a single class, or too many unreadable images.
        ConfigError: an option has an invalid value.
        TextError: the model cannot read a text.
    """
    images: Callable[[], Iterable[ImageRef]]
    if isinstance(data, str | Path):
        name, images = dataset_name(data), partial(iter_labelled, data)
    else:
        refs = list(data)
        name, images = "images", refs.copy
    options = EvaluationOptions(dataset or name, split, task, templates, max_unreadable_share)
    model_name = clip.card.name if isinstance(clip, DualEncoder) else type(clip).__name__
    return evaluate_models([NamedModel(model_name, lambda: clip)], images, options).models[0]


def evaluate_models(
    models: Sequence[NamedModel],
    images: Callable[[], Iterable[ImageRef]],
    options: EvaluationOptions,
) -> EvaluationResult:
    """Evaluate models on the same images, and compare every further one with the first.

    Args:
        models: at least one.
        images: returns the stream of images, always in the same order; called once for the texts and once for each
            model. What is wrong with the texts is reported before a model is loaded.
        options: what to measure.

    Raises:
        DataError: see `evaluate`; or the data was changed during the evaluation.
        ConfigError, TextError: a model cannot read a text, or cannot tell two labels apart; the message names the
            model.
    """
    data = read_texts(images(), options)
    results: list[_Measured | None] = [None] * len(models)
    excluded: frozenset[int] = frozenset()
    while stale := [i for i, result in enumerate(results) if result is None or result.excluded != excluded]:
        # one round, and another one only if a model could not read an image that an earlier one could
        for i in stale:
            result = _Evaluation(models[i], data, options).run(images(), excluded)
            results[i], excluded = result, result.excluded
    measured = [result for result in results if result is not None]
    if len({result.data_sha256 for result in measured}) > 1:
        raise _changed(options)
    scores = [_scores(*pair, data, measured, options) for pair in zip(models, measured, strict=True)]
    first = models[0].name, measured[0].measurements
    comparisons = [
        tuple(
            compare(model.name, own, first[0], reference, options.dataset)
            for (_, own), (_, reference) in zip(result.measurements, first[1], strict=True)
        )
        for model, result in zip(models[1:], measured[1:], strict=True)
    ]
    return EvaluationResult(tuple(scores), tuple(comparisons), data.contents(excluded))


@dataclass(frozen=True)
class _Evaluation:
    """The evaluation of one model."""

    model: NamedModel
    data: LabelledData
    options: EvaluationOptions

    def run(self, images: Iterable[ImageRef], excluded: frozenset[int]) -> _Measured:
        """Load the model, embed images and texts, and measure the tasks without the excluded and unreadable images."""
        encoder, total = self.model.load(), len(self.data.names)
        embedded = embed_image_stream(encoder, images, total)
        if len(embedded.indices) + len(embedded.unreadable) != total:
            raise _changed(self.options)
        excluded = excluded | embedded.unreadable.keys()
        self._check_unreadable(excluded, embedded.unreadable)
        try:
            measurements = [
                each for task in self.data.tasks for each in self._measure(task, encoder, embedded, excluded)
            ]
        except (ConfigError, TextError) as error:  # ConfigError: labels that are equal for the tokenizer
            raise type(error)(f"{self.model.name}: {error}") from error
        digests = zip(embedded.indices.tolist(), embedded.digests, strict=True)
        fingerprint = encoder.fingerprint if isinstance(encoder, DualEncoder) else None
        return _Measured(
            excluded=excluded,
            unreadable=embedded.unreadable,
            measurements=tuple(measurements),
            data_sha256=self.data.sha256(pair for pair in digests if pair[0] not in excluded),
            weights_sha256=fingerprint.weights if fingerprint else "",
            fingerprint=fingerprint.digest if fingerprint else "",
        )

    def _measure(
        self, task: Task, encoder: Encoder, embedded: EmbeddedImages, excluded: frozenset[int]
    ) -> list[tuple[Task, Measurement]]:
        indices = self.data.indices(task, excluded)
        if not indices:
            raise DataError(f"{self.options.dataset}: no readable images for {task}; name other data")
        texts = [self.data.texts_of(task)[index] for index in indices]
        image_NE = embedded.embeddings[np.searchsorted(embedded.indices, indices)]
        if task == "retrieval":
            text_ME, owner_M = embed_captions(partial(embed_text_list, encoder), texts)
            measured = measure_retrieval(image_NE, text_ME, owner_M)
        else:
            classes, target_N = classes_of(texts)
            weights_KE = embed_classes(encoder, classes, resolve_templates(self.options.templates))
            measured = measure_classification(image_NE, weights_KE, target_N)
        return [(task, each) for each in measured]

    def _check_unreadable(self, excluded: frozenset[int], unreadable: dict[int, str]) -> None:
        total, share = len(self.data.names), self.options.max_unreadable_share
        if len(excluded) > share * total or len(excluded) == total:
            reason = next(iter(unreadable.values()), "see the first model")
            raise DataError(
                f"{self.options.dataset}: {len(excluded):,} of {total:,} images cannot be read or have no text, more "
                f"than {share:.1%}; the first: {reason}; repair or remove them, or raise --max-unreadable-share "
                "(max_unreadable_share)"
            )


def _changed(options: EvaluationOptions) -> DataError:
    return DataError(f"{options.dataset}: the data changed while it was evaluated; evaluate it again")


def _scores(
    model: NamedModel,
    result: _Measured,
    data: LabelledData,
    all_measured: Sequence[_Measured],
    options: EvaluationOptions,
) -> Scores:
    """Collect the scores of a model; images that any of the models could not read are listed for each."""
    unreadable = {index: reason for measured in all_measured for index, reason in measured.unreadable.items()}
    return Scores(
        model=model.name,
        dataset=options.dataset,
        split=options.split,
        scores=tuple(
            measured.score(options.dataset, data.num_unreadable(task, unreadable))
            for task, measured in result.measurements
        ),
        weights_sha256=result.weights_sha256,
        fingerprint=result.fingerprint,
        data_sha256=result.data_sha256,
        templates=options.templates_name if "classification" in data.tasks else "",
        unreadable=tuple((data.names[index], unreadable[index]) for index in sorted(unreadable)),
    )
