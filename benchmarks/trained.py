"""Effects that only a trained vision transformer shows: accuracy with 8-bit products, and faithful explanations.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.trained --trained RUN [--quick] [--json FILE]
    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.trained --quick [--json FILE]

Accuracy is zero-shot, on all images of cifar10 and tiny-imagenet-eval, with both precisions on the same images.
Explanations: the tenth of an 8x8 grid that an explanation marks most strongly is covered with the image's mean colour,
and the loss of log probability is compared with that of covering a random tenth.

`--quick` uses cifar10 only and explains 20 images; without `--trained` it compares the precisions on a model with
random weights and explains nothing.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.calibration import embed_dataset
from benchmarks.inference_sides import THREADS, untrained_clip
from benchmarks.quality_peer import LABEL_TEMPLATES, labelled
from benchmarks.table import Row, finish, parser

import wordsight as ws
from wordsight.encoder.loading import find_checkpoint
from wordsight.model import preset
from wordsight.weights.convert import convert
from wordsight.zeroshot import explain
from wordsight.zeroshot.explain import log_probabilities

NUM_EXPLAINED, QUICK_NUM_EXPLAINED = 200, 20
CELLS = 8


def accuracy(exact: ws.DualEncoder, int8: ws.DualEncoder, archive: Path, work: Path) -> list[Row]:
    """Compare the top-1 accuracy of both precisions on the same images, and their embeddings."""
    embeddings, hits = [], []
    for clip in (exact, int8):
        images = embed_dataset(clip, archive, work)
        names = [names[0] for names in images.names]
        weights = ws.ZeroShotClassifier(clip, names, LABEL_TEMPLATES, cache=False).weights
        embeddings.append(images.embeddings)
        hits.append((images.embeddings @ weights.T).argmax(axis=1) == images.labels)
    differences = hits[1].astype(float) - hits[0]
    half_width = 1.96 * differences.std() / np.sqrt(len(differences))
    cosines = (embeddings[0] * embeddings[1]).sum(axis=1)
    points = float(100 * differences.mean())
    name = archive.stem
    return [
        Row.at_most(
            f"int8, {name}, {len(differences):,} images: difference of top-1 from float32 in points "
            f"({100 * hits[1].mean():.2f} and {100 * hits[0].mean():.2f} %; {points:+.2f}, "
            f"95 % {points - 100 * half_width:+.2f} to {points + 100 * half_width:+.2f})",
            abs(points),
            0.5,
        ),
        Row.at_least(f"int8, {name}: mean cosine to the float32 embedding", float(cosines.mean()), 0.995),
        Row.compare(f"int8, {name}: 1st percentile of the cosine", float(np.percentile(cosines, 1)), 1.0),
    ]


def explanations(clip: ws.DualEncoder, archive: Path, count: int) -> list[Row]:
    """Compare covering the most strongly marked tenth of an 8x8 grid with covering a random tenth.

    Whole cells are covered on both sides: single random pixels are noise unlike anything the model has seen, whatever
    they cover.
    """
    pairs = labelled(archive)
    classifier = ws.ZeroShotClassifier(clip, sorted({pair.texts[0] for pair in pairs}), LABEL_TEMPLATES, cache=False)
    generator, marked, random = np.random.default_rng(0), [], []
    for pair in pairs[:: len(pairs) // count][:count]:
        explanation = explain(classifier, pair.image)
        pixels = explanation.pixels
        label, side = classifier.names.index(explanation.label), len(pixels) // CELLS
        uncovered = log_probabilities(classifier, pixels[None])[0, label]
        mean_colour = pixels.mean(axis=(0, 1)).astype(np.uint8)
        loss = explanation.log_probability_drop[: CELLS * side, : CELLS * side]
        loss = loss.reshape(CELLS, side, CELLS, side).mean(axis=(1, 3)).ravel()
        for losses, order in ((marked, np.argsort(-loss)), (random, generator.permutation(CELLS * CELLS))):
            covered = pixels.copy()
            for cell in order[: CELLS * CELLS // 10]:
                top, left = (side * index for index in divmod(int(cell), CELLS))
                covered[top : top + side, left : left + side] = mean_colour
            losses.append(uncovered - log_probabilities(classifier, covered[None])[0, label])
    share = float(np.mean(np.array(marked) > np.array(random)))
    title = f"explain, {len(marked)} images of cifar10: loss of log probability, most marked tenth, random tenth"
    return [
        Row.compare(title, float(np.mean(marked)), float(np.mean(random)), 1.0),
        Row.at_least("the same: share of images that lose more by the marked tenth", share, 0.5),
    ]


def main() -> None:
    """Measure and print the table."""
    command = parser(__doc__, needs_data=True)
    command.add_argument("--trained", metavar="RUN", help="a vision transformer; required without --quick")
    options = command.parse_args()
    if options.trained is None and not options.quick:
        command.error("--trained is required without --quick")
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory)
        os.environ["WORDSIGHT_CACHE"] = str(work / "cache")
        trained = options.trained
        if trained is None:
            trained = work / "random"
            untrained_clip(preset("vit-small"), "random").save(trained)
        convert(find_checkpoint(trained), work / "onnx", "onnx")
        exact, int8 = ws.load(trained), ws.load(work / "onnx", runtime="int8")
        names = ("cifar10",) if options.quick else ("cifar10", "tiny-imagenet-eval")
        rows = [row for name in names for row in accuracy(exact, int8, options.data / f"{name}.tar", work)]
        if options.trained is not None:
            count = QUICK_NUM_EXPLAINED if options.quick else NUM_EXPLAINED
            rows += explanations(exact, options.data / "cifar10.tar", count)
    finish(rows, options.json)


if __name__ == "__main__":
    main()
