"""How many images and texts are encoded together, by type of device.

A batch has to be large enough to keep the device busy and small enough to stay in its caches and memory. An embedding
does not depend on the batch it was computed in to more than 1e-5, but it does in its last bits: changing a number here
changes results bitwise.
"""

from typing import NamedTuple


class BatchSizes(NamedTuple):
    """Default batch sizes of one type of device.

    Attributes:
        images: images that are decoded ahead and encoded together.
        texts: texts that are encoded together by a model that computes every position of its context.
        nodes: tokens that are computed together by a causal text tower (`prefix_tree.py`).
        tokenised_texts: texts that are tokenised together, and among which common prefixes are shared.
    """

    images: int
    texts: int
    nodes: int
    tokenised_texts: int


_BATCH_SIZES = {
    "cpu": BatchSizes(images=64, texts=64, nodes=2048, tokenised_texts=8192),
    # Not measured yet; to be set from the results of benchmarks/gpu.sh. The attention over 8,192 nodes gathers at most
    # 10 GB in float32: 8,192 texts of 77 tokens that differ only in the last one, in a text tower of width 1,280.
    "cuda": BatchSizes(images=256, texts=512, nodes=8192, tokenised_texts=8192),
}


def batch_sizes(device_type: str) -> BatchSizes:
    """Return the batch sizes for a device type as torch names it; an unlisted type gets those of the CPU."""
    return _BATCH_SIZES.get(device_type, _BATCH_SIZES["cpu"])
