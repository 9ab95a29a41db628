"""Zero-shot classification with prompt ensembles (Radford et al. 2021, section 3.1).

Each name of a label is inserted into each template, and the texts are embedded. The mean of these embeddings,
normalised to unit length, is the label's row in the weights of a linear classifier (section 3.1.4). The probabilities
of an image are the softmax of its scaled cosine similarities with the rows.

Everything beyond the published method is opt-in:

    multi_label            each label has a probability of its own
    none_of_these          an image that fits none of the labels is rejected
    temperature="labels"   confidence is reduced for labels that the model does not know
    calibrate              probabilities and prediction sets are fitted to labelled images
"""

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.data.named_class import quote
from wordsight.encoder.batch_sizes import batch_sizes
from wordsight.encoder.dual_encoder import unit_rows
from wordsight.encoder.pipeline import AnyImage, as_images, embed_each
from wordsight.errors import ConfigError, ImageError, counted, nearest
from wordsight.progress import tracked
from wordsight.zeroshot.background import WORDS, Background, log_sigmoid, sigmoid
from wordsight.zeroshot.cache import load_or_compute
from wordsight.zeroshot.calibration import Calibration, fit_calibration, softmax
from wordsight.zeroshot.labels import (
    DECISION_THRESHOLD,
    LabelHierarchy,
    Names,
    check_labels,
    display_names,
    index_by_name,
    normalise_name,
)
from wordsight.zeroshot.prompts import batches, check_prompts
from wordsight.zeroshot.reliability import NONSENSE, PLAIN, reliability
from wordsight.zeroshot.templates import SLOT, resolve_templates

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

NONE = "none of these"
"""The predicted label of an image that fits none of the labels."""

TEMPERATURES = ("model", "labels")
"""Values of `ZeroShotClassifier(temperature=)`: as the model was trained, or also adjusted to the labels."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of a classifier for one image.

    Attributes:
        image: the image that was classified, as it was passed.
        label: the most probable label; in a hierarchy, the deepest node with a probability above 0.5; `NONE` if the
            image was rejected.
        probability: of `label`, in [0, 1]: among all labels or, in multi-label mode, of this label independently. For
            `NONE` it expresses how far the lift is below the rejection threshold: 0.5 at the threshold, towards 1
            below it.
        ranking: all labels with their probabilities, the most probable first; ties keep the order of the labels.
        labels: the prediction set, most probable first. This is the most probable label; in multi-label mode, the
            labels above 0.5; after `ZeroShotClassifier.with_threshold`, those above the threshold; after
            `ZeroShotClassifier.calibrate`, a set that contains the correct label with the guaranteed coverage; for
            `NONE`, empty.
        path: in a hierarchy, the names from the top level down to `label`; otherwise empty.
        reason: why the image was rejected; otherwise empty.
    """

    image: AnyImage = field(compare=False)
    label: str
    probability: float
    ranking: tuple[tuple[str, float], ...] = field(repr=False)
    labels: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    reason: str = ""


