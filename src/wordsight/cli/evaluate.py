"""`wordsight evaluate`: measure models on one's own data, and compare them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wordsight.cli.classify_options import TemplatesOption
from wordsight.cli.options import (
    AsOption,
    AveragedOption,
    BatchSizeOption,
    DecodingOption,
    DeviceOption,
    ImageColumnOption,
    ImageRootOption,
    JsonOption,
    LabelColumnOption,
    MirrorOption,
    NamesOption,
    PolicyOption,
    QuietOption,
    RuntimeOption,
    TextColumnOption,
    choice,
    published_names,
)

if TYPE_CHECKING:
    from wordsight.cli.loading import ModelOptions
    from wordsight.data import InputOptions
    from wordsight.evaluation import EvaluationOptions, EvaluationResult

TASKS = ("retrieval", "classification")

ModelsArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="Names listed by 'wordsight models', weights files, directories of models or training runs, or "
        "hf-hub:ORG/NAME. The second and further ones are compared with the first.",
        autocompletion=published_names,
        show_default=False,
    ),
]
DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Images with captions or labels: a directory, a table (CSV, TSV, Parquet, JSONL), a tar file or shards.",
        show_default=False,
    ),
]
TaskOption = Annotated[
    str | None,
    typer.Option(
        "--task",
        help="retrieval: images and their captions find each other; classification: labels are predicted without "
        "training.",
        show_default="all that the data has texts for",
        **choice("--task", TASKS),
    ),
]
DatasetOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Name of the dataset in the scores.", show_default="the last part of DATA"),
]
SplitOption = Annotated[str, typer.Option(metavar="NAME", help="The part of the dataset that DATA is, for the report.")]
UnreadableOption = Annotated[
    float,
    typer.Option(
        "--max-unreadable-share", min=0.0, max=1.0, metavar="F", help="Stop if a larger share of images is unreadable."
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE.csv|FILE.json", help="Also write the scores to this new file."),
]


def evaluate(
    models: ModelsArgument,
    data: DataArgument,
    task: TaskOption = None,
    templates: TemplatesOption = "photo",
    dataset: DatasetOption = None,
    split: SplitOption = "all",
    image_column: ImageColumnOption = None,
    text_columns: TextColumnOption = None,
    label_column: LabelColumnOption = None,
    image_root: ImageRootOption = None,
    names: NamesOption = None,
    max_unreadable_share: UnreadableOption = 0.1,
    out: OutOption = None,
    architecture: AsOption = None,
    averaged: AveragedOption = None,
    device: DeviceOption = None,
    runtime: RuntimeOption = "torch",
    decoding: DecodingOption = None,
    policy: PolicyOption = "viewer",
    batch_size: BatchSizeOption = None,
    mirror: MirrorOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure models on images with captions or labels, and compare them.

    Captions are evaluated by retrieval: recall@1, @5 and @10 from images to captions and from captions to images.
    Labels are evaluated by zero-shot classification among the labels that occur. Every score has a confidence interval
    and the level of chance; further models are compared with the first by a paired test on the same images.

    \b
    Example:
      wordsight evaluate runs/first runs/second pets/
    """
    from wordsight.cli.evaluate_output import check_arguments, check_out, report
    from wordsight.cli.loading import ModelOptions
    from wordsight.data import InputOptions
    from wordsight.evaluation import EvaluationOptions, dataset_name

    options = EvaluationOptions(dataset or dataset_name(data), split, task, templates, max_unreadable_share)
    check_out(out)
    check_arguments(models, data)
    texts = tuple(text_columns or ())
    inputs = InputOptions(
        image_column=image_column, text_columns=texts, label_column=label_column, image_root=image_root, names=names
    )
    model_options = [
        ModelOptions(name, architecture, averaged, device, runtime, decoding, policy, batch_size, mirror)
        for name in models
    ]
    report(_run(model_options, data, inputs, options, quiet), out, as_json)


def _run(
    models: "list[ModelOptions]", data: str, inputs: "InputOptions", options: "EvaluationOptions", quiet: bool
) -> "EvaluationResult":
    """Load and evaluate the models, one after the other."""
    from functools import partial

    from wordsight.cli.loading import load_model
    from wordsight.data.inputs import iter_labelled
    from wordsight.evaluation import NamedModel, evaluate_models

    named = [NamedModel(model.name, partial(load_model, model, quiet)) for model in models]
    return evaluate_models(named, partial(iter_labelled, data, inputs), options)
