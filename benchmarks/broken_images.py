"""Embedding of images of which 20 % are broken and 1 % hostile: all others are correct, and memory does not grow.

    python -m benchmarks.broken_images [--quick] [--json FILE]

20,000 images (with `--quick` 2,000) are embedded twice with a tiny model, each time in a process of its own with
WORDSIGHT_MAX_MEMORY=128MB: once as they are, and once after every fifth is truncated, overwritten or emptied, and every
hundredth is replaced by a decompression bomb, a JPEG of 2,000 scans or a flood of chunks. One in fifty is a photo of 12
megapixels, of which two are decoded at a time. The rows compare the embeddings of the untouched images, bit for bit,
and the peak memory (`ru_maxrss`) of the two processes.
"""

import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.table import Row, finish, parser
from PIL import Image

NUM_IMAGES, NUM_QUICK = 20_000, 2_000
MAX_MEMORY = "128MB"
MAX_GROWTH = 1.2
FORMATS = ("JPEG", "PNG", "WEBP")
LARGE_EVERY, HOSTILE_EVERY, BROKEN_EVERY = 50, 100, 5
BOMB_SIDE = 13_000


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of an image file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def image_file(number: int) -> bytes:
    """A file of distinct pixels: a few kilobytes, or a photo of 12 megapixels."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    if number % LARGE_EVERY == 0:
        return encode(coarse.resize((4000, 3000)), "JPEG", quality=60)
    width, height = (int(side) for side in generator.integers(100, 500, 2))
    return encode(coarse.resize((width, height)), FORMATS[number % len(FORMATS)])


def hostile_files() -> list[bytes]:
    """Small files that claim much: pixels, scans, chunks, tiles."""
    header = struct.pack(">IIBBBBB", BOMB_SIDE, BOMB_SIDE, 8, 2, 0, 0, 0)
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * BOMB_SIDE)) for _ in range(BOMB_SIDE)) + rows.flush()
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    lossless = struct.pack("<BI", 0x2F, BOMB_SIDE - 1 | BOMB_SIDE - 1 << 14) + b"\x88\x88\x08"
    progressive = encode(Image.new("L", (2048, 2048)), "JPEG", progressive=True)
    scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    small = encode(Image.new("RGB", (64, 64)), "PNG")
    return [
        png + chunk(b"IDAT", data) + chunk(b"IEND", b""),
        b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8L" + struct.pack("<I", 8) + lossless + bytes(8),
        progressive[:-2] + scan * 2000 + progressive[-2:],
        small[:33] + chunk(b"tEXt", b"") * 200_000 + small[33:],
        encode(Image.new("1", (BOMB_SIDE, BOMB_SIDE)), "TIFF", compression="group4"),
        encode(Image.new("RGB", (3000, 2500)), "WEBP", lossless=True),
    ]


def is_hostile(number: int) -> bool:
    """Whether an image is replaced by a hostile one."""
    return number % HOSTILE_EVERY == 7


def is_broken(number: int) -> bool:
    """Whether an image is damaged."""
    return number % BROKEN_EVERY == 3


def broken(content: bytes, number: int) -> bytes:
    """A file that was cut, overwritten, or not written."""
    damaged = {0: content[: len(content) // 2], 1: bytes(len(content)), 2: b"", 3: b"<html>not found</html>"}
    return damaged[number // BROKEN_EVERY % len(damaged)]


def write_images(directory: Path, num_images: int, damaged: bool) -> None:
    """Write the images, clean or not, in directories of a thousand."""
    hostile = hostile_files() if damaged else []
    for number in range(num_images):
        path = directory / f"{number // 1000:03d}" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        if damaged and is_hostile(number):
            path.write_bytes(hostile[number // HOSTILE_EVERY % len(hostile)])
        else:
            content = image_file(number)
            path.write_bytes(broken(content, number) if damaged and is_broken(number) else content)


def embed(directory: Path, out: Path) -> None:
    """Embed a directory in this process, and write its peak memory and time to `out` with the suffix `.json`."""
    from tests.tiny_clip import tiny_clip

    from wordsight.data.inputs import iter_images
    from wordsight.embed.job import embed_files

    begin_s = time.perf_counter()
    summary = embed_files(tiny_clip(), iter_images([directory]), out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    measured = {"peak": peak, "seconds": time.perf_counter() - begin_s, "unreadable": summary.num_unreadable}
    out.with_suffix(".json").write_text(json.dumps(measured))


def run(root: Path, num_images: int, damaged: bool) -> tuple[dict[str, bytes], dict[str, Any]]:
    """Write and embed the images in a process of its own; the embeddings by file name, and what was measured."""
    import pyarrow.parquet as pq

    name = "damaged" if damaged else "clean"
    write_images(root / name, num_images, damaged)
    out = root / f"{name}.parquet"
    command = [sys.executable, "-m", "benchmarks.broken_images", "--embed", str(root / name), str(out)]
    subprocess.run(command, check=True, env=os.environ | {"WORDSIGHT_MAX_MEMORY": MAX_MEMORY})
    table = pq.read_table(out).select(["path", "embedding"]).to_pylist()
    embeddings = {Path(row["path"]).name: np.float32(row["embedding"]).tobytes() for row in table if row["embedding"]}
    return embeddings, json.loads(out.with_suffix(".json").read_text())


def main() -> None:
    """Embed the clean and the damaged images, and print the table."""
    assert __doc__
    command = parser(__doc__.splitlines()[0])
    command.add_argument(
        "--embed", nargs=2, type=Path, metavar=("DIRECTORY", "OUT"), help="used by the benchmark itself"
    )
    options = command.parse_args()
    if options.embed:
        embed(*options.embed)
        return
    num_images = NUM_QUICK if options.quick else NUM_IMAGES
    with tempfile.TemporaryDirectory() as root:
        clean, clean_run = run(Path(root), num_images, damaged=False)
        damaged, damaged_run = run(Path(root), num_images, damaged=True)
    untouched = {f"{number:06d}.jpg" for number in range(num_images) if not (is_hostile(number) or is_broken(number))}
    num_correct = sum(clean[name] == damaged.get(name) for name in untouched)
    finish(
        [
            Row.measured("clean images that are embedded", len(clean)),
            Row.at_least("untouched images with identical embeddings (share)", num_correct / len(untouched), 1.0),
            Row.measured("unreadable images", damaged_run["unreadable"]),
            Row.at_most("peak memory relative to the clean run", damaged_run["peak"] / clean_run["peak"], MAX_GROWTH),
            Row.measured("peak memory of the clean run (MB)", clean_run["peak"] / 1e6),
            Row.measured("peak memory with broken and hostile images (MB)", damaged_run["peak"] / 1e6),
            Row.measured("clean run (s)", clean_run["seconds"]),
            Row.measured("with broken and hostile images (s)", damaged_run["seconds"]),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
