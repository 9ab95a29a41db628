"""`wordsight train`: train a model as a recipe describes."""

from typing import TYPE_CHECKING, Any

from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    DeviceOption,
    JsonOption,
    MirrorOption,
    QuietOption,
    WorkersOption,
)
from wordsight.cli.train_options import (
    Command,
    DataOption,
    FromOption,
    InitRecipeOption,
    OutOption,
    RecipeArgument,
    ResumeOption,
    SetOption,
    TensorBoardOption,
    ThreadsOption,
    describe_run,
    run_directory,
    write_initial_recipe,
)

if TYPE_CHECKING:
    from wordsight.training import Run


def train(
    recipe: RecipeArgument = None,
    data: DataOption = None,
    out: OutOption = None,
    start: FromOption = None,
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    mirror: MirrorOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    changes: SetOption = None,
    init_recipe: InitRecipeOption = None,
    workers: WorkersOption = 1,
    threads: ThreadsOption = None,
    tensorboard: TensorBoardOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model on shards of images and texts.

    Ctrl-C saves the state, stops, and prints the command that continues the run; its results are identical to those of
    an uninterrupted run. A run that starts from a model is validated before its first step. --as, --averaged and
    --mirror apply to the model of --from.

    \b
    Example:
      wordsight train flickr8k --data shards --out runs/first
    """
    from wordsight.cli.loading import ModelOptions
    from wordsight.cli.terminal import print_json, print_lines, print_note, silence_notes
    from wordsight.training.run_directory import is_resumable, remembered_data

    if init_recipe is not None:
        print_lines(*write_initial_recipe(init_recipe, recipe, out))
        return
    out = run_directory(recipe, out, resume)
    import torch

    from wordsight.training import train as run_training

    if threads is not None:
        torch.set_num_threads(threads)
    model = ModelOptions(start, architecture, averaged, device="cpu", mirror=mirror) if start is not None else None
    execution = {"device": device, "workers": None if workers == 1 else workers, "threads": threads}
    command = Command(
        recipe, tuple(data or ()), out, model, tuple(changes or ()), execution | {"tensorboard": tensorboard}
    )
    resolved, loaded = command.resolve(quiet)
    paths = data or (remembered_data(out) if resume else [])
    options: dict[str, Any] = {"resume": resume, "workers": workers, "tensorboard": tensorboard, "device": device}
    try:
        with silence_notes(quiet):
            run = run_training(resolved, [*paths], out, start=loaded, **options)
    except KeyboardInterrupt:
        if is_resumable(out):
            print_note(f"continue with: {command.resuming}", quiet)
        raise
    print_json(_as_dict(run)) if as_json else print_lines(*describe_run(run, quiet))


def _as_dict(run: "Run") -> dict[str, object]:
    return {
        "directory": str(run.directory),
        "steps": run.steps,
        "best_step": run.best_step,
        "scores": run.best_scores,
        "start_scores": run.start_scores,
    }
