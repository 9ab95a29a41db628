"""The tour's page and its summary: what was learned, in words for a reader who sees such figures for the first time."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wordsight.data.openmoji import ATTRIBUTION
from wordsight.demo.evaluation import KINDS, TEMPLATES, Evaluation, kind_of
from wordsight.demo.state import Side, Summary
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
_WAYS = ("image to its name", "name to its image")
_RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Tour:
    """What was done.

    Attributes:
        commands: what to try next, with what each is for.
        steps, batch_size, seconds: of the training; validation and pauses do not count.
        images, concepts: to learn from.
        parameters: numbers in the model.
        weights: fingerprint of the model.
        rows: of the run's `metrics.jsonl`.
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


def commands_of(program: str, out: Path) -> list[tuple[str, str]]:
    """What to try next: command lines that run as they stand, each with what it is for.

    Args:
        program: how the user started wordsight.
        out: the tour's directory.
    """
    images, model, labels = (shlex.quote(str(out / name)) for name in ("images", "run", "kinds.json"))
    one, embeddings = (shlex.quote(str(out / name)) for name in (f"images/{EXAMPLE}", "images.parquet"))
    look = f"--templates {TEMPLATES} --model {model}"
    return [
        (f"{program} classify {one} --labels {EXAMPLE_LABELS} {look} --top 4", "labels of your own for a image"),
        (f"{program} classify {images} --labels {labels} {look}", "the kind of every held-out image"),
        (f"{program} embed {images} --out {embeddings} --model {model}", "images as embeddings"),
        (
            f"{program} demo --steps 100 --out {shlex.quote(f'{out}-short')}",
            "a shorter training: how much less does it know?",
        ),
        (f"{program} recipes", "what else there is to train"),
    ]


def summary_of(tour: Tour, exam: Evaluation) -> Summary:
    """The tour in figures, for `--json` and for the second call."""
    return Summary(
        steps=tour.steps,
        training_seconds=round(tour.seconds, 1),
        training=Side(images=tour.images, concepts=tour.concepts),
        held_out=Side(images=len(exam.pairs), concepts=len({pair.concept for pair in exam.pairs})),
        figures=(*exam.retrieval, exam.kinds.accuracy),
        weights=tour.weights,
    )


def in_words(summary: Summary, out: Path, commands: Sequence[tuple[str, str]]) -> str:
    """The summary for a terminal.

    Args:
        summary: from `summary_of`.
        out: the tour's directory.
        commands: from `commands_of`.
    """
    titles = [f"{way}, {_among(rank)}" for way in _WAYS for rank in _RANKS]
    titles.append(f"kind of thing, of {len(KINDS)}")
    lines = [
        f"Learned in {_time(summary.training_seconds)}, {summary.steps:,} steps. "
        f"On {summary.held_out.images} images of {summary.held_out.concepts} things that it has never seen:",
        "",
        f"  {'':39} right    95 % interval   guessing",
    ]
    lines += [
        f"  {title:39}{100 * f.value:4.1f} %   {100 * f.low:4.1f} to {100 * f.high:4.1f} %   {100 * f.chance:4.1f} %"
        for title, f in zip(titles, summary.figures, strict=True)
    ]
    lines += ["", f"The report, for a browser:  {out / 'report.html'}", f"The model:                  {out / 'run'}"]
    lines.append(f"The held-out images:      {out / 'images'}")
    lines += ["", "Try next:"]
    for command, purpose in commands:
        lines += [f"  # {purpose}", f"  {command}"]
    return "\n".join(lines)


def page(tour: Tour, exam: Evaluation) -> Page:
    """The whole report."""
    held_out = f"{len(exam.pairs)} drawings of {len({pair.concept for pair in exam.pairs})} things"
    return Page(
        title=f"What a small CLIP learned in {_time(tour.seconds)}",
        lead=f"It saw {tour.images:,} drawings with their words, and nothing else, ever. Everything below is about "
        f"{held_out} that it has not seen, not even as a variant.",
        sections=[
            _in_short(tour, exam),
            _cards(exam, "Five best", "The images whose right name came first with most certainty.", exam.best),
            _cards(
                exam,
                "Five worst",
                "The images whose right name came last of all. Such a name is often a word that no caption had, so "
                "there was nothing to learn it from.",
                exam.worst,
            ),
            _found(exam),
            _matrix(exam),
            _learning(tour, exam),
            _all_figures(exam),
            Section(
                "Try next",
                "Lines to type where you started the tour.",
                [Commands([line for command, purpose in tour.commands for line in (f"# {purpose}", command)])],
            ),
        ],
        notes=[
            ATTRIBUTION,
            "Held out by concept: variants that differ in skin, hair, gender or direction, and flags of one country, "
            "are one concept, and each concept is on one side alone. No held-out image chose a step, a setting or a "
            "model.",
            f"Model: {tour.weights}",
        ],
    )