class ZeroShotClassifier:
    """Classify images with class names and prompt templates, without training images.

    Args:
        clip: the model.
        names: K labels, each a name or several synonyms; or a hierarchy, as returned by `read_labels`.
        templates: the name of a set in `TEMPLATES`, or one or more texts with exactly one slot `{}` each.
        cache: whether weights computed from 1,000 or more texts are cached on disk.
        multi_label: whether an image can show several labels, or none: each label has a probability of its own. For a
            model trained with the sigmoid loss this is the sigmoid of its logit; for other models it is the softmax
            probability of the label among 200 general words that are not near to it.
        none_of_these: whether to predict `NONE` for an image that the labels fit, on average, less than `MIN_LIFT`
            times as well as general words do.
        temperature: `model` for the temperature of training, or `labels` for 1 / `reliability` of the labels, which
            reduces the confidence in labels that the model has not learned and needs no images. Meant for models
            trained on sentences; a model trained on single words becomes less confident than it should be.
        repeated_labels: whether labels with equal names are separate classes, as two pairs in the published names of
            ImageNet are; their displayed names get the index of the label: `crane [134]`. Otherwise they are an error.

    Attributes:
        names: the displayed names of the K labels.
        templates: the prompt templates.
        weights: (K, E) float32, unit length, read-only.
        hierarchy: the `LabelHierarchy` that was passed, or None.
        calibration: how logits are turned into predictions; `calibrate` returns a classifier with another one.
        threshold: labels above this probability are in `Prediction.labels`; None for the most probable one or, after
            `calibrate`, a set; `with_threshold` returns a classifier with another one.

    Raises:
        ConfigError: there are no labels, a label is empty or repeated, two labels become the same text because they are
            truncated, a template set is unknown or a template does not have exactly one slot, the temperature is
            unknown, or multi-label mode is combined with a hierarchy, `none_of_these` or a temperature.
        WeightsError: the logit scale or an embedding is not a finite number.

    Warns:
        UserWarning: labels are longer than the context of the model and are truncated.

    Source:
        OpenAI's notebook `Prompt_Engineering_for_ImageNet.ipynb`, `zeroshot_classifier`, for labels with one name.
    """

    _unit: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None  # `weights`, and their rows normalised

    def __init__(
        self,
        clip: "DualEncoder",
        names: Iterable[Names] | LabelHierarchy,
        templates: str | Sequence[str] = "photo",
        cache: bool = True,
        multi_label: bool = False,
        none_of_these: bool = False,
        temperature: str = "model",
        repeated_labels: bool = False,
    ) -> None:
        self.hierarchy = names if isinstance(names, LabelHierarchy) else None
        if temperature not in TEMPERATURES:
            expected = f"{' or '.join(TEMPERATURES)}{nearest(temperature, TEMPERATURES)}"
            raise ConfigError(f"temperature {temperature!r}: expected {expected}")
        if multi_label and (self.hierarchy or none_of_these or temperature == "labels"):
            other = "a hierarchy" if self.hierarchy else "none_of_these" if none_of_these else "temperature 'labels'"
            raise ConfigError(
                f"multi-label mode cannot be combined with {other}: its labels are independent of each other; "
                "choose one of the two"
            )
        labels = check_labels(names.labels if isinstance(names, LabelHierarchy) else names, repeated_labels)
        self.clip = clip
        self.names = display_names(labels)
        self.templates = resolve_templates(templates)
        check_prompts(clip, labels, self.templates)
        self.multi_label = multi_label
        self.threshold: float | None = DECISION_THRESHOLD if multi_label else None
        self.none_of_these = none_of_these
        self._index_of = index_by_name(labels)
        self.weights = self._compute_weights(labels, self.templates, cache)
        self._background: Background | None = None
        if none_of_these or (multi_label and not clip.card.model.logit_bias):
            words_ME = self._compute_weights([(word,) for word in WORDS], self.templates, cache)
            self._background = Background(clip, words_ME, self.weights)
        self.logits(self.weights[:1])  # a damaged logit scale is an error before any image is read
        self.calibration = Calibration()
        if temperature == "labels":
            self.calibration = Calibration(temperature=1 / self._reliability(labels, cache))

    def classify(
        self,
        images: AnyImage | Iterable[AnyImage],
        on_unreadable: Callable[[AnyImage, str], None] | None = None,
    ) -> Iterator[Prediction]:
        """Classify images lazily and in order; they may be streamed.

        Args:
            images: one image or an iterable of images: paths, bytes of files, PIL images, uint8 arrays or `ImageRef`s.
            on_unreadable: called with each image that cannot be read and the reason; no prediction is yielded for it.

        Yields:
            A `Prediction` for each readable image.

        Raises:
            ImageError: an image cannot be read and there is no `on_unreadable`.
        """
        for embedded in embed_each(self.clip, as_images(images)):
            if embedded.embedding is not None:
                yield self._predict(embedded.source, embedded.embedding)
            elif on_unreadable is None:
                raise ImageError(embedded.error)
            else:
                on_unreadable(embedded.source, embedded.error)

    def calibrate(
        self,
        images: Iterable[AnyImage],
        targets: Sequence[str],
        coverage: float = 0.9,
        on_unreadable: Callable[[int, str], None] | None = None,
    ) -> "ZeroShotClassifier":
        """Return a copy of this classifier that is calibrated on labelled images.

        The temperature is fitted to these images. For new images from the same distribution, `Prediction.labels`
        contains the correct label with a probability of at least `coverage`. With `none_of_these`, at least this share
        of images that show one of the labels is accepted.

        Args:
            images: N images.
            targets: the correct label of each image, by any of its names.
            coverage: in (0, 1); 0.9 needs at least 18 images.
            on_unreadable: called with the index of each image that cannot be read and the reason; the image is
                skipped.

        Raises:
            ConfigError: the classifier is in multi-label mode, a target is not a label, there are too few images, the
                numbers of images and targets differ, or the coverage is not in (0, 1).
            ImageError: an image cannot be read and there is no `on_unreadable`.
        """
        if self.multi_label:
            raise ConfigError("multi-label mode cannot be calibrated on images with one label each")
        targets = list(targets)
        index_N = [self.index_of(name) for name in targets]
        counted_images = tracked(as_images(images), "embedding images for the calibration", "images", len(targets))
        embeddings = self._embed_all(counted_images, on_unreadable)
        if len(embeddings) != len(targets):
            raise ConfigError(
                f"{counted(len(embeddings), 'image')} and {counted(len(targets), 'label')}; "
                "expected one label per image"
            )
        readable = [
            (embedding, index) for embedding, index in zip(embeddings, index_N, strict=True) if embedding is not None
        ]
        if not readable:
            raise ConfigError(f"none of {counted(len(embeddings), 'labelled image')} could be read")
        image_NE = np.stack([embedding for embedding, _ in readable])
        target_N = np.array([index for _, index in readable], np.int64)
        logits_NK = self.logits(image_NE)
        log_lift_N = None
        if self._background is not None:
            log_lift_N = np.array([self._background.log_lift(*pair) for pair in zip(image_NE, logits_NK, strict=True)])
        calibrated = copy.copy(self)
        calibrated.calibration = fit_calibration(logits_NK, target_N, log_lift_N, coverage)
        return calibrated

    def with_threshold(self, threshold: float) -> "ZeroShotClassifier":
        """Return a copy of this classifier that predicts all labels with a probability above a threshold, perhaps none.

        Args:
            threshold: in (0, 1).

        Raises:
            ConfigError: the threshold is not in (0, 1), or the labels are a hierarchy.
        """
        if not 0 < threshold < 1:
            raise ConfigError(f"threshold {threshold:g}: expected a probability above 0 and below 1")
        if self.hierarchy is not None:
            raise ConfigError(
                f"a threshold cannot be combined with a hierarchy, which is descended while the probability is above "
                f"{DECISION_THRESHOLD}; choose one of the two"
            )
        changed = copy.copy(self)
        changed.threshold = threshold
        return changed

    def index_of(self, name: str) -> int:
        """Return the index of the label with a name: displayed or a synonym, in any case, with underscores or spaces.

        Raises:
            ConfigError: no label has this name, or several have.
        """
        for key in (normalise_name(name), normalise_name(name.replace("_", " "))):
            index = self._index_of.get(key)
            if index == -1:
                raise ConfigError(f"{quote(name)}: the name of several labels; use a name that only one label has")
            if index is not None:
                return index
        raise ConfigError(f"{quote(name)}: not one of the labels{nearest(name, self.names)}")

    def logits(self, image_NE: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits of the labels, (N, K) float32, for the embeddings of N images."""
        if self._unit is None or self._unit[0] is not self.weights:
            # computed once: normalising the weights takes longer than their product with one image
            self._unit = (self.weights, unit_rows(self.weights))
        return self.clip.logits(image_NE, self._unit[1], texts_are_unit=True)

    def log_probabilities(self, image_NE: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the natural logarithms of the probabilities of the labels, (N, K), for the embeddings of N images.

        For a single label that competes with no other, and whose probability is always 1, this is its logit.
        """
        logits_NK = self.logits(image_NE)
        if self.multi_label and self._background is not None:
            pairs = zip(image_NE, logits_NK, strict=True)
            return log_sigmoid(np.stack([self._background.log_odds(*pair) for pair in pairs]))
        if self.multi_label:
            return log_sigmoid(logits_NK)
        scaled_NK = self.calibration.apply(logits_NK.astype(np.float64))
        if scaled_NK.shape[1] == 1:
            return np.asarray(scaled_NK, np.float64)
        shifted_NK = scaled_NK - scaled_NK.max(axis=1, keepdims=True)
        return np.asarray(shifted_NK - np.log(np.exp(shifted_NK).sum(axis=1, keepdims=True)))

    def _embed_all(
        self, images: Iterable[AnyImage], on_unreadable: Callable[[int, str], None] | None
    ) -> list[NDArray[np.float32] | None]:
        """Embed images; the embedding of one that cannot be read is None."""
        embeddings: list[NDArray[np.float32] | None] = []
        for embedded in embed_each(self.clip, as_images(images)):
            if embedded.embedding is None:
                if on_unreadable is None:
                    raise ImageError(embedded.error)
                on_unreadable(len(embeddings), embedded.error)
            embeddings.append(embedded.embedding)
        return embeddings

    def _compute_weights(
        self, labels: Sequence[tuple[str, ...]], templates: tuple[str, ...], cache: bool
    ) -> NDArray[np.float32]:
        size = batch_sizes(self.clip.runtime.device_type).tokenised_texts
        compute = partial(embed_ensembles, self.clip.embed_texts, labels, templates, size)
        weights_KE = load_or_compute(self.clip, labels, templates, compute) if cache else compute()
        weights_KE.setflags(write=False)
        return weights_KE

    def _reliability(self, labels: Sequence[tuple[str, ...]], cache: bool) -> float:
        label_TKE, nonsense_TME = (
            np.stack([self._compute_weights(texts, (template,), cache) for template in PLAIN])
            for texts in (labels, [(word,) for word in NONSENSE])
        )
        return reliability(label_TKE, nonsense_TME)

    def _predict(self, image: AnyImage, image_E: NDArray[np.float32]) -> Prediction:
        logits_K = self.logits(image_E[None])[0]
        probability_K = self._probabilities(image_E, logits_K)
        order_K = np.argsort(-probability_K, kind="stable")
        names = map(self.names.__getitem__, order_K.tolist())
        ranking = tuple(zip(names, probability_K[order_K].tolist(), strict=True))
        if self.none_of_these and self._background is not None:
            log_lift = self._background.log_lift(image_E, logits_K)
            if log_lift < self.calibration.min_log_lift:
                return self._reject(image, log_lift, ranking)
        if self.threshold is not None:
            labels = tuple(name for name, probability in ranking if probability > self.threshold)
        elif self.calibration.coverage is not None:
            bound = self.calibration.max_nonconformity
            labels = tuple(name for name, probability in ranking if 1 - probability <= bound)
        else:
            labels = (ranking[0][0],)
        if self.hierarchy is None:
            return Prediction(image, *ranking[0], ranking, labels)
        path, probability = self.hierarchy.deepest_node(probability_K)
        return Prediction(image, path[-1], probability, ranking, labels, path)

    def _probabilities(self, image_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
        if not self.multi_label:
            return softmax(self.calibration.apply(logits_K))
        return sigmoid(logits_K) if self._background is None else self._background.independent(image_E, logits_K)

    def _reject(self, image: AnyImage, log_lift: float, ranking: tuple[tuple[str, float], ...]) -> Prediction:
        threshold = self.calibration.min_log_lift
        with np.errstate(over="ignore"):  # the lift of a model with a large logit scale can be infinite
            reason = (
                f"the labels fit this image {np.exp(log_lift):.3g} times as well as general words do; "
                f"the threshold is {np.exp(threshold):.3g} times"
            )
        return Prediction(image, NONE, float(sigmoid(np.array(threshold - log_lift))), ranking, reason=reason)


def embed_ensembles(
    embed_texts: Callable[[list[str]], NDArray[np.float32]],
    labels: Sequence[tuple[str, ...]],
    templates: tuple[str, ...],
    batch_size: int,
) -> NDArray[np.float32]:
    """Return (K, E) float32: the mean embedding of each label over its names and templates, normalised.

    Args:
        embed_texts: of any model; returns (M, E).
        labels: the names of each label; at least one label.
        templates: as returned by `resolve_templates`.
        batch_size: texts that are embedded together.
    """
    texts = (template.replace(SLOT, name) for names in labels for name in names for template in templates)
    indices = (index for index, names in enumerate(labels) for _ in range(len(names) * len(templates)))
    sum_KE: NDArray[np.float64] | None = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* longer than the model's context")  # `check_prompts` has warned once
        count = sum(len(names) for names in labels) * len(templates)
        numbered = tracked(zip(indices, texts, strict=True), "building the classifier", "texts", count)
        for batch in batches(numbered, batch_size):
            text_ME = embed_texts([text for _, text in batch])
            sum_KE = np.zeros((len(labels), text_ME.shape[1])) if sum_KE is None else sum_KE
            np.add.at(sum_KE, [index for index, _ in batch], text_ME)
    assert sum_KE is not None, "no labels"
    lengths = np.linalg.norm(sum_KE, axis=1, keepdims=True)
    return np.asarray(sum_KE / np.where(lengths > 0, lengths, 1), np.float32)
