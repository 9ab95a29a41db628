"""`wordsight train`: train a model as a recipe describes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    DeviceOption,
    JsonOption,
    MirrorOption,
    QuietOption,
    WorkersOption,
    published_names,
    recipe_names,
)

if TYPE_CHECKING:
    from wordsight.training import Run


RecipeArgument = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A TOML file, or a name listed by 'wordsight recipes'.",
        autocompletion=recipe_names,
        show_default=False,
    ),
]
DataOption = Annotated[
    list[str],
    typer.Option(
        metavar="DIR",
        help="A directory of shards, or one that contains the recipe's shards; may be repeated.",
        show_default=False,
    ),
]
OutOption = Annotated[Path, typer.Option(metavar="DIR", help="Directory of the run.", show_default=False)]
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
    bool, typer.Option("--resume", help="Continue the run in --out; if there is none, start a new one.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a key of the recipe, such as optimizer.learning_rate=1e-3; may be repeated.",
    ),
]
ThreadsOption = Annotated[
    int | None, typer.Option(metavar="N", min=1, help="Threads for computation.", show_default="one per CPU")
]
TensorBoardOption = Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard event files.")]


def train(
    recipe: RecipeArgument,
    data: DataOption,
    out: OutOption,
    start: FromOption = None,
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    mirror: MirrorOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    changes: SetOption = None,
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    tensorboard: TensorBoardOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model on shards of images and texts.

    Ctrl-C saves the state and stops; --resume continues with results that are identical to those of an uninterrupted
    run. --as, --averaged and --mirror apply to the model of --from.

    \b
    Example:
      wordsight train flickr8k --data shards --out runs/first
    """
    import shlex

    import torch

    from wordsight.cli.loading import ModelOptions, load_model
    from wordsight.cli.terminal import print_json, print_lines, silence_notes
    from wordsight.errors import counted
    from wordsight.training import load_recipe
    from wordsight.training import train as run_training
    from wordsight.training.start import change_start

    if threads is not None:
        torch.set_num_threads(threads)
    loaded = None
    assignments = tuple(changes or ())
    if start is not None:
        loaded = load_model(ModelOptions(start, architecture, averaged, device="cpu", mirror=mirror), quiet)
        loaded, assignments = change_start(loaded, assignments)
    with silence_notes(quiet):
        run = run_training(
            load_recipe(recipe, assignments),
            [*data],
            out,
            start=loaded,
            resume=resume,
            workers=workers,
            tensorboard=tensorboard,
            device=device,
        )
    lines = [f"{run.directory}: {counted(run.steps, 'step')}; best model after step {run.best_step}"]
    advice = f"try: wordsight classify IMAGES --labels cat,dog --model {shlex.quote(str(run.directory))}"
    print_json(_as_dict(run)) if as_json else print_lines(*lines, *([] if quiet else [advice]))


def _as_dict(run: "Run") -> dict[str, object]:
    return {
        "directory": str(run.directory),
        "steps": run.steps,
        "best_step": run.best_step,
        "scores": run.best_scores,
    }
