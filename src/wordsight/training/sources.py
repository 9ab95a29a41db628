"""Where a recipe's data lie: names in the recipe, directories on the command line."""

from collections.abc import Sequence
from pathlib import Path

from wordsight.data import Mixture, MixtureSource, ShardSet, open_shards
from wordsight.data.remote import is_remote
from wordsight.errors import ConfigError, DataError
from wordsight.evaluate.tasks import Classification, Evaluator, Retrieval, set_name
from wordsight.training.recipe import Recipe


def find_shards(names: str | Sequence[str], data: Sequence[str | Path]) -> ShardSet:
    """Open shards that a recipe names.

    Args:
        names: one or several; each is an address, or a path below one of `data`, or the name of one of `data`.
        data: what the user gave as `--data`.

    Raises:
        DataError: not found, with where it was looked for.
    """
    found = []
    for name in [names] if isinstance(names, str) else names:
        if is_remote(name):
            found.append(name)
            continue
        places = [Path(place) / name for place in data] + [Path(place) for place in data if Path(place).name == name]
        place = next((place for place in places if place.exists()), None)
        if place is None:
            looked = ", ".join(str(place) for place in data)
            raise DataError(
                f"{name}: the recipe wants these shards, but there is none of this name in {looked}; "
                f"pack them with 'wordsight shards SOURCE {Path(str(data[0])) / name}'"
            )
        found.append(str(place))
    return open_shards(found)


def open_sources(recipe: Recipe, data: Sequence[str | Path]) -> Mixture:
    """The mixture that a recipe trains on; without sources in the recipe, all of `data` by size.

    Raises:
        ConfigError: no data given.
        DataError: shards are missing, empty or cut short.
    """
    if not data:
        raise ConfigError("no data: name shards with --data DIRECTORY; 'wordsight shards' makes them")
    if not recipe.sources:
        opened = [open_shards(str(place)) for place in data]
        return Mixture([MixtureSource(shards, float(len(shards))) for shards in opened])
    return Mixture(
        [
            MixtureSource(find_shards(s.shards, data), s.weight, s.templates, s.augmentation, s.word_dropout)
            for s in recipe.sources
        ],
    )


def open_evaluators(recipe: Recipe, data: Sequence[str | Path]) -> list[Evaluator]:
    """The validation sets that a recipe names, as evaluators."""
    retrieval: list[Evaluator] = [
        Retrieval(find_shards(one.shards, data), set_name(one.shards), recipe.form)
        for one in recipe.validation.retrieval
    ]
    labels: list[Evaluator] = [
        Classification(find_shards(one.shards, data), set_name(one.shards), one.templates, recipe.form)
        for one in recipe.validation.labels
    ]
    return retrieval + labels
