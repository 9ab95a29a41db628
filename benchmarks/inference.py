"""Inference with equal weights: ViT-B/32 with QuickGELU, random weights, two threads, alternating sides, medians.

    OMP_WAIT_POLICY=PASSIVE python -m benchmarks.inference [--trained RUN] [--only texts,jpeg] [--quick] [--json FILE]

Peers: open_clip, transformers (sdpa), and a bare ONNX Runtime session of our own export. All sides have the same
weights and inputs, and their results are compared before anything is timed. `--quick` leaves out `classifier_memory`,
`resnet`, `batch_independence`, `directories` and `scaled_embeddings`, and measures fewer rounds and inputs.
"""

import os
import tempfile
from pathlib import Path

import torch
from benchmarks.inference_encode import batch_independence, classifier, classifier_memory, images, resnet, texts
from benchmarks.inference_files import directories, jpeg, processes, scaled_embeddings
from benchmarks.inference_sides import THREADS, Sides, random_clip
from benchmarks.table import finish, parser

QUICK = (texts, classifier, images, jpeg, processes)
PARTS = {
    part.__name__: part
    for part in (
        texts,
        classifier,
        classifier_memory,
        images,
        resnet,
        batch_independence,
        jpeg,
        directories,
        processes,
        scaled_embeddings,
    )
}


def main() -> None:
    """Run the parts and print the table."""
    command = parser(__doc__, needs_data=True)
    command.add_argument("--only", metavar="PARTS", help=f"comma-separated parts: {','.join(PARTS)}")
    command.add_argument("--trained", type=Path, metavar="RUN", help="a run of flickr8k, for `scaled_embeddings`")
    options = command.parse_args()
    names = options.only.split(",") if options.only else [part.__name__ for part in QUICK] if options.quick else PARTS
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as work:
        os.environ["WORDSIGHT_CACHE"] = str(Path(work) / "cache")
        sides = Sides(random_clip(), options.data, Path(work), options.trained, options.quick)
        rows = [row for name in names for row in PARTS[name](sides)]
    finish(rows, options.json)


if __name__ == "__main__":
    main()
