"""Thirty everyday steps of three projects on real data, one command each, without any Python written by the user.

    python -m benchmarks.jobs [--quick] [--model MODEL] [--trained RUN] [--data DIRECTORY] [--json FILE]

A photographer has 1,000 photographs and a few files that are none, a shop has a table of 750 products, a researcher has
3,000 images with captions. Every step is a command as one would type it, in a new process in an empty directory, with a
limit on its time; it fails if it ends with another exit code than 0, takes longer, or if a file is missing afterwards.
MODEL is by default the run of `make demo`.

The last rows fine-tune a model of the recipe `flickr8k` (`--trained RUN`) on a tenth of the data set `things` for at
most three minutes: its accuracy on another tenth, before and after. Without RUN, and with `--quick`, they are left out.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.table import Row, finish, parser

ROOT = Path(__file__).resolve().parents[1]
NUM_PRODUCTS, NUM_PAIRS = 750, 3_000
MAX_FINE_TUNING_S = 180.0


class Step(NamedTuple):
    """A command of a project, its limit in seconds, and the files that it must leave."""

    command: str
    limit_s: float
    outputs: tuple[str, ...] = ()


PROJECTS = {
    "photographer": [
        Step("embed photos --out photos.parquet --model MODEL", 30, ("photos.parquet", "photos.unreadable.jsonl")),
        Step("find 'a dog on a beach' --in photos.parquet --model MODEL", 10),
        Step("find --image photos/0007.jpg --in photos.parquet --model MODEL --page like.html", 10, ("like.html",)),
        Step("find 'a dog' snow --weights 1,0.5 --in photos.parquet --model MODEL --copy-to dogs", 10, ("dogs",)),
        Step("duplicates photos --page duplicates.html", 30, ("duplicates.html",)),
        Step("classify photos --labels tags.txt --top 3 --model MODEL --out tags.csv", 30, ("tags.csv",)),
        Step("classify photos --labels tags.txt --threshold 0.2 --model MODEL --page tags.html", 45, ("tags.html",)),
        Step("classify photos --labels tags.txt --model MODEL --copy-to sorted --dry-run", 30),
        Step("classify photos --labels tags.txt --model MODEL --copy-to sorted", 30, ("sorted",)),
    ],
    "shop": [
        Step("embed products.csv --out products.parquet --model MODEL", 30, ("products.parquet",)),
        Step("find 'green apples' --in products.parquet --model MODEL", 10),
        Step("duplicates products.csv", 30),
        Step(
            "classify products.csv --labels kinds.txt --label-column kind --model MODEL --out kinds.csv",
            30,
            ("kinds.csv",),
        ),
        Step(
            "classify products.csv --labels kinds.txt --label-column kind --model MODEL --page kinds.html",
            45,
            ("kinds.html",),
        ),
        Step(
            "shards products.csv shards --label-column kind --split 0.8/0.2 --seed 0",
            30,
            ("shards/train", "shards/val"),
        ),
        Step("evaluate MODEL shards/val", 30),
        Step(
            "evaluate MODEL products.csv --label-column kind --task classification --out scores.csv",
            45,
            ("scores.csv",),
        ),
        Step(
            "train finetune --data shards --from MODEL --out runs/shop --set batch_size=64 --set schedule.steps=20",
            120,
            ("runs/shop/best",),
        ),
        Step("evaluate MODEL runs/shop shards/val", 45),
        Step(
            "classify products.csv --labels kinds.txt --model runs/shop --top 3 --out tuned.jsonl", 30, ("tuned.jsonl",)
        ),
    ],
    "researcher": [
        Step("recipes", 5),
        Step("shards pairs shards --split 0.9/0.1 --seed 0", 30, ("shards/train", "shards/val")),
        Step("train my.toml --init-recipe shards", 15, ("my.toml",)),
        Step("train my.toml --data shards --out runs/first --set schedule.steps=20", 180, ("runs/first/best",)),
        Step("train --resume --out runs/first --set schedule.steps=25", 90),
        Step(
            "train vit --data shards --out runs/vit --set schedule.steps=8 --set batch_size=64", 120, ("runs/vit/best",)
        ),
        Step("runs runs --page runs.html", 15, ("runs.html",)),
        Step("evaluate runs/first runs/vit shards/val --out scores.json", 60, ("scores.json",)),
        Step("convert runs/vit vit-hf --to hf", 60, ("vit-hf/model.safetensors",)),
        Step("embed shards/val --out val.npy --model runs/first", 30, ("val.npy",)),
    ],
}


def members(data: Path, archive: str) -> Iterator[tuple[str, bytes]]:
    """The names and bytes of the files in an archive."""
    with tarfile.open(data / f"{archive}.tar") as tar:
        for member in tar:
            if file := tar.extractfile(member):
                yield Path(member.name).name, file.read()


def write_photographer(data: Path, root: Path) -> None:
    """1,000 photographs, files that are damaged or no images, and a list of tags."""
    (root / "photos").mkdir()
    photos = [content for name, content in members(data, "flickr8k-val") if name.endswith(".jpg")]
    for number, content in enumerate(photos):
        (root / "photos" / f"{number:04d}.jpg").write_bytes(content)
    (root / "photos" / "truncated.jpg").write_bytes(photos[0][:900])
    (root / "photos" / "empty.jpg").write_bytes(b"")
    (root / "photos" / "page.jpg").write_bytes(b"<!DOCTYPE html><html></html>")
    (root / "photos" / "notes.txt").write_text("developed in March\n")
    (root / "tags.txt").write_text("dog\nchild\nbeach\nsnow\nbicycle\nfootball\nwater\nstreet\n")


def write_shop(data: Path, root: Path) -> None:
    """A table of products with titles, kinds and prices, and the list of kinds."""
    (root / "images").mkdir()
    rows: list[tuple[str, str, str, str]] = []
    for archive in ("grocery81", "things"):
        files = dict(members(data, archive))
        classes = json.loads(files["classes.json"])
        for line in files["labels.jsonl"].splitlines()[: NUM_PRODUCTS - len(rows)]:
            label = json.loads(line)
            name = f"{archive}-{label['file']}"
            (root / "images" / name).write_bytes(files[label["file"]])
            kind = classes[label["label"]]
            kind = kind if isinstance(kind, str) else kind[0]
            rows.append((f"images/{name}", f"{kind}, fresh, item {len(rows)}", kind, f"{1 + len(rows) % 9}.99"))
    with (root / "products.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("photo", "title", "kind", "price"), *rows])
    (root / "kinds.txt").write_text("\n".join(sorted({kind for _, _, kind, _ in rows})) + "\n")


def write_researcher(data: Path, root: Path) -> None:
    """3,000 images with captions in a directory."""
    (root / "pairs").mkdir()
    lines: list[bytes] = []
    for archive in ("captions-more", "flickr8k-train"):
        files = dict(members(data, archive))
        for line in files["captions.jsonl"].splitlines()[: NUM_PAIRS - len(lines)]:
            name = json.loads(line)["file"]
            (root / "pairs" / name).write_bytes(files[name])
            lines.append(line)
    (root / "pairs" / "captions.jsonl").write_bytes(b"\n".join(lines) + b"\n")


WRITERS = {"photographer": write_photographer, "shop": write_shop, "researcher": write_researcher}


def run(command: list[str], root: Path) -> tuple[float, str, str]:
    """Run a command of wordsight; returns its seconds (infinity if it failed), its output and its errors."""
    environment = os.environ | {"WORDSIGHT_CACHE": str(root / ".cache"), "WORDSIGHT_OFFLINE": "1"}
    start_s = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "wordsight", *command], cwd=root, capture_output=True, text=True, env=environment
    )
    seconds = time.perf_counter() - start_s if process.returncode == 0 else float("inf")
    return seconds, process.stdout, process.stderr


def run_step(step: Step, model: Path, root: Path) -> float:
    """Run a step; returns its seconds, infinity if it failed."""
    command = shlex.split(step.command.replace("MODEL", shlex.quote(str(model))))
    seconds, _, errors = run(command, root)
    missing = [name for name in step.outputs if not (root / name).exists()]
    if missing or seconds > step.limit_s:
        print(f"{step.command}: {seconds:.1f} s, missing {missing}: {errors[-500:]}", file=sys.stderr)
    return float("inf") if missing else seconds


def fine_tune(data: Path, trained: Path, root: Path) -> Iterator[Row]:
    """Fine-tune on a tenth of `things`: its accuracy on another tenth before and after, and the time."""
    (root / "things").mkdir()
    for name, content in members(data, "things"):
        (root / "things" / name).write_bytes(content)
    run(["shards", "things", "shards", "--split", "0.1/0.1/0.8", "--seed", "0"], root)
    command = ["train", "finetune", "--data", "shards", "--from", str(trained), "--out", "tuned", "--json"]
    seconds, output, errors = run(command, root)
    if seconds == float("inf"):
        sys.exit(errors)
    result: dict[str, Any] = json.loads(output)
    before, after = result["start_scores"][0], result["scores"][0]
    low, high = before["high"], after["low"]
    name = f"fine-tuned on a tenth of things: {after['metric']} of {after['n']:,} others"
    yield Row(name, after["value"], before["value"], after["value"] / before["value"], None, True)
    yield Row("the same: lower end of its interval, upper end of the start's", high, low, high / low, 1.0, high > low)
    yield Row.at_most("the same: seconds", seconds, MAX_FINE_TUNING_S)


def main() -> None:
    """Run the steps and print the table."""
    assert __doc__
    command = parser(__doc__, needs_data=True)
    command.formatter_class = argparse.RawDescriptionHelpFormatter
    command.add_argument("--model", type=Path, default=ROOT / "demo" / "run", metavar="MODEL", help="(%(default)s)")
    command.add_argument("--trained", type=Path, metavar="RUN", help="a run of the recipe flickr8k")
    options = command.parse_args()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for project, steps in PROJECTS.items():
            root = Path(work) / project
            root.mkdir()
            WRITERS[project](options.data, root)
            for step in steps:
                seconds = run_step(step, options.model.resolve(), root)
                rows.append(Row.at_most(f"{project}: {step.command} (s)", seconds, step.limit_s))
        succeeded = sum(row.holds for row in rows)
        rows.append(Row.at_least(f"steps that succeed in time (of {len(rows)})", succeeded, len(rows)))
        if options.trained and not options.quick:
            root = Path(work) / "fine-tuning"
            root.mkdir()
            rows += fine_tune(options.data, options.trained.resolve(), root)
    finish(rows, options.json)


if __name__ == "__main__":
    main()
