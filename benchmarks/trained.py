"""What needs a trained vision transformer: what 8-bit products do to accuracy, and whether explanations are true.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.trained --trained RUN [--json FILE]

Accuracy is zero-shot on all images of cifar10 and tiny-imagenet-eval, both precisions on the same images. Of an
explanation the most marked tenth of a grid is covered with the image's mean colour, and a random tenth beside it.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.calibration import embedded
from benchmarks.inference import DATA, THREADS
from benchmarks.quality_peer import LABEL_TEMPLATES, labelled
from benchmarks.table import Row, finish, parser

import wordsight as ws
from wordsight.encoder.loading import find_checkpoint
from wordsight.weights.convert import convert
from wordsight.zeroshot import explain
from wordsight.zeroshot.explain import log_probabilities

EXPLAINED = 200
CELLS = 8


def accuracy(plain: ws.DualEncoder, small: ws.DualEncoder, name: str, work: Path) -> list[Row]:
    """Top-1 of both on the same images, the mean difference with its interval, and how near the embeddings are."""
    embeddings, hits = [], []
    for clip in (plain, small):
        images = embedded(clip, DATA / f"{name}.tar", work)
        weights = ws.ZeroShotClassifier(
            clip, [names[0] for names in images.names], LABEL_TEMPLATES, cache=False
        ).weights
        embeddings.append(images.embeddings)
        hits.append((images.embeddings @ weights.T).argmax(axis=1) == images.labels)
    apart = hits[1].astype(float) - hits[0]
    reach = 1.96 * apart.std() / np.sqrt(len(apart))
    cosines = (embeddings[0] * embeddings[1]).sum(axis=1)
    points = float(100 * apart.mean())
    return [
        Row.at_most(
            f"int8, {name}, {len(apart):,} images: points of top-1 between it and float32 "
            f"({100 * hits[1].mean():.2f} and {100 * hits[0].mean():.2f} %; {points:+.2f}, "
            f"95 % {points - 100 * reach:+.2f} to {points + 100 * reach:+.2f})",
            abs(points),
            0.5,
        ),
        Row.at_least(f"int8, {name}: mean cosine to the float32 embedding", float(cosines.mean()), 0.995),
        Row.compare(f"int8, {name}: 1st percentile of the cosine", float(np.percentile(cosines, 1)), 1.0),
    ]


def explanations(clip: ws.DualEncoder) -> list[Row]:
    """What covering the most marked tenth of an 8 x 8 grid costs the answer's log probability, beside a random tenth.

    Whole cells on both sides: single pixels at random are a noise that no model has seen, whatever they cover.
    """
    pairs = labelled(DATA / "cifar10.tar")
    labels = ws.ZeroShotClassifier(clip, sorted({pair.texts[0] for pair in pairs}), LABEL_TEMPLATES, cache=False)
    generator, marked, drawn = np.random.default_rng(0), [], []
    for pair in pairs[:: len(pairs) // EXPLAINED][:EXPLAINED]:
        found = explain(labels, pair.image)
        number, side = labels.names.index(found.label), len(found.pixels) // CELLS
        whole = log_probabilities(labels, found.pixels[None])[0, number]
        colour = found.pixels.mean(axis=(0, 1)).astype(np.uint8)
        drop = found.log_probability_drop[: CELLS * side, : CELLS * side]
        loss = drop.reshape(CELLS, side, CELLS, side).mean(axis=(1, 3)).ravel()
        for losses, order in ((marked, np.argsort(-loss)), (drawn, generator.permutation(CELLS * CELLS))):
            blanked = found.pixels.copy()
            for cell in order[: CELLS * CELLS // 10]:
                top, left = (side * place for place in divmod(int(cell), CELLS))
                blanked[top : top + side, left : left + side] = colour
            losses.append(whole - log_probabilities(labels, blanked[None])[0, number])
    more = float(np.mean(np.array(marked) > np.array(drawn)))
    return [
        Row.compare(
            f"explain, {len(marked)} images of cifar10: loss of log probability, most marked tenth, random tenth",
            float(np.mean(marked)),
            float(np.mean(drawn)),
            1.0,
        ),
        Row.at_least("the same: share of images that lose more by the marked tenth", more, 0.5),
    ]


def main() -> None:
    """Measure and print the table."""
    command = parser(__doc__)
    command.add_argument("--trained", type=Path, required=True, help="a run, or a model, with a vision transformer")
    options = command.parse_args()
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as work:
        os.environ["WORDSIGHT_CACHE"] = work
        convert(find_checkpoint(options.trained), Path(work) / "onnx", "onnx")
        plain, small = ws.load(options.trained), ws.load(Path(work) / "onnx", runtime="int8")
        rows = [row for name in ("cifar10", "tiny-imagenet-eval") for row in accuracy(plain, small, name, Path(work))]
        rows += explanations(plain)
    finish(rows, options.json)


if __name__ == "__main__":
    main()
