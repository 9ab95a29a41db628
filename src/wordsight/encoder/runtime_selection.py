"""Which runtime computes: the one that was asked for, or with `auto` the one that was select_runtime on this machine.

A model of any format is exported to ONNX once, into the cache, under the hash of all that decides its embeddings; and
`auto` times one image on both runtimes once for each architecture, and remembers what it saw.
"""

import contextlib
import hashlib
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import torch

from wordsight.cache import cache_directory
from wordsight.config import Config
from wordsight.encoder.dual_encoder import DualEncoder
from wordsight.encoder.onnx_runtime import load_onnx_directory
from wordsight.encoder.runtime import Runtime
from wordsight.errors import OutputError
from wordsight.files import write_atomic
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.convert import convert
from wordsight.weights.formats.int8 import int8_directory
from wordsight.weights.formats.onnx_directory import cache_name, is_exported
from wordsight.weights.formats.wordsight import hash_weights

_ROUNDS = 7


class Seen(Config, frozen=True):
    """Median seconds for one image."""

    torch: float
    onnx: float


def on_onnx(found: Checkpoint) -> DualEncoder:
    """A model on ONNX Runtime, exported into the cache where it is not there yet.

    Raises:
        MissingExtraError: the packages of the extra `onnx` are not installed.
    """
    return load_onnx_directory(_exported(found), torch.get_num_threads())


def on_int8(found: Checkpoint) -> DualEncoder:
    """A model on ONNX Runtime with products in 8 bits, made in the cache where it is not there yet; errors as above.

    Raises:
        ConfigError: the model or this processor is not one for it.
    """
    return load_onnx_directory(int8_directory(_exported(found)), torch.get_num_threads())


def _exported(found: Checkpoint) -> Path:
    directory = cache_directory("onnx") / cache_name(hash_weights(found.tensors), found.card)
    if not is_exported(directory):
        convert(found, directory, "onnx")
    return directory


def select_runtime(on_torch: DualEncoder, found: Checkpoint) -> DualEncoder:
    """The encoder that was given, or the same model on ONNX Runtime where one image takes it less time."""
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return on_torch
    versions = f"wordsight {version('wordsight')}, torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
    architecture = hashlib.sha256(msgspec.json.encode(found.card.model)).hexdigest()
    key = f"{platform.node()}, {torch.get_num_threads()} threads, {versions}, {architecture}"
    place = cache_directory("timings") / "runtimes.json"
    known = _read(place)
    if key in known and known[key].torch <= known[key].onnx:
        return on_torch
    other = on_onnx(found)
    if key not in known:
        known[key] = _measure(on_torch.runtime, other.runtime, found.card.preprocessing.size_px)
        with contextlib.suppress(OutputError):  # then it is measured again
            write_atomic(place, msgspec.json.format(msgspec.json.encode(known), indent=2) + b"\n")
    return on_torch if known[key].torch <= known[key].onnx else other


def _measure(on_torch: Runtime, on_onnx: Runtime, size_px: int) -> Seen:
    image = np.zeros((1, size_px, size_px, 3), np.uint8)
    seconds: dict[str, list[float]] = {"torch": [], "onnx": []}
    for _ in range(_ROUNDS + 1):
        for name, runtime in (("torch", on_torch), ("onnx", on_onnx)):
            begin = time.perf_counter()
            runtime.encode_pixels(image)
            seconds[name].append(time.perf_counter() - begin)
    return Seen(**{name: statistics.median(times[1:]) for name, times in seconds.items()})  # the first warms up


def _read(place: Path) -> dict[str, Seen]:
    try:
        return msgspec.json.decode(place.read_bytes(), type=dict[str, Seen])
    except (OSError, msgspec.DecodeError):
        return {}
