"""Quality of half an hour of training on two cores, on real data: the recipe `flickr8k` against open_clip's classes.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.train_quality [--quick] [--json FILE]

It takes about two and a half hours: six trials of eight minutes for the peer's learning rate and batch size, which are
selected on the selection split, one run of thirty minutes of each side, and one run of ours with the peer's number of
steps and batch size. Finished parts are kept as JSON in `benchmarks/results/train_quality` together with their settings
and are repeated only if the settings change; an interrupted run of ours is resumed. Time is CPU time of two threads,
data loading included: thirty minutes are sixty core minutes, whatever else the machine does. Since machines and days
differ in speed, the peer takes a minute of steps before and after our run, and our minutes are also reported at the
speed that the peer had in its own run.

`--quick` trains neither the peer nor the full recipe: it takes 60 steps on the captions alone and checks that recall
is above chance.
"""

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
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
from wordsight.data import InputOptions, PackOptions, open_source, pack
from wordsight.evaluate import retrieval_scores
from wordsight.files import write_atomic
from wordsight.metrics import Score, accuracy_hits, score_hits
from wordsight.training import load_recipe, train

THREADS = 2
LEARNING_RATES = (5e-4, 1e-3, 2e-3)
BATCH_SIZES = (128, 256)
TRIAL_MINUTES = 8.0
PACE_MINUTES = 1.0
QUICK_STEPS = 60

Embed = Callable[[list[Any]], np.ndarray]


def core_minutes() -> float:
    """CPU time of this process so far, in minutes."""
    return time.process_time() / 60


