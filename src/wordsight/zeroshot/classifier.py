"""ZeroShotClassifier and templates become a classifier that was never trained on them (Radford et al. 2021, section 3.1).

The names of a label are put into templates, the texts embedded, and the mean of the embeddings, brought back to unit
length, is the label's row of a linear classifier (section 3.1.4). A image's probabilities are the softmax of its
scaled cosines with the rows.

Four other readings are asked for by name: each label alone (`multi_label`), "none of these" (`none_of_these`), a
temperature by what the model knows of the labels (`temperature`), and what labelled images teach (`calibrate`).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.encoder.pipeline import as_images, embed_each
from wordsight.errors import ConfigError, ImageError, nearest
from wordsight.image import ImageSource
from wordsight.zeroshot.background import WORDS, Background, sigmoid
from wordsight.zeroshot.cache import remembered
from wordsight.zeroshot.calibration import Calibration, calibration_of, softmax
from wordsight.zeroshot.labels import SURE, LabelHierarchy, Names, as_read, check_labels
from wordsight.zeroshot.reliability import NONSENSE, PLAIN, reliability
from wordsight.zeroshot.templates import SLOT, resolve_templates

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder

NONE = "none of these"
"""The label of a image that shows none of the labels."""

TEMPERATURES = ("model", "labels")
"""By what probabilities are read: the model as it was trained, or also what it knows of these labels."""

_TEXTS_AT_ONCE = 8192


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one image.

    Attributes:
        image: the image that was asked about.
        label: the most probable one; of a tree the deepest node that is more probable than not; `NONE` where none is
            meant.
        probability: of it, in [0, 1]: among the given labels, or, in multi-label mode, of it alone. Of `NONE`, how far
            general words outweigh the labels; 0.5 at the threshold, below which a label is given.
        ranking: all labels with their probabilities, best first; labels of equal probability in their given order.
        labels: those that the answer stands for, best first: the most probable one; in multi-label mode those above
            0.5; after `ZeroShotClassifier.calibrate` a set that holds the right one with the promised coverage; none with `NONE`.
        path: in a tree, the names from the top down to `label`.
        reason: why it is none of these; empty otherwise.
    """

    image: ImageSource = field(compare=False)
    label: str
    probability: float
    ranking: tuple[tuple[str, float], ...] = field(repr=False)
    labels: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    reason: str = ""


