"""Labels and templates become a classifier that was never trained on them (Radford et al. 2021, section 3.1).

The names of a label are put into templates, the texts embedded, and the mean of the embeddings, brought back to unit
length, is the label's row of a linear classifier (section 3.1.4). A picture's probabilities are the softmax of its
scaled cosines with the rows.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wordsight.errors import PictureError
from wordsight.image import PictureSource
from wordsight.infer.pictures import as_pictures, embed_each
from wordsight.zeroshot.cache import remembered
from wordsight.zeroshot.labels import Names, check_labels
from wordsight.zeroshot.templates import PLACE, resolve_templates

if TYPE_CHECKING:
    from wordsight.infer import DualEncoder

_TEXTS_AT_ONCE = 8192


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one picture.

    Attributes:
        picture: the picture that was asked about.
        label: the most probable one.
        probability: of it, among the given labels, in [0, 1].
        ranking: all labels with their probabilities, best first; labels of equal probability in their given order.
    """

    picture: PictureSource = field(compare=False)
    label: str
    probability: float
    ranking: tuple[tuple[str, float], ...] = field(repr=False)


class Labels:
    """A zero-shot classifier.

    Args:
        clip: the model.
        names: K labels, each a name or several names that mean the same.
        templates: the name of a set of `TEMPLATES`, or texts with one `{}` each.
        cache: whether a classifier of a thousand texts and more is kept on disk, and taken from there.

    Attributes:
        names: the K labels, as they are shown.
        templates: the texts that were used.
        weights: (K, E) float32, unit length, not writable.

    Raises:
        ConfigError: no labels, an empty or a doubled one, no such set, or a template without just one place.
    """

    def __init__(
        self,
        clip: "DualEncoder",
        names: Iterable[Names],
        templates: str | Sequence[str] = "photo",
        cache: bool = True,
    ) -> None:
        labels = check_labels(names)
        self.clip = clip
        self.names = tuple(label[0] for label in labels)
        self.templates = resolve_templates(templates)
        make = partial(_classifier, clip, labels, self.templates)
        self.weights = remembered(clip, labels, self.templates, make) if cache else make()
        self.weights.setflags(write=False)

    def classify(
        self,
        pictures: PictureSource | Iterable[PictureSource],
        on_broken: Callable[[PictureSource, str], None] | None = None,
    ) -> Iterator[Answer]:
        """Label pictures, one after the other, in order; the pictures may stream.

        Args:
            pictures: paths, bytes of files, Pillow images or uint8 arrays, or one of these.
            on_broken: is told each picture that cannot be read, with the reason, in place of an answer.

        Raises:
            PictureError: a picture cannot be read and there is no `on_broken`.
        """
        for embedded in embed_each(self.clip, as_pictures(pictures)):
            if embedded.vector is not None:
                yield self._answer(embedded.source, embedded.vector)
            elif on_broken is None:
                raise PictureError(embedded.error)
            else:
                on_broken(embedded.source, embedded.error)

    def _answer(self, picture: PictureSource, vector_E: NDArray[np.float32]) -> Answer:
        probability_K = _softmax(self.clip.logits(vector_E[None], self.weights)[0])
        order = np.argsort(-probability_K, kind="stable")
        ranking = tuple((self.names[number], float(probability_K[number])) for number in order)
        return Answer(picture, ranking[0][0], ranking[0][1], ranking)


def _classifier(
    clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]
) -> NDArray[np.float32]:
    """(K, E) float32: the mean of each label's unit embeddings over names and templates, of unit length again."""
    texts = (template.replace(PLACE, name) for names in labels for name in names for template in templates)
    owners = (number for number, names in enumerate(labels) for _ in range(len(names) * len(templates)))
    sum_KE = np.zeros((len(labels), clip.card.model.embed_dim), np.float64)
    for group in _groups(zip(owners, texts, strict=True)):
        np.add.at(sum_KE, [owner for owner, _ in group], clip.embed_texts([text for _, text in group]))
    lengths = np.linalg.norm(sum_KE, axis=1, keepdims=True)
    return np.asarray(sum_KE / np.where(lengths > 0, lengths, 1), np.float32)


def _groups(pairs: Iterator[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    while group := list(islice(pairs, _TEXTS_AT_ONCE)):
        yield group


def _softmax(logits_K: NDArray[np.float32]) -> NDArray[np.float64]:
    powers_K = np.exp(logits_K.astype(np.float64) - logits_K.max())
    return np.asarray(powers_K / powers_K.sum())
