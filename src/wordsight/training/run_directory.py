"""What a run directory remembers, so that `wordsight train --resume --out RUN` needs nothing else.

`recipe.toml` is the recipe with all changes, and `run.toml` says where the data is. The model from which training
started is not needed again: its architecture and preprocessing are in the recipe, its tokenizer is saved with `last`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from wordsight.config import Config, load_toml, to_toml
from wordsight.data.remote import is_remote
from wordsight.encoder import DualEncoder, load
from wordsight.errors import ConfigError, DataError, hide_credentials
from wordsight.files import recover_directory, write_atomic
from wordsight.locks import lock
from wordsight.training.checkpoint import saved_start
from wordsight.training.recipe import About, Recipe, load_recipe

CHECKPOINT = "checkpoint.pt"
RECIPE = "recipe.toml"
LAST = "last"
_RUN = "run.toml"


class RunFile(Config, frozen=True):
    """The content of `run.toml`.

    Attributes:
        data: absolute paths and addresses of the data; empty if one of them cannot be stored, because it is not UTF-8
            or contains a password.
        start: fingerprint of the model from which training started; empty for a new model.
    """

    data: tuple[str, ...] = ()
    start: str = ""


class Start(NamedTuple):
    """The model from which training starts, and the fingerprint that it has or, for a resumed run, had."""

    model: DualEncoder
    fingerprint: str


def write_run_file(directory: Path, data: Sequence[str | Path], start: str) -> None:
    """Remember data and start model.

    Raises:
        OutputError: the file cannot be written.
    """
    paths = [str(path) if is_remote(str(path)) else str(Path(path).absolute()) for path in data]
    if any(hide_credentials(path) != path or not _is_utf8(path) for path in paths):
        paths = []
    write_atomic(directory / _RUN, to_toml(RunFile(data=tuple(paths), start=start)).encode())


def _is_utf8(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_resumable(directory: Path) -> bool:
    """Whether `directory` has what `--resume` needs without a recipe and data."""
    return (directory / RECIPE).is_file() and (directory / _RUN).is_file()


def remembered_recipe(directory: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Return the recipe of a run.

    Args:
        directory: of the run.
        changes: as for `load_recipe`.

    Raises:
        ConfigError: there is no run, or as for `load_recipe`.
    """
    if not (directory / RECIPE).is_file():
        raise ConfigError(f"{directory}: contains no run to resume; name a recipe and data to start one")
    return load_recipe(directory / RECIPE, changes)


def remembered_data(directory: Path) -> list[str]:
    """Return where the data of a run is.

    Raises:
        ConfigError: the run does not say so.
        DataError: the data is not there any more.
    """
    paths = _read(directory).data
    if not paths:
        raise ConfigError(f"{directory}: the run does not say where its data is; pass it with --data DIR")
    for path in paths:
        if not (is_remote(path) or Path(path).exists()):
            raise DataError(
                f"{path}: the data of {directory} is not there any more; if it was moved, pass its new location with "
                "--data DIR"
            )
    return list(paths)


def remembered_start(directory: Path) -> Start | None:
    """Return what a resumed run needs of the model from which it started; None if it did not start from a model.

    Raises:
        ConfigError: the run stopped before its first checkpoint and after changing its weights.
    """
    checkpoint = directory / CHECKPOINT
    is_older = checkpoint.exists() and not (directory / _RUN).exists()  # a run of a version that wrote no run.toml
    fingerprint = saved_start(checkpoint) if is_older else _read(directory).start
    if not fingerprint:
        return None
    with lock(directory / ".lock"):
        recover_directory(directory / LAST)
        has_model = (directory / LAST).is_dir()
        model = load(directory / LAST, device="cpu") if has_model else None
    if model is None or not (checkpoint.exists() or model.card.training.get("steps") == 0):
        raise ConfigError(
            f"{directory}: the run stopped before its first checkpoint, so it has to start again from its model; pass "
            "the model with --from, and what else the command had"
        )
    return Start(model, fingerprint)


def _read(directory: Path) -> RunFile:
    path = directory / _RUN
    return load_toml(path, RunFile) if path.exists() else RunFile()


def with_own_about(
    recipe: Recipe,
    directory: Path,
    command: str = "",
    source: str = "",
    is_renamed: bool | None = None,
    resume: bool = False,
) -> Recipe:
    """Return the recipe with the description of a run instead of what is claimed about the recipe.

    Args:
        recipe: of the run; the recipe of a run is not changed.
        directory: of the run.
        command: the command that starts the run.
        source: name or path of the model from which training starts.
        is_renamed: whether the run is named after its directory, not after its recipe; by default if it starts from a
            model.
        resume: keep the description of the run in `directory`, if there is one.
    """
    about = _about_of(directory) if resume else recipe.about
    if not about.recipe and not (about := recipe.about).recipe:
        by_directory = bool(source) if is_renamed is None else is_renamed
        title = directory.absolute().name if by_directory else about.title
        about = About(title=title, recipe=about.title, source_model=source, command=command)
    return msgspec.structs.replace(recipe, about=about)


def _about_of(directory: Path) -> About:
    """Return the description of the run in a directory; an empty one if there is no run."""
    try:
        return load_recipe(directory / RECIPE).about
    except ConfigError:  # no run, or a damaged file, which is replaced
        return About(title="")
