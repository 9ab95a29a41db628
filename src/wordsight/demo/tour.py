"""The stages of the demo; each one leaves complete output in the demo directory and is not repeated by a later call.

shards/train, shards/held-out    the pairs
images/, kinds.json              the held-out images as files, and the kinds as labels, for the user's own experiments
run/                             the training run
report.html                      the report
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from wordsight.data import Sample, writing_shards
from wordsight.data.openmoji import EmojiPair, collect, split
from wordsight.demo.evaluation import KINDS, evaluate, held_out_evaluator
from wordsight.demo.report import DemoRun, build_page, summarise
from wordsight.demo.state import Summary
from wordsight.encoder import load
from wordsight.errors import MissingExtraError
from wordsight.files import atomic_directory, recover_directory, write_atomic
from wordsight.progress import tracked
from wordsight.training import Recipe, train
from wordsight.training.rows import read_rows


def run_tour(out: Path, recipe: Recipe, commands: Sequence[tuple[str, str]]) -> Summary:
    """Run the remaining stages, write the report and return the summary.

    Args:
        out: the demo directory, which the caller has locked.
        recipe: of the training.
        commands: command lines that the report suggests to try next, from `next_commands`.

    Raises:
        MissingExtraError: packages of the extras `samples` or `report` are not installed.
        WordsightError: raised by `collect`, `writing_shards` and `train`.
        KeyboardInterrupt: interrupted; finished stages and the checkpoint are kept.
    """
    _check_report_packages()
    _print("1 of 4  rendering about two thousand images and collecting their captions")
    training, held_out = split(collect())
    _print(
        f"2 of 4  packing {len(training):,} images for training and {len(held_out)} held-out images of other concepts"
    )
    _pack(training, out / "shards" / "train")
    _pack(held_out, out / "shards" / "held-out")
    _write_images_and_labels(out, held_out)
    _print(f"3 of 4  training for {recipe.schedule.steps:,} steps; Ctrl-C saves, and the same command continues")
    run = train(recipe, out / "shards", out / "run", resume=True, evaluators=[held_out_evaluator(held_out)])
    _print(f"4 of 4  evaluating on the {len(held_out)} held-out images and writing the report")
    encoder = load(run.directory)
    rows = read_rows(run.directory / "metrics.jsonl")
    demo_run = DemoRun(
        commands=commands,
        steps=run.steps,
        batch_size=recipe.batch_size,
        seconds=_training_seconds(rows, recipe.batch_size),
        images=len(training),
        concepts=len({pair.concept for pair in training}),
        parameters=sum(parameter.numel() for parameter in encoder.model.parameters()),
        weights=str(encoder.fingerprint),
        rows=rows,
    )
    evaluation = evaluate(encoder, held_out)
    build_page(demo_run, evaluation).write(out / "report.html")
    return summarise(demo_run, evaluation)


def file_name(pair: EmojiPair) -> str:
    """Return the file name of an image: the letters and digits of its name, and its code points, which are unique."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in pair.name.lower()).split()
    return f"{'-'.join(words)[:60]}_{pair.key}.png"


def _check_report_packages() -> None:
    """Fail before the training, not after it, if the report cannot be written."""
    if not (find_spec("jinja2") and find_spec("matplotlib")):
        raise MissingExtraError("the demo's report", "report")


def _pack(pairs: Sequence[EmojiPair], directory: Path) -> None:
    recover_directory(directory)
    if directory.exists():
        return
    with writing_shards(directory) as writer:
        for pair in tracked(pairs, "packing images", "images"):
            writer.add(Sample(key=pair.key, image=pair.image, captions=pair.captions))
        writer.finish()


def _write_images_and_labels(out: Path, held_out: Sequence[EmojiPair]) -> None:
    recover_directory(out / "images")
    if not (out / "images").exists():
        with atomic_directory(out / "images") as directory:
            for pair in held_out:
                (directory / file_name(pair)).write_bytes(pair.image)
    write_atomic(out / "kinds.json", json.dumps([list(names) for names in KINDS], indent=1).encode())


def _training_seconds(rows: Sequence[dict[str, Any]], batch_size: int) -> float:
    """Return the time spent in steps, from the logged throughput; interruptions and validation do not count."""
    seconds, previous_step = 0.0, 0
    for row in rows:
        if "pairs_per_s" in row:
            seconds += (row["step"] - previous_step) * batch_size / row["pairs_per_s"]
            previous_step = row["step"]
    return seconds


def _print(line: str) -> None:
    typer.echo(line, err=True)