class ZeroShotClassifier:
    """A zero-shot classifier.

    Args:
        clip: the model.
        names: K labels, each a name or several names that mean the same; or a tree, as `read_labels` gives it.
        templates: the name of a set of `TEMPLATES`, or texts with one `{}` each.
        cache: whether a classifier of a thousand texts and more is kept on disk, and taken from there.
        multi_label: a image may show several labels or none: each has a probability of its own. A model trained with
            the sigmoid loss gives it as it was trained; another is asked to choose between the label and 200 general
            words that are not near to it, so the probability is of the label rather than any of these.
        none_of_these: whether the answer may be `NONE`: where the labels fit the image, on average, less than
            `LEAST_LIFT` times as well as general words do.
        temperature: `labels` for one over the labels' `reliability`, found without any image: a model is as sure of
            words that it never learned as of others, and this takes it back. For models that have learned sentences;
            one that learned single words becomes less sure than it could be.

    Attributes:
        names: the K labels, as they are shown.
        templates: the texts that were used.
        weights: (K, E) float32, unit length, not writable.
        calibration: how logits are read; see `calibrate`, which sets another temperature.

    Raises:
        ConfigError: no labels, an empty or a doubled one, no such set, a template without just one place, no such
            temperature, or multi-label mode together with a tree, `none_of_these` or a temperature.
    """

    def __init__(
        self,
        clip: "DualEncoder",
        names: Iterable[Names] | LabelHierarchy,
        templates: str | Sequence[str] = "photo",
        cache: bool = True,
        multi_label: bool = False,
        none_of_these: bool = False,
        temperature: str = "model",
    ) -> None:
        self.tree = names if isinstance(names, LabelHierarchy) else None
        if temperature not in TEMPERATURES:
            expected = f"{' or '.join(TEMPERATURES)}{nearest(temperature, TEMPERATURES)}"
            raise ConfigError(f"temperature {temperature!r}: expected {expected}")
        if multi_label and (self.tree or none_of_these or temperature == "labels"):
            what = "a tree" if self.tree else "none of these" if none_of_these else "a temperature"
            raise ConfigError(f"multi-label mode has no use for {what}: there each label stands alone; choose one")
        labels = check_labels(names.labels if isinstance(names, LabelHierarchy) else names)
        self.clip = clip
        self.names = tuple(label[0] for label in labels)
        self.templates = resolve_templates(templates)
        self.multi_label = multi_label
        self.none_of_these = none_of_these
        self._numbers = {as_read(name): number for number, names in enumerate(labels) for name in names}
        self.weights = self._rows(labels, self.templates, cache)
        self._background: Background | None = None
        if none_of_these or (multi_label and not clip.card.model.logit_bias):
            words_ME = self._rows([(word,) for word in WORDS], self.templates, cache)
            self._background = Background(clip, words_ME, self.weights)
        self.calibration = Calibration()
        if temperature == "labels":
            self.calibration = Calibration(temperature=1 / self._reliability(labels, cache))

    def classify(
        self,
        images: ImageSource | Iterable[ImageSource],
        on_broken: Callable[[ImageSource, str], None] | None = None,
    ) -> Iterator[Prediction]:
        """Label images, one after the other, in order; the images may stream.

        Args:
            images: paths, bytes of files, Pillow images or uint8 arrays, or one of these.
            on_broken: is told each image that cannot be read, with the reason, in place of an answer.

        Raises:
            ImageError: a image cannot be read and there is no `on_broken`.
        """
        for embedded in embed_each(self.clip, as_images(images)):
            if embedded.embedding is not None:
                yield self._answer(embedded.source, embedded.embedding)
            elif on_broken is None:
                raise ImageError(embedded.error)
            else:
                on_broken(embedded.source, embedded.error)

    def calibrate(
        self,
        images: Iterable[ImageSource],
        truth: Sequence[str],
        coverage: float = 0.9,
        on_broken: Callable[[int, str], None] | None = None,
    ) -> "ZeroShotClassifier":
        """This classifier, calibrated on labelled images that are like those which it will be asked about.

        Its probabilities have the temperature that fits; `Prediction.labels` holds the right label of a new image with
        the probability `coverage` or more; with `none_of_these` as many images of the labels, or more, are kept.

        Args:
            images: N of them.
            truth: the label of each, by any of its names.
            coverage: in (0, 1); 0.9 needs 18 images or more.
            on_broken: is told the number, from 0, of each image that cannot be read, with the reason; it is left out.

        Raises:
            ConfigError: multi-label mode, names that are no labels, too few images, or a coverage outside (0, 1).
            ImageError: a image cannot be read and there is no `on_broken`.
        """
        if self.multi_label:
            raise ConfigError("multi-label mode cannot be calibrated on images of one label each")
        for name in truth:
            if as_read(name) not in self._numbers:
                raise ConfigError(f"{name!r}: not one of the labels{nearest(name, self.names)}")
        embeddings: list[NDArray[np.float32] | None] = []
        for one in embed_each(self.clip, as_images(images)):
            if one.embedding is None:
                if on_broken is None:
                    raise ImageError(one.error)
                on_broken(len(embeddings), one.error)
            embeddings.append(one.embedding)
        if len(embeddings) != len(truth):
            raise ConfigError(f"{len(embeddings)} images and {len(truth)} labels; expected one label a image")
        pairs = [(embedding, name) for embedding, name in zip(embeddings, truth, strict=True) if embedding is not None]
        if not pairs:
            raise ConfigError(f"none of {len(embeddings)} labelled images could be read")
        embedding_NE = np.stack([embedding for embedding, _ in pairs])
        label_N = np.array([self._numbers[as_read(name)] for _, name in pairs], np.int64)
        logits_NK = self.clip.logits(embedding_NE, self.weights)
        lift_N = None
        if self._background is not None:
            lift_N = np.array([self._background.lift(*pair) for pair in zip(embedding_NE, logits_NK, strict=True)])
        calibrated = copy.copy(self)
        calibrated.calibration = calibration_of(logits_NK, label_N, lift_N, coverage)
        return calibrated

    def _rows(self, labels: Sequence[tuple[str, ...]], templates: tuple[str, ...], cache: bool) -> NDArray[np.float32]:
        make = partial(_classifier, self.clip, labels, templates)
        rows = remembered(self.clip, labels, templates, make) if cache else make()
        rows.setflags(write=False)
        return rows

    def _reliability(self, labels: Sequence[tuple[str, ...]], cache: bool) -> float:
        label_TKE, nonsense_TME = (
            np.stack([self._rows(texts, (template,), cache) for template in PLAIN])
            for texts in (labels, [(word,) for word in NONSENSE])
        )
        return reliability(label_TKE, nonsense_TME)

    def _answer(self, image: ImageSource, embedding_E: NDArray[np.float32]) -> Prediction:
        logits_K = self.clip.logits(embedding_E[None], self.weights)[0]
        probability_K = self._probabilities(embedding_E, logits_K)
        order = np.argsort(-probability_K, kind="stable")
        ranking = tuple((self.names[number], float(probability_K[number])) for number in order)
        if self.none_of_these and self._background is not None:
            log_lift = self._background.lift(embedding_E, logits_K)
            if log_lift < self.calibration.least_log_lift:
                return self._none(image, log_lift, ranking)
        if self.multi_label:
            labels = tuple(name for name, probability in ranking if probability > SURE)
        elif self.calibration.coverage is not None:
            labels = tuple(name for name, probability in ranking if 1 - probability <= self.calibration.most_doubt)
        else:
            labels = (ranking[0][0],)
        if self.tree is None:
            return Prediction(image, *ranking[0], ranking, labels)
        path, probability = self.tree.answer(probability_K)
        return Prediction(image, path[-1], probability, ranking, labels, path)

    def _probabilities(self, embedding_E: NDArray[np.float32], logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
        if not self.multi_label:
            return softmax(logits_K / self.calibration.temperature)
        return sigmoid(logits_K) if self._background is None else self._background.independent(embedding_E, logits_K)

    def _none(self, image: ImageSource, log_lift: float, ranking: tuple[tuple[str, float], ...]) -> Prediction:
        least = self.calibration.least_log_lift
        reason = (
            f"the labels fit it {np.exp(log_lift):.3g} times as well as general words do, "
            f"less than {np.exp(least):.3g} times"
        )
        return Prediction(image, NONE, float(sigmoid(np.array(least - log_lift))), ranking, reason=reason)


def _classifier(
    clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]
) -> NDArray[np.float32]:
    """(K, E) float32: the mean of each label's unit embeddings over names and templates, of unit length again."""
    texts = (template.replace(SLOT, name) for names in labels for name in names for template in templates)
    owners = (number for number, names in enumerate(labels) for _ in range(len(names) * len(templates)))
    sum_KE = np.zeros((len(labels), clip.card.model.embed_dim), np.float64)
    for group in _groups(zip(owners, texts, strict=True)):
        np.add.at(sum_KE, [owner for owner, _ in group], clip.embed_texts([text for _, text in group]))
    lengths = np.linalg.norm(sum_KE, axis=1, keepdims=True)
    return np.asarray(sum_KE / np.where(lengths > 0, lengths, 1), np.float32)


def _groups(pairs: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while group := list(islice(pairs, _TEXTS_AT_ONCE)):
        yield group
