"""The options of `wordsight train`, and the commands that it prints."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wordsight.cli.options import published_names, recipe_names
from wordsight.errors import ConfigError, hide_credentials

if TYPE_CHECKING:
    from wordsight.cli.loading import ModelOptions
    from wordsight.encoder import DualEncoder
    from wordsight.metrics import Score
    from wordsight.training import Recipe, Run

RecipeArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RECIPE",
        help="A TOML file, or a name listed by 'wordsight recipes'. With --resume, by default the recipe of the run.",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR",
        help="A directory of shards, or one that contains the recipe's shards; may be repeated. With --resume, by "
        "default the data of the run.",
        show_default=False,
    ),
]
OutOption = Annotated[Path | None, typer.Option(metavar="DIR", help="Directory of the run.", show_default=False)]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="MODEL",
        help="Start from this model's weights; its architecture and preprocessing replace the recipe's. "
        "--set model.image.image_size_px=N interpolates its positional embedding; --set preprocessing... applies too.",
        autocompletion=published_names,
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Continue the run in --out, which remembers its recipe and data; if there is none, start the recipe's. "
        "--set schedule.steps=N extends it.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, such as optimizer.learning_rate=1e-3 or sources=photos; may be repeated.",
    ),
]
InitRecipeOption = Annotated[
    str | None,
    typer.Option(
        "--init-recipe",
        metavar="DATA",
        help="Write a commented recipe for these shards to the file RECIPE, instead of training.",
        show_default=False,
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Threads for computation.", show_default="one per CPU")
]
TensorBoardOption = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard event files.")]


@dataclass(frozen=True)
class Command:
    """A `wordsight train` command.

    Attributes:
        recipe: the argument, if there is one.
        data: values of `--data`.
        out: value of `--out`.
        model: the model of `--from` and how it is loaded.
        changes: values of `--set`.
        execution: values of the options that do not change the result.
    """

    recipe: str | None
    data: tuple[str, ...]
    out: Path
    model: "ModelOptions | None"
    changes: tuple[str, ...]
    execution: dict[str, Any]

    def resolve(self, quiet: bool) -> "tuple[Recipe, DualEncoder | None]":
        """Return the recipe with all changes and the description of the run, and the loaded start model."""
        from wordsight.cli.loading import load_model
        from wordsight.training import load_recipe
        from wordsight.training.run_directory import remembered_recipe, with_own_about
        from wordsight.training.start import change_start

        loaded, changes, source = None, self.changes, ""
        if self.model is not None:
            loaded, changes = change_start(load_model(self.model, quiet), changes)
            source = self.model.name
        if self.recipe is None:
            return remembered_recipe(self.out, changes), loaded
        return with_own_about(load_recipe(self.recipe, changes), self.out, str(self), source, self._is_renamed), loaded

    @property
    def _is_renamed(self) -> bool:
        """Whether the run is named after its directory, because it is not simply a run of its recipe."""
        keys = [change.partition("=")[0].strip() for change in self.changes]
        return "about.title" not in keys and bool(self.model or keys)

    def __str__(self) -> str:
        model = self.model
        averaged = model.averaged if model else None
        options: dict[str, Any] = {"from": model and model.name, "as": model and model.architecture}
        options |= {"averaged": averaged is True, "plain": averaged is False, "set": self.changes}
        arguments = [] if self.recipe is None else [self.recipe]
        return command_line(arguments, {"data": self.data, "out": self.out} | options | self.execution)

    @property
    def resuming(self) -> str:
        """The command that continues the run."""
        return command_line(["--resume"], {"out": self.out} | self.execution)


def command_line(arguments: Sequence[str], options: Mapping[str, Any]) -> str:
    """Return a `wordsight train` command, without passwords.

    Args:
        arguments: what follows `train`.
        options: values by name; those that are None, False or empty are left out.
    """
    parts = ["wordsight", "train", *arguments]
    for name, value in options.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if item is not None and item is not False:
                parts += [f"--{name}"] if item is True else [f"--{name}", str(item)]
    return hide_credentials(shlex.join(parts))


def write_initial_recipe(data: str, recipe: str | None, out: Path | None) -> list[str]:
    """Write a recipe for shards, and return the lines to print.

    Raises:
        ConfigError: no file is named, or it is one of the package's recipes.
        OutputError: the file exists or cannot be written.
        DataError: as for `initial_recipe`.
    """
    from wordsight.errors import OutputError, encodable
    from wordsight.files import write_atomic
    from wordsight.training.init_recipe import initial_recipe

    if recipe is None or not recipe.endswith(".toml"):
        given = "no file" if recipe is None else recipe
        raise ConfigError(
            f"{given}: --init-recipe writes a file that ends in .toml; name it, as in: wordsight train my.toml "
            "--init-recipe DATA"
        )
    path = Path(recipe)
    if path.exists() or path.is_symlink():
        raise OutputError(f"{path}: already exists; choose another name")
    write_atomic(path, encodable(initial_recipe(data, path.stem)).encode())
    train = command_line([recipe], {"data": data, "out": out or f"runs/{path.stem}"})
    return [f"{path}: a recipe for {data}", f"try: {train}"]


def describe_run(run: "Run", quiet: bool) -> list[str]:
    """Return the lines about a finished run: its scores with intervals, also those before the first step."""
    from wordsight.errors import counted

    lines = [f"{run.directory}: {counted(run.steps, 'step')}; best model after {counted(run.best_step, 'step')}"]
    if run.start_scores and not run.best_step:
        lines = [
            f"{run.directory}: {counted(run.steps, 'step')}; no validation was better than that of the start model"
        ]
    before = {(score.dataset, score.metric): score for score in run.start_scores}
    for score in run.best_scores:
        start = before.get((score.dataset, score.metric))
        compared = f"; before training {_percent(start)}" if start else ""
        lines.append(f"  {score}{compared if run.best_step else ''}")
    advice = f"try: wordsight classify IMAGES --labels cat,dog --model {shlex.quote(str(run.directory))}"
    return lines if quiet else [*lines, advice]


def _percent(score: "Score") -> str:
    return f"{100 * score.value:.1f} % [{100 * score.low:.1f}, {100 * score.high:.1f}]"


def run_directory(recipe: str | None, out: Path | None, resume: bool) -> Path:
    """Return `--out`, after checking that the command says what to train.

    Raises:
        ConfigError: there is no recipe and no run to resume, or no `--out`.
    """
    if recipe is None and not resume:
        names = ", ".join(recipe_names())
        raise ConfigError(
            f"no recipe: name a TOML file or one of {names}; or continue a run with --resume --out RUN; or write a "
            "recipe with --init-recipe DATA"
        )
    if out is None:
        raise ConfigError("no run directory: pass --out DIR")
    return out
