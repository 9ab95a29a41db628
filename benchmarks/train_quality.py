"""What half an hour of two cores teaches, on real data: the recipe `flickr8k` against open_clip's classes and loss.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.train_quality --json quality.json

It takes about two and a half hours: six trials of eight minutes for the peer's rate and batch, chosen on the selection
split, one run of thirty minutes of each, and one of ours at the peer's number of steps and batch. What is finished is
kept as JSON in `benchmarks/results/train_quality` with its settings, made again only where these have changed; a run
of ours that was interrupted goes on. Time is CPU time of two threads, data included: thirty minutes are sixty core
minutes, whatever else the machine does meanwhile. Machines and days differ in speed: before and after our run the peer
takes a minute of steps, and our minutes are also told at the speed at which the peer had its thirty.
"""

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.quality_peer import (
    LABEL_TEMPLATES,
    NAMES,
    SHARES,
    TEMPLATES,
    Pair,
    captioned,
    labelled,
    peer_images,
    peer_texts,
    selection_keys,
    train_peer,
    training_pairs,
)
from benchmarks.table import Row, finish
from benchmarks.table import parser as table_parser

import wordsight as ws
from wordsight.config import plain
from wordsight.data import PackOptions, SourceOptions, open_source, pack
from wordsight.evaluate import retrieval_scores
from wordsight.files import write_atomic
from wordsight.metrics import Score, accuracy_hits, score_hits
from wordsight.training import load_recipe, train

THREADS = 2
RATES = (5e-4, 1e-3, 2e-3)
BATCHES = (128, 256)
TRIAL_MINUTES = 8.0
PACE_MINUTES = 1.0

Embed = Callable[[list[Any]], np.ndarray]


def core_minutes() -> float:
    """CPU time of this process so far."""
    return time.process_time() / 60


