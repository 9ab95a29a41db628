"""Time per image of a classifier with 21,000 labels, against normalising its weights again for every image.

    python -m benchmarks.large_labels [--quick] [--json FILE]

The weights are random, 21,000 labels of 512 dimensions as for ImageNet-21k with ViT-B/32; the image is already
embedded. Both sides compute the same logits bit for bit, which is checked. They alternate; values are medians. The row
of predictions has the softmax and the ranking as well.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from benchmarks.table import Row, finish, parser
from tests.tiny_clip import tiny_clip

from wordsight.zeroshot import ZeroShotClassifier

NUM_LABELS, WIDTH = 21_000, 512
ROUNDS, QUICK_ROUNDS = 200, 20
TARGET_RATIO = 3.0


def unit_rows(count: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def milliseconds(compute: Callable[[], object]) -> float:
    start_s = time.perf_counter()
    compute()
    return 1000 * (time.perf_counter() - start_s)


def main() -> None:
    options = parser(__doc__).parse_args()
    classifier = ZeroShotClassifier(tiny_clip(), ["a", "b"])
    classifier.weights = unit_rows(NUM_LABELS, seed=0)
    classifier.names = tuple(f"label {number}" for number in range(NUM_LABELS))
    once, every_time, predictions = [], [], []
    for image_E in unit_rows(QUICK_ROUNDS if options.quick else ROUNDS, seed=1):
        image_NE = image_E[None]
        logits_NK = classifier.clip.logits(image_NE, classifier.weights)
        assert np.array_equal(classifier.logits(image_NE), logits_NK)
        once.append(milliseconds(lambda image_NE=image_NE: classifier.logits(image_NE)))
        every_time.append(milliseconds(lambda image_NE=image_NE: classifier.clip.logits(image_NE, classifier.weights)))
        predictions.append(milliseconds(lambda image_E=image_E: classifier._predict(b"", image_E)))
    rates = [1000 / statistics.median(times_ms) for times_ms in (once, every_time)]
    finish(
        [
            Row.compare("logits of 21,000 labels (images/s)", *rates, target=TARGET_RATIO),
            Row.measured("logits of 21,000 labels (ms per image)", statistics.median(once)),
            Row.measured("prediction among 21,000 labels (ms per image)", statistics.median(predictions)),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
