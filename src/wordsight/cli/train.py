"""`wordsight train`: a recipe and shards in, a run out."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or a name of 'wordsight recipes'.")],
    data: Annotated[list[str], typer.Option(help="Shards, or a directory that holds the recipe's shards; repeatable.")],
    out: Annotated[Path, typer.Option(help="The run's directory.")],
    start: Annotated[
        str | None, typer.Option("--from", help="A model to start from; brings its architecture and preprocessing.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where the run in OUT stopped.")] = False,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key, as optimizer.learning_rate=1e-3; repeatable.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Threads that prepare batches.")] = 1,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads that compute; default: all cores.")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write TensorBoard's files.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one line of JSON.")] = False,
) -> None:
    """Train a model from shards of images and texts.

    Ctrl-C saves and ends; --resume goes on, bit for bit.

    Example: wordsight train flickr8k --data shards --out runs/first
    """
    import msgspec
    import torch

    from wordsight.training import load_recipe
    from wordsight.training import train as run_recipe

    if threads is not None:
        torch.set_num_threads(threads)
    run = run_recipe(
        load_recipe(recipe, tuple(change or ())),
        [*data],
        out,
        start=start,
        resume=resume,
        workers=workers,
        tensorboard=tensorboard,
    )
    if as_json:
        outcome = {
            "directory": str(run.directory),
            "steps": run.steps,
            "best_step": run.best_step,
            "scores": run.best_scores,
        }
        typer.echo(msgspec.json.encode(outcome).decode())
    else:
        typer.echo(f"{run.directory}: {run.steps} steps; best after {run.best_step}")
        typer.echo(f"try: wordsight classify IMAGES --labels cat,dog --model {run.directory}")
