"""What the tour does, stage by stage; each leaves something whole in the tour's directory and is not done again.

shards/train, shards/held-out    the pairs
images/, kinds.json            the held-out images as files and the kinds as labels, for the reader's own trials
run/                             the training run
report.html                      the page
"""

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer

from wordsight.data import Sample, writing_shards
from wordsight.data.openmoji import EmojiPair, collect, split
from wordsight.demo.evaluation import KINDS, evaluate, watcher
from wordsight.demo.report import Tour, page, summary_of
from wordsight.demo.state import Summary
from wordsight.encoder import load
from wordsight.errors import MissingExtraError
from wordsight.files import atomic_directory, recover_directory, write_atomic
from wordsight.training import Recipe, train
from wordsight.training.log import read_rows


def take_tour(out: Path, recipe: Recipe, commands: Sequence[tuple[str, str]]) -> Summary:
    """Do what is left to do, write the page and return the summary.

    Args:
        out: the tour's directory, which the caller has locked.
        recipe: of the training.
        commands: what the page says to try next.

    Raises:
        MissingExtraError: packages of the extras samples or report are not installed.
        WordsightError: as `collect`, `writing_shards` and `train`.
        KeyboardInterrupt: interrupted; what is done is kept.
    """
    _need_report()
    _say("1 of 4  drawing two thousand images and gathering their words")
    seen, held_out = split(collect())
    _say(f"2 of 4  packing: {len(seen):,} images to learn from, {len(held_out)} of other things held out")
    _pack(seen, out / "shards" / "train")
    _pack(held_out, out / "shards" / "held-out")
    _write_trials(out, held_out)
    _say(f"3 of 4  training, {recipe.schedule.steps:,} steps; Ctrl-C saves, and the same command goes on")
    run = train(recipe, out / "shards", out / "run", resume=True, evaluators=[watcher(held_out)])
    _say(f"4 of 4  asking about the {len(held_out)} images, writing the report")
    clip = load(run.directory)
    rows = read_rows(run.directory / "metrics.jsonl")
    tour = Tour(
        commands=commands,
        steps=run.steps,
        batch_size=recipe.batch_size,
        seconds=_training_seconds(rows, recipe.batch_size),
        images=len(seen),
        concepts=len({pair.concept for pair in seen}),
        parameters=sum(parameter.numel() for parameter in clip.model.parameters()),
        weights=str(clip.fingerprint),
        rows=rows,
    )
    exam = evaluate(clip, held_out)
    page(tour, exam).write(out / "report.html")
    return summary_of(tour, exam)


def file_name(pair: EmojiPair) -> str:
    """A image's file: the letters and digits of its name, and its code points, which no other has."""
    words = "".join(letter if letter.isascii() and letter.isalnum() else " " for letter in pair.name.lower()).split()
    return f"{'-'.join(words)[:60]}_{pair.key}.png"


def _need_report() -> None:
    """Find out before the training, not after it, that the report could not be written."""
    if not (find_spec("jinja2") and find_spec("matplotlib")):
        raise MissingExtraError("the tour's report", "report")


def _pack(pairs: Sequence[EmojiPair], directory: Path) -> None:
    recover_directory(directory)
    if directory.exists():
        return
    with writing_shards(directory) as writer:
        for pair in pairs:
            writer.add(Sample(key=pair.key, image=pair.image, captions=pair.captions))
        writer.finish()


def _write_trials(out: Path, held_out: Sequence[EmojiPair]) -> None:
    recover_directory(out / "images")
    if not (out / "images").exists():
        with atomic_directory(out / "images") as directory:
            for pair in held_out:
                (directory / file_name(pair)).write_bytes(pair.image)
    write_atomic(out / "kinds.json", json.dumps([list(names) for names in KINDS], indent=1).encode())


def _training_seconds(rows: Sequence[dict[str, Any]], batch_size: int) -> float:
    """Time spent in steps, from the rates that were logged; interruptions and validation do not count."""
    seconds, before = 0.0, 0
    for row in rows:
        if "pairs_per_s" in row:
            seconds += (row["step"] - before) * batch_size / row["pairs_per_s"]
            before = row["step"]
    return seconds


def _say(line: str) -> None:
    typer.echo(line, err=True)
