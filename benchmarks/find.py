"""Time and memory of `wordsight find` over 1,000,000 embeddings of 512 components on disk.

    python -m benchmarks.find [--quick] [--json FILE]

The embeddings are random unit vectors, 2 GB as NumPy and as Parquet files (`--quick`: 100,000, 0.2 GB, where the start
of Python and torch dominates, so that the ratio of the first answer has no target). They are written to the temporary
directory: set TMPDIR to measure another disk.

The first answer is the time of the whole command in a new process, with the import of torch and the loading of a small
model, over the time to read the file once; before both, the file is dropped from the cache of the operating system.
Further queries are lines of one process with `--interactive`; the peer is a product of the NumPy file in memory
(2 GB) with the query, and a partial sort. Memory is the peak resident size of the process. Linux only. The results of
both files, of the first and of further queries, are compared with those of the peer in float64.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from benchmarks.table import Row, finish, parser
from tests.search.files import write_embeddings

from wordsight.embed.embedding_files import EmbeddingRow
from wordsight.encoder import DualEncoder
from wordsight.image import Preprocessing
from wordsight.model import ModelConfig, ResidualConfig, TextConfig, build
from wordsight.weights import Card, TokenizerConfig

NUM_ROWS, QUICK_ROWS, WIDTH = 1_000_000, 100_000, 512
TOP = 10
MAX_READ_RATIO, MAX_QUERY_S, MAX_BYTES = 1.2, 0.3, 1 << 30
QUERIES = ["a dog on a beach", "a red car", "snow", "two people", "a cat", "a house by the sea"]


def save_model(directory: Path) -> DualEncoder:
    """A small model with random weights and embeddings of 512 components."""
    image = ResidualConfig(image_size_px=48, widths=(24, 48), blocks=(1, 1))
    text = TextConfig(width=64, heads=2, layers=1, context_length=32)
    model = build(ModelConfig(image=image, text=text, embed_dim=WIDTH), torch.Generator().manual_seed(0)).eval()
    encoder = DualEncoder(
        model, Card("random", model.config, Preprocessing(size_px=48), TokenizerConfig(context_length=32))
    )
    encoder.save(directory)
    return encoder


def rows(num_rows: int) -> Iterator[EmbeddingRow]:
    generator = np.random.default_rng(0)
    for start in range(0, num_rows, 10_000):
        block = generator.normal(size=(10_000, WIDTH)).astype(np.float32)
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        for number, embedding in enumerate(block, start):
            yield EmbeddingRow(f"photos/{number:07d}.jpg", f"{number:064x}", embedding)


def drop_from_cache(path: Path) -> None:
    """Write a file to the disk and drop it from the cache of the operating system."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read_seconds(path: Path) -> float:
    """Time to read a file once."""
    drop_from_cache(path)
    buffer = bytearray(1 << 23)
    start_s = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start_s


def command(path: Path, model: Path, *arguments: str) -> list[str]:
    program = [sys.executable, "-m", "wordsight", "find", *arguments]
    return [*program, "--in", str(path), "--model", str(model), "--json", "--quiet", "--top", str(TOP)]


def peak_bytes(process: subprocess.Popen[str]) -> int:
    """Peak resident size of a process so far; `ru_maxrss` would include this process, from which it was forked."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def first_answer(path: Path, model: Path) -> tuple[float, int, list[str]]:
    """Time in seconds and peak memory in bytes of one query in a new process, and the names of the results."""
    drop_from_cache(path)
    start_s, num_bytes = time.perf_counter(), 0
    with subprocess.Popen(command(path, model, QUERIES[0]), stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            num_bytes = max(num_bytes, peak_bytes(process))
            time.sleep(0.02)
        seconds = time.perf_counter() - start_s
        assert process.stdout is not None
        return seconds, num_bytes, names(process.stdout.read())


def names(output: str) -> list[str]:
    return [result["image"] for result in json.loads(output)["results"]]


def further_queries(path: Path, model: Path) -> tuple[list[float], int, list[list[str]]]:
    """Time of each query after the first in one process, its peak memory, and the names of all results."""
    with subprocess.Popen(
        command(path, model, "--interactive"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        times, answers = [], []
        for query in QUERIES:
            start_s = time.perf_counter()
            process.stdin.write(f"{query}\n")
            process.stdin.flush()
            answers.append(names(process.stdout.readline()))
            times.append(time.perf_counter() - start_s)
        num_bytes = peak_bytes(process)
        process.stdin.close()
    return times[1:], num_bytes, answers


def peer(path: Path, encoder: DualEncoder) -> tuple[float, list[list[str]]]:
    """Median time of a query in memory with NumPy, and the names of the results in float64."""
    embeddings_NE = np.load(path)
    times, answers = [], []
    for query in QUERIES:
        query_E = encoder.embed_texts(query)[0]
        start_s = time.perf_counter()
        similarity_N = embeddings_NE @ query_E
        candidates = np.argpartition(-similarity_N, 10 * TOP)[: 10 * TOP]
        times.append(time.perf_counter() - start_s)
        exact = embeddings_NE[candidates].astype(np.float64) @ query_E.astype(np.float64)
        answers.append([f"photos/{number:07d}.jpg" for number in candidates[np.argsort(-exact)][:TOP]])
    return statistics.median(times), answers


def measure(path: Path, model: Path, is_quick: bool, expected: list[list[str]], peer_s: float) -> list[Row]:
    """The rows of one file."""
    rounds = []
    for _ in range(1 if is_quick else 3):
        read_s = read_seconds(path)
        answer_s, answer_bytes, results = first_answer(path, model)
        assert results == expected[0]
        rounds.append((answer_s / read_s, answer_s, read_s, answer_bytes))
    ratio, answer_s, read_s, answer_bytes = sorted(rounds)[len(rounds) // 2]
    times, interactive_bytes, answers = further_queries(path, model)
    assert answers == expected
    kind, mib = path.suffix[1:], 1 << 20
    ratio_name = f"{kind}: first answer, time over that of reading the file"
    return [
        Row.measured(ratio_name, ratio) if is_quick else Row.at_most(ratio_name, ratio, MAX_READ_RATIO),
        Row.measured(f"{kind}: first answer (s)", answer_s),
        Row.measured(f"{kind}: reading the file once (s)", read_s),
        Row.at_most(f"{kind}: peak memory of one query (MiB)", answer_bytes / mib, MAX_BYTES / mib),
        Row.at_most(f"{kind}: further queries, median (s)", statistics.median(times), MAX_QUERY_S, peer_s),
        Row.at_most(f"{kind}: peak memory of --interactive (MiB)", interactive_bytes / mib, MAX_BYTES / mib),
    ]


def main() -> None:
    options = parser(__doc__).parse_args()
    num_rows = QUICK_ROWS if options.quick else NUM_ROWS
    with tempfile.TemporaryDirectory() as name:
        model, array, table = Path(name, "model"), Path(name, "all.npy"), Path(name, "all.parquet")
        encoder = save_model(model)
        write_embeddings(array, encoder.fingerprint, rows(num_rows))
        peer_s, expected = peer(array, encoder)
        measured = measure(array, model, options.quick, expected, peer_s)
        array.unlink()  # so that 2 GB of disk are enough
        write_embeddings(table, encoder.fingerprint, rows(num_rows))
        measured += measure(table, model, options.quick, expected, peer_s)
    finish(measured, options.json)


if __name__ == "__main__":
    main()
