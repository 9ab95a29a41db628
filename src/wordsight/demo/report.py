"""The demo's report and its summary on the terminal, for readers who are new to such metrics."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordsight.data.openmoji import ATTRIBUTION
from wordsight.demo.evaluation import DATASET, KINDS, TEMPLATES, Evaluation, kind_of
from wordsight.demo.state import SplitSize, Summary
from wordsight.metrics import Score
from wordsight.report import (
    Commands,
    Curve,
    Gallery,
    ImageCard,
    Matrix,
    Page,
    Plot,
    RankedText,
    Section,
    Table,
    Tile,
    Tiles,
    tile,
)

EXAMPLE = "guide-dog_1F9AE.png"
"""One of the held-out images."""

EXAMPLE_LABELS = "dog,guitar,house,flag"
_MATRIX_SIZE = 10
_RECALL_AT_10 = ("image_to_text_recall@10", "text_to_image_recall@10")


@dataclass(frozen=True)
class DemoRun:
    """The training run that the report describes.

    Attributes:
        commands: command lines to try next, from `next_commands`.
        steps: number of training steps.
        batch_size: number of pairs per step.
        seconds: duration of the training, without validation and interruptions.
        images: number of training images.
        concepts: number of concepts that they show.
        parameters: number of parameters of the model.
        weights: fingerprint of the model.
        rows: the run's `metrics.jsonl`.
    """

    commands: Sequence[tuple[str, str]]
    steps: int
    batch_size: int
    seconds: float
    images: int
    concepts: int
    parameters: int
    weights: str
    rows: Sequence[Mapping[str, Any]]


def next_commands(program: str, out: Path) -> list[tuple[str, str]]:
    """Return command lines to try next, which can be run unchanged, each with its purpose.

    Args:
        program: how the user started wordsight.
        out: the demo directory.
    """
    images, model, labels = (shlex.quote(str(out / name)) for name in ("images", "run", "kinds.json"))
    example, embeddings = (shlex.quote(str(out / name)) for name in (f"images/{EXAMPLE}", "images.parquet"))
    options = f"--templates {TEMPLATES} --model {model}"
    return [
        (
            f"{program} classify {example} --labels {EXAMPLE_LABELS} {options} --top 4",
            "classify an image by your labels",
        ),
        (f"{program} classify {images} --labels {labels} {options}", "classify all held-out images by kind"),
        (f"{program} embed {images} --out {embeddings} --model {model}", "embed the held-out images"),
        (
            f"{program} demo --steps 100 --out {shlex.quote(f'{out}-short')}",
            "train for fewer steps and compare the scores",
        ),
        (f"{program} recipes", "list the other recipes"),
    ]


def summarise(run: DemoRun, evaluation: Evaluation) -> Summary:
    """Return the results of the demo, as written to `demo.json` and printed by `--json`."""
    return Summary(
        steps=run.steps,
        training_seconds=round(run.seconds, 1),
        training=SplitSize(images=run.images, concepts=run.concepts),
        held_out=SplitSize(images=len(evaluation.pairs), concepts=len({pair.concept for pair in evaluation.pairs})),
        scores=(*evaluation.retrieval, evaluation.kinds.accuracy),
        weights=run.weights,
    )


def summary_text(summary: Summary, out: Path, commands: Sequence[tuple[str, str]]) -> str:
    """Return the summary for a terminal.

    Args:
        summary: from `summarise`.
        out: the demo directory.
        commands: from `next_commands`.
    """
    lines = [
        f"Trained for {summary.steps:,} steps in {_duration(summary.training_seconds)}. "
        f"Zero-shot scores on {summary.held_out.images} held-out images "
        f"({summary.held_out.concepts} concepts, none seen in training):",
        "",
        f"  {'metric':26}  {'value':>7}   {'95 % interval':>16}   {'chance':>7}",
    ]
    lines += [
        f"  {_label(score):26}  {100 * score.value:5.1f} %   {100 * score.low:5.1f} to {100 * score.high:5.1f} %   "
        f"{100 * score.chance:5.1f} %"
        for score in summary.scores
    ]
    lines += ["", f"Report:           {out / 'report.html'}", f"Model:            {out / 'run'}"]
    lines += [f"Held-out images:  {out / 'images'}", "", "Try next:"]
    for command, purpose in commands:
        lines += [f"  # {purpose}", f"  {command}"]
    return "\n".join(lines)


def build_page(run: DemoRun, evaluation: Evaluation) -> Page:
    """Build the whole report."""
    num_concepts = len({pair.concept for pair in evaluation.pairs})
    return Page(
        title=f"A small CLIP model, trained in {_duration(run.seconds)}",
        lead=f"The model was trained from scratch on {run.images:,} drawings with captions. All results below are on "
        f"{len(evaluation.pairs)} drawings of {num_concepts} concepts that were not in the training data, not even as "
        "variants.",
        sections=[
            _summary_section(run, evaluation),
            _gallery_section(
                evaluation,
                "Five best",
                "The images whose own name was ranked highest, by position and then by probability.",
                evaluation.best,
            ),
            _gallery_section(
                evaluation,
                "Five worst",
                "The images whose own name was ranked lowest. Often it is a word that occurs in no training caption, "
                "so the model could not learn it.",
                evaluation.worst,
            ),
            _kinds_section(evaluation),
            _matrix_section(evaluation),
            _training_section(run, evaluation),
            _scores_section(evaluation),
            Section(
                "Try next",
                "Commands to run in the directory where you started the demo.",
                [Commands([line for command, purpose in run.commands for line in (f"# {purpose}", command)])],
            ),
        ],
        notes=[
            ATTRIBUTION,
            "The data is split by concept: variants that differ in skin tone, hair, gender or direction, and flags of "
            "one country, are one concept, and each concept is in one part only. No held-out image was used to choose "
            "a step, a setting or a model.",
            f"Model: {run.weights}",
        ],
    )


def _summary_section(run: DemoRun, evaluation: Evaluation) -> Section:
    to_names, to_images = evaluation.retrieval[2], evaluation.retrieval[5]
    n = len(evaluation.pairs)
    return Section(
        "Summary",
        f"Given an image, the model ranks {n} names; given a name, it ranks {n} images. Recall@10 is the proportion of "
        "cases in which the correct one is among the first 10. The model also assigns images to kinds, such as animals "
        "or clocks, from the names of the kinds alone: this is zero-shot classification.\n\n"
        "The dot below each score is its value, the bar is its 95 % confidence interval, and the tick is the chance "
        "level: a random guess, or for kinds, always predicting the most common one.",
        [
            Tiles(
                [
                    tile(to_names, "Image to name, recall@10"),
                    tile(to_images, "Name to image, recall@10"),
                    tile(evaluation.retrieval[0], "Image to name, recall@1"),
                    tile(evaluation.kinds.accuracy, f"Zero-shot accuracy, {len(KINDS)} kinds"),
                ]
            ),
            Tiles(
                [
                    Tile("Training data", f"{run.images:,}", f"drawings of {run.concepts:,} concepts"),
                    Tile(
                        "Training time",
                        _duration(run.seconds).replace("minutes", "min"),
                        f"{run.steps:,} steps of {run.batch_size} pairs",
                    ),
                    Tile(
                        "Throughput", f"{_pairs_per_s(run):,.0f} pairs/s", "a pair is an image and one of its captions"
                    ),
                    Tile("Model size", f"{run.parameters / 1e6:.1f} million", "parameters of both encoders"),
                ]
            ),
        ],
    )


def _pairs_per_s(run: DemoRun) -> float:
    return run.steps * run.batch_size / run.seconds if run.seconds else 0.0


def _training_section(run: DemoRun, evaluation: Evaluation) -> Section:
    steps = [row for row in run.rows if "loss" in row]
    validations = [row for row in run.rows if "scores" in row]
    chance = evaluation.retrieval[2].chance
    recall = [
        Curve(
            direction,
            [0, *(row["step"] for row in validations)],
            [chance, *(_logged_value(row, metric) for row in validations)],
        )
        for direction, metric in zip(("image to name", "name to image"), _RECALL_AT_10, strict=True)
    ]
    return Section(
        "Training curves",
        "The loss measures how well the model matches the images and captions of a training batch; recall@10 measures "
        "how well this generalises to the held-out images. If recall stays level while the loss still falls, the model "
        "is overfitting: more images would help, more steps would not.",
        [
            Plot([Curve("training", [row["step"] for row in steps], [row["loss"] for row in steps])], "step", "loss"),
            Plot(recall, "step", "recall@10", level=chance, is_share=True),
        ],
    )


def _logged_value(row: Mapping[str, Any], metric: str) -> float:
    values = (score["value"] for score in row["scores"] if (score["dataset"], score["metric"]) == (DATASET, metric))
    return float(next(values, float("nan")))


def _scores_section(evaluation: Evaluation) -> Section:
    kinds = evaluation.kinds
    retrieval_rows: list[list[str | int | float]] = [[_label(score), *_cells(score)] for score in evaluation.retrieval]
    kind_rows: list[list[str | int | float]] = [[score.dataset, score.n, *_cells(score)[:2]] for score in kinds.by_kind]
    return Section(
        "All scores",
        "",
        [
            Table(
                ["metric", "value", "95 % interval", "chance"],
                retrieval_rows,
                f"Retrieval among {len(evaluation.pairs)} images and their names, with Wilson's intervals.",
            ),
            Table(
                ["kind", "images", "accuracy", "95 % interval"],
                [*kind_rows, ["all kinds", kinds.accuracy.n, *_cells(kinds.accuracy)[:2]]],
                f"Zero-shot classification into {len(KINDS)} kinds. A random guess is correct with probability "
                f"{_percent(1 / len(KINDS))}; always predicting “{kinds.most_common}” has an accuracy of "
                f"{_percent(kinds.accuracy.chance)}. Images that belong to none of the kinds are left out. With few "
                "images per kind, the intervals are wide.",
            ),
        ],
    )


def _label(score: Score) -> str:
    """Return the metric as it is printed in tables."""
    return f"accuracy, {len(KINDS)} kinds" if score.metric == "accuracy" else score.metric.replace("_", " ")


def _cells(score: Score) -> list[str]:
    return [_percent(score.value), f"{100 * score.low:.1f} to {_percent(score.high)}", _percent(score.chance)]


def _matrix_section(evaluation: Evaluation) -> Section:
    chosen = evaluation.one_of_each_kind(_MATRIX_SIZE)
    return Section(
        "Similarity of images and names",
        f"Cosine similarity of {len(chosen)} images and their names: one random image of each kind.",
        [
            Matrix(
                [[float(evaluation.similarity[image, name]) for image in chosen] for name in chosen],
                [evaluation.pairs[index].image for index in chosen],
                [evaluation.pairs[index].name for index in chosen],
                range(len(chosen)),
                "In a perfect model, each framed cell would have the highest similarity of its row and column.",
            )
        ],
    )


def _gallery_section(evaluation: Evaluation, title: str, text: str, images: Sequence[int]) -> Section:
    cards = [
        ImageCard(
            evaluation.pairs[image].name,
            evaluation.pairs[image].image,
            [
                RankedText(evaluation.pairs[name].name, float(evaluation.probability[image, name]), name == image)
                for name in evaluation.top_names(image)
            ],
            is_right=bool(evaluation.position[image] == 1),
            note=f"position {evaluation.position[image]:.0f} of {len(evaluation.pairs)}",
        )
        for image in images
    ]
    description = f"{text} Each card lists the five most probable of {len(evaluation.pairs)} names."
    return Section(title, description, [Gallery(cards)])


def _kinds_section(evaluation: Evaluation) -> Section:
    cards = []
    for kind, images in evaluation.kinds.best_images.items():
        pairs = [evaluation.pairs[image] for image in images]
        results = [RankedText(pair.name, 1.0, kind_of(pair) == kind, pair.image) for pair in pairs]
        cards.append(ImageCard(kind, results=results))
    return Section(
        "Search by text",
        f"For each of {len(KINDS)} kinds, the five images of all {len(evaluation.pairs)} that are most similar to its "
        "name. A tick marks the images that Unicode assigns to the kind.\n\n"
        "These words occur in training captions. A model this small understands little of phrases that resemble no "
        "caption, such as “something to eat”.",
        [Gallery(cards)],
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes".replace(".0 ", " ")
