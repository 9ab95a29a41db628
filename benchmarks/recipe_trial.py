"""A trial of a recipe on the selection split: hyperparameters are selected here, never on an evaluation set.

    python -m benchmarks.recipe_trial --name first --set schedule.steps=205 --set sources.1.weight=0.5

The selection split consists of 500 images of flickr8k-train, 20 classes of tiny-imagenet-train selected by hash, and
one class for each everyday word (dog, car, bottle ...) that at least two classes share. The trial trains without them
and measures recall@10 on the 500 images, accuracy on the 20 classes by their names, and accuracy on the other classes
by their everyday words, at 64 px and reduced to 32 px first: the last shows whether words generalise to unseen classes.
"""

import argparse
import hashlib
import io
import json
import os
import tarfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import wordsight as ws
from wordsight.data import InputOptions, PackOptions, open_source, pack
from wordsight.evaluate import retrieval_scores
from wordsight.metrics import accuracy_hits
from wordsight.training import load_recipe, train

NAMES = Path(ws.__file__).parent / "recipes" / "tiny-imagenet-names.json"
TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "a {}.", "a small photo of a {}.")


def by_hash(names: list[str]) -> list[str]:
    """Sort names by their hash: a fixed order without meaning."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())


def split_classes(names: dict[str, list[str]]) -> tuple[list[str], dict[str, str]]:
    """The 20 held-out classes, and the other held-out classes with the everyday word of each."""
    twenty = by_hash(list(names))[:20]
    sharing = defaultdict(list)
    for wnid, (_, *words) in names.items():
        for word in words:
            sharing[word].append(wnid)
    everyday: dict[str, str] = {}
    for word in by_hash([word for word, classes in sharing.items() if 2 <= len(classes) <= 6]):
        free = [wnid for wnid in sharing[word] if wnid not in twenty and wnid not in everyday]
        if len(free) >= 2 or (free and any(wnid in twenty for wnid in sharing[word])):
            everyday[by_hash(free)[0]] = word
    return twenty, everyday


def read_rows(archive: Path, rows_name: str) -> tuple[dict[str, bytes], list[dict]]:
    """The files of an archive by name, and its rows."""
    with tarfile.open(archive) as tar:
        files = {m.name.partition("/")[2]: tar.extractfile(m).read() for m in tar if m.isfile()}  # type: ignore[union-attr]
    return files, [json.loads(line) for line in files[rows_name].decode().splitlines()]


def prepare(data: Path, work: Path) -> None:
    """Write the training data as shards and the held-out data as directories."""
    names = json.loads(NAMES.read_text())
    twenty, everyday = split_classes(names)
    files, rows = read_rows(data / "flickr8k-train.tar", "captions.jsonl")
    held_out = set(by_hash([row["file"] for row in rows])[:500])
    write(work / "flickr8k-train", files, [row for row in rows if row["file"] not in held_out], "captions.jsonl")
    write(work / "held-captions", files, [row for row in rows if row["file"] in held_out], "captions.jsonl")
    files, rows = read_rows(data / "tiny-imagenet-train.tar", "labels.jsonl")
    left_out = set(twenty) | set(everyday)
    kept = [row for row in rows if row["wnid"] not in left_out]
    write(work / "tiny-imagenet-train", files, kept, "labels.jsonl")
    for name, words in (("held-twenty", {w: names[w][0] for w in twenty}), ("held-everyday", everyday)):
        held_rows = [row | {"word": words[row["wnid"]]} for row in rows if row["wnid"] in words]
        write(work / name, files, held_rows, "labels.jsonl")
    shards = work / "shards"
    for directory in [work / "flickr8k-train", work / "tiny-imagenet-train", *sorted(data.glob("illus-*.tar"))]:
        options = InputOptions(names=NAMES) if directory.stem.startswith("tiny") else InputOptions()
        pack(open_source(directory, options), shards / directory.stem, PackOptions())


def write(directory: Path, files: dict[str, bytes], rows: list[dict], rows_name: str) -> None:
    """Write images and their rows as a directory."""
    for row in rows:
        path = directory / row["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(files[row["file"]])
    (directory / rows_name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def reduced(path: Path, size_px: int) -> Image.Image:
    """The image reduced to a square of the given size."""
    return Image.open(io.BytesIO(path.read_bytes())).convert("RGB").resize((size_px, size_px), Image.Resampling.BICUBIC)


def word_accuracy(clip: ws.DualEncoder, directory: Path, size_px: int) -> float:
    """Zero-shot accuracy, averaged over the words."""
    rows = [json.loads(line) for line in (directory / "labels.jsonl").read_text().splitlines()]
    words = sorted({row["word"] for row in rows})
    texts = np.stack([clip.embed_texts([t.format(word) for t in TEMPLATES]).mean(axis=0) for word in words])
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    images = clip.embed_images([reduced(directory / row["file"], size_px) for row in rows])
    labels = np.array([words.index(row["word"]) for row in rows])
    hits = accuracy_hits(images @ texts.T, labels)
    return float(np.mean([hits[labels == number].mean() for number in range(len(words))]))


def evaluate(clip: ws.DualEncoder, work: Path) -> dict[str, float]:
    """The scores of the trial."""
    rows = [json.loads(line) for line in (work / "held-captions" / "captions.jsonl").read_text().splitlines()]
    owner = [number for number, row in enumerate(rows) for _ in row["captions"]]
    images = clip.embed_images([work / "held-captions" / row["file"] for row in rows])
    texts = clip.embed_texts([caption for row in rows for caption in row["captions"]])
    retrieval = retrieval_scores(images, texts, owner, "held-captions")
    scores = {score.metric: score.value for score in retrieval if score.metric.endswith("recall@10")}
    scores["twenty"] = word_accuracy(clip, work / "held-twenty", 64)
    for size_px in (64, 32):
        scores[f"everyday_{size_px}"] = word_accuracy(clip, work / "held-everyday", size_px)
    return scores


def main() -> None:
    """Run one trial and print its scores as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--work", type=Path, default=Path("runs/trials"))
    parser.add_argument("--recipe", default="flickr8k")
    parser.add_argument("--name", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[], dest="changes")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch.set_num_threads(arguments.threads)
    if not (arguments.work / "shards" / "tiny-imagenet-train").exists():
        prepare(arguments.data, arguments.work)
    recipe = load_recipe(arguments.recipe, tuple(arguments.changes))
    begin = time.process_time()
    run = train(recipe, [arguments.work / "shards"], arguments.work / arguments.name, resume=True)
    minutes = (time.process_time() - begin) / 60
    scores = evaluate(ws.load(run.directory), arguments.work)
    line = {"name": arguments.name, "core_minutes": round(minutes, 2)} | {k: round(v, 4) for k, v in scores.items()}
    print(json.dumps(line), flush=True)
    with (arguments.work / "trials.jsonl").open("a") as file:
        file.write(json.dumps(line | {"changes": arguments.changes}) + "\n")


if __name__ == "__main__":
    main()