def kept(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `make` gives with these settings: made once, kept as JSON, made again where the settings have changed."""
    if path.exists() and (found := json.loads(path.read_text()))["settings"] == settings:
        return dict(found)
    made = {"settings": settings} | make()
    write_atomic(path, (json.dumps(made, indent=1) + "\n").encode())
    return made


def retrieval(pairs: list[Pair], images: Embed, texts: Embed) -> list[Score]:
    """Recall both ways on images with five captions each."""
    owner = [number for number, pair in enumerate(pairs) for _ in pair.texts]
    captions = [text for pair in pairs for text in pair.texts]
    return retrieval_scores(images([pair.image for pair in pairs]), texts(captions), owner, "flickr8k")


def zero_shot(pairs: list[Pair], images: Embed, texts: Embed) -> Score:
    """Accuracy of the classifier made of the labels' names."""
    names = sorted({pair.texts[0] for pair in pairs})
    weights = np.stack([texts([t.format(name) for t in LABEL_TEMPLATES]).mean(axis=0) for name in names])
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    labels = np.array([names.index(pair.texts[0]) for pair in pairs])
    hits = accuracy_hits(images([pair.image for pair in pairs]) @ weights.T, labels)
    return score_hits(hits, dataset="cifar10", metric="accuracy", chance=1 / len(names))


def judged(data: Path, images: Embed, texts: Embed) -> dict[str, Any]:
    """The figures of one model on flickr8k-val and CIFAR-10: value, interval, chance, number of items."""
    figures = retrieval(captioned(data / "flickr8k-val.tar"), images, texts)
    figures.append(zero_shot(labelled(data / "cifar10.tar"), images, texts))
    return {f.metric: {"value": f.value, "low": f.low, "high": f.high, "chance": f.chance, "n": f.n} for f in figures}


def peer_trial(data: Path, results: Path, rate: float, batch: int) -> dict[str, Any]:
    """Eight minutes of the peer, judged on the selection split."""

    def make() -> dict[str, Any]:
        model, log = train_peer(training_pairs(data, selection=True), rate, batch, TRIAL_MINUTES * THREADS)
        pairs = captioned(data / "flickr8k-train.tar")
        left_out = selection_keys(pairs)
        pairs = [pair for pair in pairs if pair.key in left_out]
        figures = retrieval(pairs, lambda p: peer_images(model, p), lambda t: peer_texts(model, t))
        scores = {figure.metric: figure.value for figure in figures}
        return log | {"scores": scores, "score": mean_recall(scores)}

    settings = {"rate": rate, "batch": batch, "minutes": TRIAL_MINUTES} | mixture_settings()
    return kept(results / f"peer-{rate:g}-{batch}.json", settings, make)


def mixture_settings() -> dict[str, Any]:
    """What the peer trains on, as far as the recipe decides it."""
    return {
        "shares": SHARES,
        "templates": {name: list(templates) for name, templates in TEMPLATES.items()},
        "names": hashlib.sha256(NAMES.read_bytes()).hexdigest(),
    }


def mean_recall(scores: dict[str, float]) -> float:
    """What a recipe is chosen by: recall at 10, the mean of both ways."""
    return (scores["image_to_text_recall@10"] + scores["text_to_image_recall@10"]) / 2


def peer_run(data: Path, results: Path, best: dict[str, Any], minutes: float) -> dict[str, Any]:
    """The peer's full run with the best trial's rate and batch, judged on the evaluation sets."""

    def make() -> dict[str, Any]:
        pairs = training_pairs(data, selection=False)
        model, log = train_peer(pairs, best["rate"], best["batch"], minutes * THREADS)
        return log | {"figures": judged(data, lambda p: peer_images(model, p), lambda t: peer_texts(model, t))}

    settings = {"rate": best["rate"], "batch": best["batch"], "minutes": minutes} | mixture_settings()
    return kept(results / "peer.json", settings, make)


def recipe_settings(changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """The recipe as plain data, without what is only said about it."""
    return {key: value for key, value in plain(load_recipe("flickr8k", changes)).items() if key != "about"}


def packed(data: Path, work: Path) -> Path:
    """The recipe's shards, packed once."""
    shards = work / "shards"
    names = SourceOptions(names=NAMES)
    for archive in [data / "flickr8k-train.tar", data / "tiny-imagenet-train.tar", *sorted(data.glob("illus-*.tar"))]:
        if not (shards / archive.stem / "manifest.json").exists():
            options = names if archive.stem.startswith("tiny") else SourceOptions()
            pack(open_source(archive, options), shards / archive.stem, PackOptions())
    return shards


def our_run(data: Path, work: Path, name: str, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """A run of the recipe, judged on the evaluation sets."""
    recipe, shards = load_recipe("flickr8k", changes), packed(data, work)
    begin, wall = core_minutes(), time.time()
    run = train(recipe, [shards], work / name, resume=True)
    spent = {"core_minutes": core_minutes() - begin, "wall_minutes": (time.time() - wall) / 60}
    clip = ws.load(run.directory)
    steps = {"steps": run.steps, "batch": recipe.batch_size, "pairs_seen": run.steps * recipe.batch_size}
    return spent | steps | {"figures": judged(data, clip.embed_images, clip.embed_texts)}


def our_full_run(data: Path, work: Path, best: dict[str, Any]) -> dict[str, Any]:
    """Our run between two measures of the peer's pace, in CPU seconds a step."""
    before = peer_step_s(data, best)
    made = our_run(data, work, "ours")
    return made | {"peer_step_s": (before + peer_step_s(data, best)) / 2}


def peer_step_s(data: Path, best: dict[str, Any]) -> float:
    """CPU seconds that a step of the peer takes now."""
    _, log = train_peer(training_pairs(data, selection=False), best["rate"], best["batch"], PACE_MINUTES)
    return float(log["core_minutes"] * 60 / log["steps"])


def rows(ours: dict[str, Any], peer: dict[str, Any], equal: dict[str, Any], minutes: float) -> list[Row]:
    """The table: bounds first, then what stands beside them."""
    figures, theirs, same = ours["figures"], peer["figures"], equal["figures"]
    spent, had = ours["core_minutes"] / THREADS, peer["core_minutes"] / THREADS
    slower = peer["core_minutes"] * 60 / peer["steps"] / ours["peer_step_s"]
    table = [
        Row.at_most("minutes of two cores, ours", spent, minutes, had),
        Row.at_most(f"the same at the speed of the peer's run ({slower:.2f} of ours)", spent * slower, minutes, had),
    ]
    table.append(Row.compare("minutes by the clock (on a shared machine)", ours["wall_minutes"], peer["wall_minutes"]))
    for way in ("image_to_text", "text_to_image"):
        name = f"{way}_recall@10"
        value, other = figures[name]["value"], theirs[name]["value"]
        table.append(Row.at_least(f"flickr8k-val {name} (share) {interval(figures[name])}", value, 0.12, other))
        table.append(Row.compare(f"flickr8k-val {name}, times the peer's {interval(theirs[name])}", value, other, 1.5))
        table.append(
            Row.compare(f"the same at the peer's steps and batch {interval(same[name])}", same[name]["value"], other)
        )
    cifar = figures["accuracy"]
    peer_cifar = theirs["accuracy"]["value"]
    table.append(
        Row.at_least(f"CIFAR-10 zero-shot accuracy (share) {interval(cifar)}", cifar["value"], 0.25, peer_cifar)
    )
    return table


def interval(figure: dict[str, float]) -> str:
    """A figure's interval in words."""
    return f"[{figure['low']:.3f}, {figure['high']:.3f}]"


def main() -> None:
    """Run what is not kept yet and print the table."""
    parser = table_parser(__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/quality"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "train_quality")
    parser.add_argument("--minutes", type=float, default=30.0)
    arguments = parser.parse_args()
    data, work, results = arguments.data, arguments.work, arguments.results
    torch.set_num_threads(THREADS)
    trials = [peer_trial(data, results, rate, batch) for rate in RATES for batch in BATCHES]
    best = max(trials, key=lambda trial: trial["score"])
    ours = kept(results / "ours.json", recipe_settings(), lambda: our_full_run(data, work, best))
    peer = peer_run(data, results, best, arguments.minutes)
    equal = (f"schedule.steps={peer['steps']}", f"batch_size={peer['batch']}")
    at_equal_steps = kept(results / "equal.json", recipe_settings(equal), lambda: our_run(data, work, "equal", equal))
    finish(rows(ours, peer, at_equal_steps, arguments.minutes), arguments.json)


if __name__ == "__main__":
    main()
