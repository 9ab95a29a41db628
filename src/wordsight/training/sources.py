"""Open a recipe's data: the recipe contains names, the command line contains directories."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wordsight.data import BrokenSampleError, Mixture, MixtureSource, ShardSet, SourceConfig, open_shards
from wordsight.data.remote import is_remote
from wordsight.errors import ConfigError, DataError, nearest
from wordsight.evaluation import Classification, Retrieval, dataset_name
from wordsight.training.recipe import LabelSet, Recipe, RetrievalSet

_PEEKED_SAMPLES = 100
"""Samples, evenly spaced, that are read to find out whether a set has captions, labels or both."""


class TextKinds(NamedTuple):
    """Which kinds of texts a set of shards has."""

    captions: bool
    labels: bool


def texts_of(shards: ShardSet) -> TextKinds:
    """Return whether any of a hundred evenly spaced samples has captions, and whether any has a label."""
    total = len(shards) if shards.window is None else shards.counts[0]  # of remote shards only the first one
    has_captions = has_labels = False
    for index in np.unique(np.linspace(0, total - 1, min(total, _PEEKED_SAMPLES)).round().astype(int)):
        try:
            sample = shards.sample(int(index))
        except BrokenSampleError:
            continue
        has_captions |= bool(sample.captions)
        has_labels |= bool(sample.names)
    return TextKinds(has_captions, has_labels)


def find_shards(names: str | Sequence[str], data: Sequence[str | Path]) -> ShardSet:
    """Open shards that a recipe names.

    Args:
        names: one or several; each is an address, a path below one of `data`, or the name of one of `data`.
        data: the directories given with `--data`.

    Raises:
        DataError: no such shards; the message lists the directories that were searched.
    """
    locations = []
    for name in [names] if isinstance(names, str) else names:
        if is_remote(name):
            locations.append(name)
            continue
        candidates = [Path(root) / name for root in data] + [
            Path(root) for root in data if Path(root).absolute().name == name
        ]
        path = next((candidate for candidate in candidates if candidate.exists()), None)
        if path is None:
            if missing := [str(root) for root in data if not Path(root).exists()]:
                raise DataError(f"{missing[0]}: no such directory; --data names directories of shards")
            searched = ", ".join(str(root) for root in data)
            siblings = [path.name for root in data for path in Path(root).iterdir() if path.is_dir()]
            raise DataError(
                f"{name}: the recipe names these shards, but they are not in {searched}; "
                f"create them with 'wordsight shards SOURCE {Path(str(data[0])) / name}', or name others with --set "
                f"sources=NAME{nearest(name, siblings)}"
            )
        locations.append(str(path))
    return open_shards(locations)


def open_sources(recipe: Recipe, data: Sequence[str | Path]) -> Mixture:
    """Open the mixture that a recipe trains on; without sources in the recipe, all of `data`, weighted by size.

    Raises:
        ConfigError: no data.
        DataError: shards are missing, empty or truncated.
    """
    if not data:
        raise ConfigError("no data: pass shards with --data DIRECTORY; 'wordsight shards' creates them")
    if not recipe.sources:
        opened = [open_shards(str(directory)) for directory in data]
        return Mixture([MixtureSource(shards, float(len(shards))) for shards in opened])
    return Mixture([_open_source(source, data) for source in recipe.sources])


def _open_source(source: SourceConfig, data: Sequence[str | Path]) -> MixtureSource:
    shards = find_shards(source.shards, data)
    templates = source.templates
    if source.label_templates and (source.texts == "names" or not texts_of(shards).captions):
        templates = source.label_templates
    return MixtureSource(shards, source.weight, templates, source.augmentation, source.word_dropout, source.texts)


def open_evaluators(recipe: Recipe, data: Sequence[str | Path]) -> list[Retrieval | Classification]:
    """Open a recipe's validation sets as evaluators, and decode their images.

    Raises:
        ConfigError: two sets would have the same name in scores.
        DataError: shards are missing, empty or truncated; a set has no images of the right kind, or more unreadable
            ones than the recipe permits.
    """
    validation = recipe.validation
    for others in (validation.retrieval, validation.labels):
        names = [dataset_name(entry.shards) for entry in (*validation.sets, *others)]
        for name, count in Counter(names).items():
            if count > 1:
                raise ConfigError(f"validation: {count} sets of one kind are named {name!r}; rename their directories")
    evaluators: list[Retrieval | Classification] = []
    for entry, kinds in _validation_sets(recipe, data):
        shards, name = find_shards(entry.shards, data), dataset_name(entry.shards)
        preprocessing, share = recipe.image_preprocessing, recipe.validation.max_unreadable_share
        if kinds.captions:
            evaluators.append(Retrieval(shards, name, preprocessing, share))
        if kinds.labels:
            templates = entry.templates if isinstance(entry, LabelSet) else ()
            evaluators.append(Classification(shards, name, templates, preprocessing, share))
    for evaluator in evaluators:
        evaluator.prepare()
    return evaluators


def _validation_sets(recipe: Recipe, data: Sequence[str | Path]) -> Iterator[tuple[LabelSet | RetrievalSet, TextKinds]]:
    """Yield each validation set with the kinds of texts that are evaluated."""
    validation = recipe.validation
    for entry in validation.sets:
        kinds = texts_of(find_shards(entry.shards, data))
        if not any(kinds):
            raise DataError(f"{dataset_name(entry.shards)}: no captions and no labels, as validation.sets requires")
        yield entry, kinds
    for captioned in validation.retrieval:
        yield captioned, TextKinds(captions=True, labels=False)
    for labelled in validation.labels:
        yield labelled, TextKinds(captions=False, labels=True)
