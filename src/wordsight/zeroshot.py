"""Labels and templates become a classifier that was never trained on them (Radford et al. 2021, section 3.1).

The names of a label are put into templates, the texts embedded, and the mean of the embeddings, brought back to unit
length, is the label's row of a linear classifier (section 3.1.4). A picture's probabilities are the softmax of its
scaled cosines with the rows.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from wordsight.errors import ConfigError, DataError, PictureError, nearest
from wordsight.image import PictureSource
from wordsight.infer.pictures import as_pictures, embed_each

if TYPE_CHECKING:
    from wordsight.infer import DualEncoder

Names: TypeAlias = str | Sequence[str]
"""What a label is called: one name, or several that mean the same, the first of which is shown."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "plain": ("{}",),
    "photo": ("a photo of a {}.",),
    "photos": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of one {}.",
        "a photo of many {}.",
        "a close-up photo of a {}.",
        "a small, blurred photo of a {}.",
        "a {} in the distance.",
    ),
    "drawings": ("a drawing of a {}.", "a simple picture of a {}.", "an icon of a {}.", "an emoji of {}.", "{}"),
}
"""Sets of templates by name; the place of the label is `{}`."""

_PLACE = "{}"
_TEXTS_AT_ONCE = 8192
_MAX_LABELS_BYTES = 1 << 26
_LABEL_SUFFIXES = (".txt", ".json")


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

    Attributes:
        names: the K labels, as they are shown.
        templates: the texts that were used.
        weights: (K, E) float32, unit length, not writable.

    Raises:
        ConfigError: no labels, an empty or a doubled one, no such set, or a template without just one place.
    """

    def __init__(self, clip: "DualEncoder", names: Iterable[Names], templates: str | Sequence[str] = "photo") -> None:
        labels = _checked_labels(names)
        self.clip = clip
        self.names = tuple(label[0] for label in labels)
        self.templates = resolve_templates(templates)
        self.weights = _classifier(clip, labels, self.templates)
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


def resolve_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The texts of a set of templates, given by its name or as texts with one `{}` each.

    Raises:
        ConfigError: no such set, no templates, or one without just one place for the label.
    """
    if isinstance(templates, str) and _PLACE not in templates:
        if templates not in TEMPLATES:
            known = ", ".join(TEMPLATES)
            raise ConfigError(f"templates {templates!r}: no such set{nearest(templates, TEMPLATES)}; known: {known}")
        return TEMPLATES[templates]
    texts = (templates,) if isinstance(templates, str) else tuple(templates)
    if not texts:
        raise ConfigError("templates: none given; name a set, or give texts with {} where the label goes")
    for text in texts:
        places = text.count(_PLACE) if isinstance(text, str) else 0
        if places != 1:
            raise ConfigError(f"template {text!r}: {places} places for the label; write {{}} once, where it goes")
    return texts


def read_labels(value: str) -> list[tuple[str, ...]]:
    """Labels as a command line gives them.

    Args:
        value: `cat,dog`, or the path of a file: a label a line, or a JSON list of names or of lists of names that mean
            the same, or a JSON object whose values are such.

    Returns:
        The names of each label, the one that is shown first.

    Raises:
        DataError: the file cannot be read, or is not of this form.
        ConfigError: no labels, an empty or a doubled one.
    """
    path = Path(value)
    if path.suffix in _LABEL_SUFFIXES or _is_file(path):
        labels = _labels_of_file(path)
        where = f"{path}: "
    else:
        labels = value.split(",") if value.strip() else []
        where = "--labels: "
    try:
        return _checked_labels(labels)
    except ConfigError as error:
        raise ConfigError(where + str(error)) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a list of labels may be longer than a path can be
        return False


def _labels_of_file(path: Path) -> list[Any]:
    try:
        if path.stat().st_size > _MAX_LABELS_BYTES:
            raise DataError(f"{path}: larger than {_MAX_LABELS_BYTES} bytes, not a file of labels")
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read as labels: {reason}; expected UTF-8 text, a label a line") from error
    if path.suffix != ".json":
        return [line for line in text.splitlines() if line.strip()]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; expected a list of labels") from error
    items = list(value.values()) if isinstance(value, dict) else value
    if not isinstance(items, list) or not all(isinstance(item, str | list) for item in items):
        raise DataError(f"{path}: expected a JSON list of labels, or an object whose values are labels")
    return items


def _checked_labels(names: Iterable[Names]) -> list[tuple[str, ...]]:
    """Labels as tuples of their different names, white space tidied."""
    if isinstance(names, str):
        raise ConfigError(f"labels {names!r}: expected a list of names, as in ['cat', 'dog']")
    labels = [_checked_names(number, label) for number, label in enumerate(names)]
    if not labels:
        raise ConfigError("no labels; give at least one")
    counts = Counter(_as_read(label[0]) for label in labels)
    doubled = sorted({label[0] for label in labels if counts[_as_read(label[0])] > 1})
    if doubled:
        shown = ", ".join(map(repr, doubled[:5]))
        raise ConfigError(f"labels given more than once: {shown}; leave one out, or tell them apart by a word more")
    return labels


def _checked_names(number: int, label: Names) -> tuple[str, ...]:
    kept: dict[str, str] = {}
    for name in label if isinstance(label, list | tuple) else [label]:
        if not isinstance(name, str) or not name.strip():
            raise ConfigError(f"label {number}: expected a name, found {name!r}; name it or leave it out")
        kept.setdefault(_as_read(name), " ".join(name.split()))
    if not kept:
        raise ConfigError(f"label {number}: no name; name it or leave it out")
    return tuple(kept.values())


def _as_read(name: str) -> str:
    """A name as the tokenizer, which lower-cases, tells it from others."""
    return " ".join(unicodedata.normalize("NFC", name).lower().split())


def _classifier(
    clip: "DualEncoder", labels: Sequence[tuple[str, ...]], templates: tuple[str, ...]
) -> NDArray[np.float32]:
    """(K, E) float32: the mean of each label's unit embeddings over names and templates, of unit length again."""
    texts = (template.replace(_PLACE, name) for names in labels for name in names for template in templates)
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
