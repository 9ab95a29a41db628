"""What is evaluated: the options, the captions and labels of a stream of images, and the tasks that they permit."""

import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np

from wordsight.errors import ConfigError, DataError, counted, nearest, printable
from wordsight.evaluation.classification import classes_of
from wordsight.evaluation.validation_set import data_sha256, row_digest
from wordsight.image import ImageRef
from wordsight.zeroshot import resolve_templates

Task: TypeAlias = Literal["retrieval", "classification"]
TASKS: tuple[Task, ...] = get_args(Task)

_NUM_SHOWN = 3


@dataclass(frozen=True)
class EvaluationOptions:
    """What to measure, and how to name it.

    Attributes:
        dataset: name of the dataset in the scores.
        split: the part of the dataset.
        task: one of `TASKS`; None for all for which the data has texts.
        templates: prompt templates for the names of classes.
        max_unreadable_share: a larger share of unreadable images is an error.

    Raises:
        ConfigError: an option has an invalid value.
    """

    dataset: str
    split: str = "all"
    task: str | None = None
    templates: str | Sequence[str] = "photo"
    max_unreadable_share: float = 0.1

    def __post_init__(self) -> None:
        if self.task is not None and self.task not in TASKS:
            raise ConfigError(f"task {self.task!r}: expected {' or '.join(TASKS)}{nearest(self.task, TASKS)}")
        if not 0 <= self.max_unreadable_share <= 1:
            raise ConfigError(f"max_unreadable_share {self.max_unreadable_share}: expected 0 to 1")
        resolve_templates(self.templates)

    @property
    def templates_name(self) -> str:
        """The name of the set of templates, or the texts joined by ` | `."""
        return self.templates if isinstance(self.templates, str) else " | ".join(self.templates)


@dataclass(frozen=True)
class LabelledData:
    """The texts of a stream of images, which all models share.

    Attributes:
        names: name of each image.
        captions: captions of each.
        labels: names of the label of each.
        tasks: the tasks to evaluate.
    """

    names: list[str]
    captions: list[tuple[str, ...]]
    labels: list[tuple[str, ...]]
    tasks: tuple[Task, ...]

    def texts_of(self, task: Task) -> list[tuple[str, ...]]:
        """Return the texts of each image that the task uses."""
        return self.captions if task == "retrieval" else self.labels

    def indices(self, task: Task, excluded: Collection[int]) -> list[int]:
        """Return the positions of the images of a task."""
        return [index for index, texts in enumerate(self.texts_of(task)) if texts and index not in excluded]

    def num_unreadable(self, task: Task, unreadable: Iterable[int]) -> int:
        """Return the number of unreadable images of a task; one without any text could belong to each task."""
        texts = self.texts_of(task)
        return sum(bool(texts[index]) or not (self.captions[index] or self.labels[index]) for index in unreadable)

    def contents(self, excluded: Collection[int]) -> tuple[str, ...]:
        """Describe what is evaluated: `1,000 images with 5,000 captions`."""
        parts = []
        for task in self.tasks:
            indices = self.indices(task, excluded)
            texts = [self.texts_of(task)[index] for index in indices]
            number, noun, plural = len(set(texts)), "class", "classes"
            if task == "retrieval":
                number, noun, plural = sum(map(len, texts)), "caption", "captions"
            parts.append(f"{counted(len(indices), 'image')} with {counted(number, noun, plural)}")
        return tuple(parts)

    def sha256(self, digests: Iterable[tuple[int, str]]) -> str:
        """Return a hash of the evaluated images and their texts, whatever their order and the format of the data.

        Args:
            digests: position and SHA-256 of the file of each image.
        """
        return data_sha256(row_digest(digest, self.captions[index], self.labels[index]) for index, digest in digests)


def read_texts(images: Iterable[ImageRef], options: EvaluationOptions) -> LabelledData:
    """Collect captions and labels, choose the tasks, and report what is wrong with the texts.

    Raises:
        DataError: there are no captions and no labels, or not those that the task needs; or all labels are equal.
    """
    names, captions, labels = list[str](), list[tuple[str, ...]](), list[tuple[str, ...]]()
    for image in images:
        names.append(image.name)
        captions.append(image.captions)
        labels.append(image.names)
    has_texts: dict[Task, bool] = {"retrieval": any(captions), "classification": any(labels)}
    possible = tuple(task for task, is_possible in has_texts.items() if is_possible)
    if not possible:
        raise DataError(
            f"{options.dataset}: {counted(len(names), 'image')} without captions or labels; retrieval needs "
            "captions.jsonl, a text file next to each image or a column of texts; classification needs one directory "
            "per class, labels.jsonl or a column of labels"
        )
    if options.task is not None and options.task not in possible:
        needed = "captions" if options.task == "retrieval" else "labels"
        raise DataError(
            f"{options.dataset}: no images with {needed}, which {options.task} needs; the data permits {possible[0]}"
        )
    tasks = tuple(task for task in possible if options.task in (None, task))
    if "classification" in tasks:
        _check_labels(options.dataset, [label for label in labels if label])
    return LabelledData(names, captions, labels, tasks)


def _check_labels(dataset: str, labels: Sequence[tuple[str, ...]]) -> None:
    """Refuse a single class, and warn about classes with a single image."""
    classes, target_N = classes_of(labels)
    if len(classes) == 1:
        label = printable(classes[0][0])
        raise DataError(f"{dataset}: every label is {label!r}; zero-shot classification needs at least two classes")
    once = np.flatnonzero(np.bincount(target_N) == 1)
    if len(once):
        shown = ", ".join(printable(repr(classes[index][0])) for index in once[:_NUM_SHOWN])
        occur = "occurs" if len(once) == 1 else "occur"
        warnings.warn(
            f"{dataset}: {len(once):,} of {len(classes):,} labels {occur} only once: {shown}"
            f"{' and others' if len(once) > _NUM_SHOWN else ''}; if they are descriptions, name them as captions",
            stacklevel=4,
        )
