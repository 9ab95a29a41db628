"""Open a recipe's data: the recipe contains names, the command line contains directories."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from wordsight.data import Mixture, MixtureSource, ShardSet, open_shards
from wordsight.data.remote import is_remote
from wordsight.errors import ConfigError, DataError
from wordsight.evaluate import Classification, Retrieval, dataset_name
from wordsight.training.recipe import Recipe


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
        candidates = [Path(root) / name for root in data] + [Path(root) for root in data if Path(root).name == name]
        path = next((candidate for candidate in candidates if candidate.exists()), None)
        if path is None:
            if missing := [str(root) for root in data if not Path(root).exists()]:
                raise DataError(f"{missing[0]}: no such directory; --data names directories of shards")
            searched = ", ".join(str(root) for root in data)
            raise DataError(
                f"{name}: the recipe names these shards, but they are not in {searched}; "
                f"create them with 'wordsight shards SOURCE {Path(str(data[0])) / name}'"
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
    return Mixture(
        [
            MixtureSource(find_shards(s.shards, data), s.weight, s.templates, s.augmentation, s.word_dropout, s.texts)
            for s in recipe.sources
        ],
    )


def open_evaluators(recipe: Recipe, data: Sequence[str | Path]) -> list[Retrieval | Classification]:
    """Open a recipe's validation sets as evaluators, and decode their images.

    Raises:
        ConfigError: two sets would have the same name in scores.
        DataError: shards are missing, empty or truncated; a set has no images of the right kind, or more unreadable
            ones than the recipe permits.
    """
    for sets in (recipe.validation.retrieval, recipe.validation.labels):
        for name, count in Counter(dataset_name(each.shards) for each in sets).items():
            if count > 1:
                raise ConfigError(f"validation: {count} sets of one kind are named {name!r}; rename their directories")
    preprocessing, share = recipe.image_preprocessing, recipe.validation.max_unreadable_share
    retrieval = [
        Retrieval(find_shards(entry.shards, data), dataset_name(entry.shards), preprocessing, share)
        for entry in recipe.validation.retrieval
    ]
    classification = [
        Classification(
            find_shards(entry.shards, data), dataset_name(entry.shards), entry.templates, preprocessing, share
        )
        for entry in recipe.validation.labels
    ]
    evaluators: list[Retrieval | Classification] = [*retrieval, *classification]
    for evaluator in evaluators:
        evaluator.prepare()
    return evaluators