def kept(path: Path, settings: dict[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of `make`, read from `path` if it was kept there with equal settings, otherwise computed and kept."""
    if path.exists() and (former := json.loads(path.read_text()))["settings"] == settings:
        return dict(former)
    result = {"settings": settings} | make()
    write_atomic(path, (json.dumps(result, indent=1) + "\n").encode())
    return result


def retrieval(pairs: list[Pair], images: Embed, texts: Embed) -> list[Score]:
    """Recall in both directions on images with five captions each."""
    owner = [number for number, pair in enumerate(pairs) for _ in pair.texts]
    captions = [text for pair in pairs for text in pair.texts]
    return retrieval_scores(images([pair.image for pair in pairs]), texts(captions), owner, "flickr8k")


def zero_shot(pairs: list[Pair], images: Embed, texts: Embed) -> Score:
    """Accuracy of the zero-shot classifier of the class names."""
    names = sorted({pair.texts[0] for pair in pairs})
    weights = np.stack([texts([t.format(name) for t in LABEL_TEMPLATES]).mean(axis=0) for name in names])
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    labels = np.array([names.index(pair.texts[0]) for pair in pairs])
    hits = accuracy_hits(images([pair.image for pair in pairs]) @ weights.T, labels)
    return score_hits(hits, dataset="cifar10", metric="accuracy", chance=1 / len(names))


def evaluate(data: Path, images: Embed, texts: Embed) -> dict[str, Any]:
    """The scores of one model on flickr8k-val and CIFAR-10, as plain data."""
    scores = retrieval(captioned(data / "flickr8k-val.tar"), images, texts)
    scores.append(zero_shot(labelled(data / "cifar10.tar"), images, texts))
    return {s.metric: {"value": s.value, "low": s.low, "high": s.high, "chance": s.chance, "n": s.n} for s in scores}


def peer_trial(data: Path, results: Path, learning_rate: float, batch_size: int) -> dict[str, Any]:
    """Train the peer for eight minutes and evaluate it on the selection split."""

    def make() -> dict[str, Any]:
        model, log = train_peer(
            training_pairs(data, selection=True), learning_rate, batch_size, TRIAL_MINUTES * THREADS
        )
        pairs = captioned(data / "flickr8k-train.tar")
        left_out = selection_keys(pairs)
        pairs = [pair for pair in pairs if pair.key in left_out]
        recalls = retrieval(pairs, lambda p: peer_images(model, p), lambda t: peer_texts(model, t))
        scores = {score.metric: score.value for score in recalls}
        return log | {"scores": scores, "score": mean_recall(scores)}

    settings = {"rate": learning_rate, "batch": batch_size, "minutes": TRIAL_MINUTES} | mixture_settings()
    return kept(results / f"peer-{learning_rate:g}-{batch_size}.json", settings, make)


def mixture_settings() -> dict[str, Any]:
    """The settings of the peer's training data that come from the recipe."""
    return {
        "shares": SHARES,
        "templates": {name: list(templates) for name, templates in TEMPLATES.items()},
        "names": hashlib.sha256(NAMES.read_bytes()).hexdigest(),
    }


def mean_recall(scores: dict[str, float]) -> float:
    """The score by which recipes are selected: the mean of recall@10 in both directions."""
    return (scores["image_to_text_recall@10"] + scores["text_to_image_recall@10"]) / 2


def peer_run(data: Path, results: Path, best: dict[str, Any], minutes: float) -> dict[str, Any]:
    """The peer's full run with the learning rate and batch size of the best trial, evaluated on the evaluation sets."""

    def make() -> dict[str, Any]:
        pairs = training_pairs(data, selection=False)
        model, log = train_peer(pairs, best["rate"], best["batch"], minutes * THREADS)
        return log | {"scores": evaluate(data, lambda p: peer_images(model, p), lambda t: peer_texts(model, t))}

    settings = {"rate": best["rate"], "batch": best["batch"], "minutes": minutes} | mixture_settings()
    return kept(results / "peer.json", settings, make)


def recipe_settings(changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """The recipe as plain data, without `about`."""
    return {key: value for key, value in plain(load_recipe("flickr8k", changes)).items() if key != "about"}


def pack_shards(data: Path, work: Path) -> Path:
    """The directory of the recipe's shards, which are packed on first use."""
    shards = work / "shards"
    names = InputOptions(names=NAMES)
    for archive in [data / "flickr8k-train.tar", data / "tiny-imagenet-train.tar", *sorted(data.glob("illus-*.tar"))]:
        if not (shards / archive.stem / "manifest.json").exists():
            options = names if archive.stem.startswith("tiny") else InputOptions()
            pack(open_source(archive, options), shards / archive.stem, PackOptions())
    return shards


def our_run(data: Path, work: Path, name: str, changes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Run the recipe and evaluate it on the evaluation sets."""
    recipe, shards = load_recipe("flickr8k", changes), pack_shards(data, work)
    begin, wall = core_minutes(), time.time()
    run = train(recipe, [shards], work / name, resume=True)
    spent = {"core_minutes": core_minutes() - begin, "wall_minutes": (time.time() - wall) / 60}
    clip = ws.load(run.directory)
    steps = {"steps": run.steps, "batch": recipe.batch_size, "pairs_seen": run.steps * recipe.batch_size}
    return spent | steps | {"scores": evaluate(data, clip.embed_images, clip.embed_texts)}


def our_full_run(data: Path, work: Path, best: dict[str, Any]) -> dict[str, Any]:
    """Our run, with the mean of the peer's CPU seconds per step before and after it."""
    before = peer_step_s(data, best)
    result = our_run(data, work, "ours")
    return result | {"peer_step_s": (before + peer_step_s(data, best)) / 2}


def peer_step_s(data: Path, best: dict[str, Any]) -> float:
    """The CPU time of a step of the peer at this moment, in seconds."""
    _, log = train_peer(training_pairs(data, selection=False), best["rate"], best["batch"], PACE_MINUTES)
    return float(log["core_minutes"] * 60 / log["steps"])


def rows(ours: dict[str, Any], peer: dict[str, Any], equal: dict[str, Any], minutes: float) -> list[Row]:
    """The rows of the table.

    Args:
        ours: our full run.
        peer: the peer's full run.
        equal: our run with the peer's number of steps and batch size.
        minutes: the time that both sides may take.
    """
    scores, theirs, same = ours["scores"], peer["scores"], equal["scores"]
    our_minutes, peer_minutes = ours["core_minutes"] / THREADS, peer["core_minutes"] / THREADS
    slower = peer["core_minutes"] * 60 / peer["steps"] / ours["peer_step_s"]
    table = [
        Row.at_most("minutes of two cores", our_minutes, minutes, peer_minutes),
        Row.at_most(
            f"the same at the speed of the peer's run ({slower:.2f} of ours)",
            our_minutes * slower,
            minutes,
            peer_minutes,
        ),
    ]
    table.append(Row.compare("wall-clock minutes (on a shared machine)", ours["wall_minutes"], peer["wall_minutes"]))
    for direction in ("image_to_text", "text_to_image"):
        name = f"{direction}_recall@10"
        value, other = scores[name]["value"], theirs[name]["value"]
        table.append(Row.at_least(f"flickr8k-val {name} (share) {interval(scores[name])}", value, 0.12, other))
        table.append(
            Row.compare(f"flickr8k-val {name}, ratio to the peer's {interval(theirs[name])}", value, other, 1.5)
        )
        table.append(
            Row.compare(
                f"the same at the peer's steps and batch size {interval(same[name])}", same[name]["value"], other
            )
        )
    cifar = scores["accuracy"]
    peer_cifar = theirs["accuracy"]["value"]
    table.append(
        Row.at_least(f"CIFAR-10 zero-shot accuracy (share) {interval(cifar)}", cifar["value"], 0.25, peer_cifar)
    )
    return table


def interval(score: dict[str, float]) -> str:
    """The confidence interval of a score as text."""
    return f"[{score['low']:.3f}, {score['high']:.3f}]"


def quick_rows(data: Path) -> list[Row]:
    """Train a few steps on flickr8k-train and compare the lower ends of the intervals of recall@10 with chance."""
    full = load_recipe("flickr8k", (f"schedule.steps={QUICK_STEPS}", "schedule.warmup_steps=10"))
    recipe = msgspec.structs.replace(full, sources=full.sources[:1])
    with tempfile.TemporaryDirectory() as directory:
        shards = Path(directory) / "shards" / "flickr8k-train"
        pack(open_source(data / "flickr8k-train.tar", InputOptions()), shards, PackOptions())
        begin = time.perf_counter()
        run = train(recipe, [shards.parent], Path(directory) / "run")
        seconds = time.perf_counter() - begin
        clip = ws.load(run.directory)
        scores = retrieval(captioned(data / "flickr8k-val.tar"), clip.embed_images, clip.embed_texts)
    rate = QUICK_STEPS * recipe.batch_size / seconds
    return [
        Row.measured(f"{QUICK_STEPS} steps of {recipe.batch_size} pairs, data loading included (pairs/s)", rate),
        *(
            Row.at_least(
                f"flickr8k-val {score.metric} (share): lower end of the interval, chance", score.low, score.chance
            )
            for score in scores
            if score.metric.endswith("recall@10")
        ),
    ]


def main() -> None:
    """Run the parts that are not kept yet and print the table."""
    parser = table_parser(__doc__, needs_data=True)
    parser.add_argument("--work", type=Path, default=Path("runs/quality"), help="where shards and runs are kept")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "train_quality")
    parser.add_argument("--minutes", type=float, default=30.0, help="minutes of two cores of the peer's full run")
    options = parser.parse_args()
    data, work, results = options.data, options.work, options.results
    torch.set_num_threads(THREADS)
    if options.quick:
        finish(quick_rows(data), options.json)
    trials = [
        peer_trial(data, results, learning_rate, batch_size)
        for learning_rate in LEARNING_RATES
        for batch_size in BATCH_SIZES
    ]
    best = max(trials, key=lambda trial: trial["score"])
    ours = kept(results / "ours.json", recipe_settings(), lambda: our_full_run(data, work, best))
    peer = peer_run(data, results, best, options.minutes)
    equal = (f"schedule.steps={peer['steps']}", f"batch_size={peer['batch']}")
    at_equal_steps = kept(results / "equal.json", recipe_settings(equal), lambda: our_run(data, work, "equal", equal))
    finish(rows(ours, peer, at_equal_steps, options.minutes), options.json)


if __name__ == "__main__":
    main()
