"""Conversion of a checkpoint for ONNX Runtime, and the choice between torch and ONNX Runtime.

A checkpoint of any format is exported to ONNX once, into the cache, under the hash of everything that determines its
embeddings. `--runtime auto` times one image on both runtimes once per architecture and machine, and caches the timings.
"""

import contextlib
import hashlib
import platform
import shutil
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import torch

from wordsight.cache import cache_directory
from wordsight.config import Config
from wordsight.encoder.onnx_runtime import OnnxRuntime
from wordsight.encoder.runtime import Runtime
from wordsight.errors import OutputError
from wordsight.files import read_limited, write_atomic
from wordsight.progress import phase
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert
from wordsight.weights.formats.int8 import int8_directory
from wordsight.weights.formats.onnx_directory import cache_name, is_intact
from wordsight.weights.formats.wordsight import hash_weights

_ROUNDS = 7
_MAX_TIMINGS_BYTES = 1 << 24  # 50,000 architectures


class Timings(Config, frozen=True):
    """Median time for one image, in seconds, on each runtime."""

    torch: float
    onnx: float


def load_onnx(checkpoint: Checkpoint) -> OnnxRuntime:
    """Open a checkpoint on ONNX Runtime; it is exported into the cache on first use.

    Raises:
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    return OnnxRuntime(_export(checkpoint), torch.get_num_threads())


def load_int8(checkpoint: Checkpoint) -> OnnxRuntime:
    """Open a checkpoint on ONNX Runtime with 8-bit products; it is converted into the cache on first use.

    Raises:
        MissingExtraError: the packages of the extra `onnx` are not installed.
        ConfigError: the model is not a vision transformer, or this CPU's 8-bit products are not exact.
    """
    return OnnxRuntime(int8_directory(_export(checkpoint)), torch.get_num_threads())


def select_runtime(torch_runtime: Runtime, checkpoint: Checkpoint) -> Runtime:
    """Return the faster runtime for single images on this machine; without ONNX Runtime installed, the one on torch.

    Args:
        torch_runtime: runs the checkpoint on torch, on the CPU.
        checkpoint: is exported to ONNX, unless cached timings say that torch is faster.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return torch_runtime
    versions = f"wordsight {version('wordsight')}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    architecture = hashlib.sha256(msgspec.json.encode(checkpoint.card.model)).hexdigest()
    key = f"{platform.node()}, {torch.get_num_threads()} threads, {versions}, {architecture}"
    path = cache_directory("timings") / "runtimes.json"
    cached = _read_timings(path)
    if key in cached and cached[key].torch <= cached[key].onnx:
        return torch_runtime
    onnx_runtime = load_onnx(checkpoint)
    if key not in cached:
        cached[key] = _measure(torch_runtime, onnx_runtime, checkpoint.card.preprocessing.size_px)
        with contextlib.suppress(OutputError):  # the next run measures again
            write_atomic(path, msgspec.json.format(msgspec.json.encode(cached), indent=2) + b"\n")
    return torch_runtime if cached[key].torch <= cached[key].onnx else onnx_runtime


def _export(checkpoint: Checkpoint) -> Path:
    directory = cache_directory("onnx") / cache_name(hash_weights(checkpoint.tensors), checkpoint.card)
    if not is_intact(directory):
        shutil.rmtree(directory, ignore_errors=True)
        convert(checkpoint, directory, "onnx")
    return directory


@phase("measuring which runtime is faster")
def _measure(torch_runtime: Runtime, onnx_runtime: Runtime, size_px: int) -> Timings:
    image = np.zeros((1, size_px, size_px, 3), np.uint8)
    times_s: dict[str, list[float]] = {"torch": [], "onnx": []}
    for _ in range(_ROUNDS + 1):
        for name, runtime in (("torch", torch_runtime), ("onnx", onnx_runtime)):
            start_s = time.perf_counter()
            runtime.encode_pixels(image)
            times_s[name].append(time.perf_counter() - start_s)
    return Timings(**{name: statistics.median(times[1:]) for name, times in times_s.items()})  # the first warms up


def _read_timings(path: Path) -> dict[str, Timings]:
    try:
        content = read_limited(path, _MAX_TIMINGS_BYTES, OutputError)
        timings = msgspec.json.decode(content, type=dict[str, Timings])
    except (OutputError, msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return {key: each for key, each in timings.items() if min(each.torch, each.onnx) > 0}