def _in_short(tour: Tour, exam: Evaluation) -> Section:
    names, images = exam.retrieval[2], exam.retrieval[5]
    n = len(exam.pairs)
    return Section(
        "In short",
        f"Given a image, the model puts {n} names in order; given a name, {n} images. It can also tell kinds "
        "apart, such as animals from clocks, by words alone: this is zero-shot classification.\n\n"
        "Below each figure, the dot is the share that came out right, the bar around it how sure that is (an interval "
        "of 95 %), and the tick what guessing gives; of kinds, always answering the commonest.",
        [
            Tiles(
                [
                    tile(names, "The right name is among the best 10"),
                    tile(images, "The right image is among the best 10"),
                    tile(exam.retrieval[0], "The right name is the very first"),
                    tile(exam.kinds.accuracy, f"The right kind of {len(KINDS)}"),
                ]
            ),
            Tiles(
                [
                    Tile("Learned from", f"{tour.images:,}", f"drawings of {tour.concepts:,} things"),
                    Tile(
                        "Training",
                        _time(tour.seconds).replace("minutes", "min"),
                        f"{tour.steps:,} steps of {tour.batch_size} pairs",
                    ),
                    Tile("Speed", f"{_pairs_per_s(tour):,.0f} pairs/s", "images with one of their captions"),
                    Tile("Size", f"{tour.parameters / 1e6:.1f} million", "numbers in both encoders"),
                ]
            ),
        ],
    )


def _pairs_per_s(tour: Tour) -> float:
    return tour.steps * tour.batch_size / tour.seconds if tour.seconds else 0.0


def _learning(tour: Tour, exam: Evaluation) -> Section:
    steps = [row for row in tour.rows if "loss" in row]
    scores = [row for row in tour.rows if "scores" in row]
    chance = exam.retrieval[2].chance
    recall = [
        Curve(way, [0, *(row["step"] for row in scores)], [chance, *(_score(row, name) for row in scores)])
        for way, name in zip(_WAYS, ("image_to_text", "text_to_image"), strict=True)
    ]
    return Section(
        "How it learned",
        "The loss says how badly the pairs of a batch are told apart while it learns from them; the shares beside it "
        "what this is worth on images that it has not seen. Where the shares stay level while the loss still falls, "
        "it learns its drawings by heart: more images would help then, more steps would not.",
        [
            Plot([Curve("training", [row["step"] for row in steps], [row["loss"] for row in steps])], "step", "loss"),
            Plot(recall, "step", "among the best 10", level=chance, is_share=True),
        ],
    )


def _score(row: Mapping[str, Any], name: str) -> float:
    return float(row["scores"].get(f"held-out/{name}_best_10", float("nan")))


def _all_figures(exam: Evaluation) -> Section:
    kinds = exam.kinds
    rows: list[list[str | int | float]] = [
        [way, _among(rank), *_cells(figure)]
        for (way, rank), figure in zip(((w, r) for w in _WAYS for r in _RANKS), exam.retrieval, strict=True)
    ]
    of_kinds: list[list[str | int | float]] = [[figure.name, figure.n, *_cells(figure)[:2]] for figure in kinds.by_kind]
    return Section(
        "All figures",
        "",
        [
            Table(
                ["question", "right is", "share", "95 % interval", "guessing"],
                rows,
                f"Recall at 1, 5 and 10 among {len(exam.pairs)} images and their names. Wilson's intervals.",
            ),
            Table(
                ["kind", "images", "told right", "95 % interval"],
                [*of_kinds, ["all kinds", kinds.accuracy.n, *_cells(kinds.accuracy)[:2]]],
                f"Zero-shot: {len(KINDS)} kinds, told by their words. Guessing by lot gives "
                f"{_percent(1 / len(KINDS))}, always answering “{kinds.commonest}” {_percent(kinds.accuracy.chance)}. "
                "Images that belong to no kind are left out. Few images, wide intervals.",
            ),
        ],
    )


def _cells(figure: Score) -> list[str]:
    return [_percent(figure.value), f"{100 * figure.low:.1f} to {_percent(figure.high)}", _percent(figure.chance)]


def _matrix(exam: Evaluation) -> Section:
    chosen = exam.one_of_each_kind(_MATRIX_SIZE)
    return Section(
        "Images against names",
        f"How close {len(chosen)} images and their names lie for the model. One image a kind, drawn by lot.",
        [
            Matrix(
                [[float(exam.similarity[image, name]) for image in chosen] for name in chosen],
                [exam.pairs[number].image for number in chosen],
                [exam.pairs[number].name for number in chosen],
                range(len(chosen)),
                "Cosine similarity. In a perfect model the frames would be the fullest of their row and column.",
            )
        ],
    )


def _cards(exam: Evaluation, title: str, text: str, numbers: Sequence[int]) -> Section:
    cards = [
        ImageCard(
            exam.pairs[number].name,
            exam.pairs[number].image,
            [
                RankedText(exam.pairs[name].name, float(exam.probability[number, name]), name == number)
                for name in exam.names_of(number)
            ],
            is_right=bool(exam.rank[number] == 1),
            note=f"place {exam.rank[number]:.0f} of {len(exam.pairs)}",
        )
        for number in numbers
    ]
    return Section(title, f"{text} Below each, its five likeliest names of {len(exam.pairs)}.", [Gallery(cards)])


def _found(exam: Evaluation) -> Section:
    cards = []
    for kind, numbers in exam.kinds.found.items():
        pairs = [exam.pairs[number] for number in numbers]
        answers = [RankedText(pair.name, 1.0, kind_of(pair) == kind, pair.image) for pair in pairs]
        cards.append(ImageCard(kind, answers=answers))
    return Section(
        "Checkpoint by words",
        f"For each of {len(KINDS)} kinds, the five of all {len(exam.pairs)} images that fit its words best. "
        "A tick marks those that Unicode counts to the kind.\n\n"
        "These words are some that captions had. A model this small makes little of phrases that no caption resembles, "
        "such as “something to eat”.",
        [Gallery(cards)],
    )


def _among(rank: int) -> str:
    return "first" if rank == 1 else f"among the best {rank}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _time(seconds: float) -> str:
    if seconds < 99.5:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.1f} minutes".replace(".0 ", " ")
