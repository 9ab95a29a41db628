"""Time and memory of `wordsight.load` for a model of the size of ViT-B/32 with random weights.

    python -m benchmarks.load [--quick] [--json FILE]

Each load runs in a fresh process with a warm file cache, after all imports; ours and the peer's alternate for seven
rounds (`--quick`: three). The peer is `safetensors.torch.load_file`, our module built on the meta device, and
`load_state_dict(assign=True)`. Memory is the growth of the peak resident size (VmHWM, reset after the imports) with its
mapped pages; it is read from /proc, so the benchmark runs on Linux only. The archive is a scripted module with OpenAI's
key names in half precision, written here; its memory is compared with the size of its weights in float32.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from benchmarks.table import Row, finish, parser

ROUNDS = 7
QUICK_ROUNDS = 3
ARCHITECTURE = "ViT-B-32"


def status_kib(field: str) -> int:
    """A field of /proc/self/status in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(field)))


def child(side: str, path: str) -> None:
    """Load once; print the time in seconds and the growth of the peak resident size in bytes."""
    from safetensors.torch import load_file

    import wordsight as ws
    from wordsight.encoder import DualEncoder, torch_runtime
    from wordsight.model import build_empty, preset
    from wordsight.weights import read

    assert DualEncoder
    assert torch_runtime and read  # modules that a load imports lazily  # noqa: PT018
    ws.load  # resolves the lazy import  # noqa: B018
    Path("/proc/self/clear_refs").write_text("5")
    before, begin = status_kib("VmRSS"), time.perf_counter()
    if side == "ours":
        model = ws.load(path, device="cpu")
    else:
        model = build_empty(preset(ARCHITECTURE))
        model.load_state_dict(load_file(Path(path) / "model.safetensors"), assign=True)
    seconds = time.perf_counter() - begin
    growth_bytes = (status_kib("VmHWM") - before) * 1024
    assert model is not None
    print(json.dumps([seconds, growth_bytes]))


def measure(side: str, path: Path) -> tuple[float, float]:
    """Time in seconds and growth of memory in bytes of one load in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.load", "--child", side, str(path)]
    seconds, growth_bytes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return seconds, growth_bytes


def write_models(directory: Path) -> tuple[Path, Path]:
    """Write a directory in our format and an archive in OpenAI's."""
    from tests.weights.archives import Node, write_script

    from wordsight.image import Preprocessing
    from wordsight.model import build, preset
    from wordsight.weights import Card, TokenizerConfig
    from wordsight.weights.formats.wordsight import save_directory

    config = preset(ARCHITECTURE)
    model = build(config, torch.Generator().manual_seed(0)).eval()
    card = Card("random", config, Preprocessing(size_px=224), TokenizerConfig())
    save_directory(directory / "saved", model.state_dict(), card)
    halves = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in model.state_dict().items()}
    return directory / "saved", write_script(directory / "archive.pt", Node(halves).eval(), None)


def main() -> None:
    """Alternate the sides and print the table."""
    command = parser(__doc__)
    command.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = command.parse_args()
    if options.child:
        child(*options.child)
        return
    with tempfile.TemporaryDirectory() as directory:
        saved, archive = write_models(Path(directory))
        file_bytes = (saved / "model.safetensors").stat().st_size
        for side, path in (("ours", saved), ("peer", saved), ("ours", archive)):  # warms the file cache
            measure(side, path)
        num_rounds = QUICK_ROUNDS if options.quick else ROUNDS
        rounds = [(measure("ours", saved), measure("peer", saved), measure("ours", archive)) for _ in range(num_rounds)]
    ours, peer, from_archive = (
        [statistics.median(column) for column in zip(*results, strict=True)] for results in zip(*rounds, strict=True)
    )
    finish(
        [
            Row.at_most("safetensors, time over the peer's", ours[0] / peer[0], 1.3),
            Row.at_most("safetensors, growth of memory over the file's size", ours[1] / file_bytes, 1.2),
            Row.at_most("half archive, growth of memory over the float32 size", from_archive[1] / file_bytes, 1.2),
            Row.compare("safetensors, loads/s", 1 / ours[0], 1 / peer[0]),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
