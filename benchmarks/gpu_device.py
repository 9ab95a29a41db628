"""Common parts of the GPU benchmarks: results files, timing on a device, and peak rates for the MFU."""

import gc
import json
import os
import platform
import statistics
import subprocess
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from wordsight.files import write_atomic
from wordsight.parallel import available_cpus

PACKAGES = ("torch", "triton", "numpy", "pillow", "simplejpeg", "open_clip_torch", "timm", "transformers", "msgspec")

PEAK_TFLOPS = {
    "H100 PCIe": {"float32": 51.0, "bfloat16": 756.0, "float16": 756.0},
    "H100": {"float32": 67.0, "bfloat16": 989.4, "float16": 989.4},
    "H200": {"float32": 67.0, "bfloat16": 989.4, "float16": 989.4},
    "A100": {"float32": 19.5, "bfloat16": 312.0, "float16": 312.0},
}
"""Dense peak rates in TFLOP/s, by a part of the device's name; the first match counts. float32 is without TF32.

Source: NVIDIA's data sheets of the H100 (SXM and PCIe), the H200 and the A100; where a sheet states the rate with
sparsity, half of it.
"""


class Results:
    """Measurements by name, written to a JSON file after each one, so that a timeout loses only the current one.

    Attributes:
        failures: names of measurements that raised an exception; the file holds their tracebacks.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.values: dict[str, Any] = {}
        self.failures: list[str] = []

    def measure(self, name: str, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function(*arguments)` and record its result, or its exception, under `name`."""
        begin = time.perf_counter()
        try:
            value = function(*arguments)
        except Exception as error:
            self.failures.append(name)
            value = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        self.values[name] = value
        write_atomic(self.path, (json.dumps(self.values, indent=2) + "\n").encode())
        shown = value.get("error", value) if isinstance(value, dict) else value
        print(f"{name} ({time.perf_counter() - begin:.1f} s): {json.dumps(shown)[:400]}", flush=True)

    def record(self, name: str, value: Any) -> None:
        """Record a value under `name`."""
        self.measure(name, lambda: value)


def device_type() -> str:
    """`cuda`, or `cpu` for a rehearsal."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def compile_backend() -> str:
    """The backend of torch.compile; a rehearsal on a CPU does without generating C++ code, which takes minutes."""
    return "inductor" if torch.cuda.is_available() else "eager"


def synchronise() -> None:
    """Wait until the device has finished everything it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def free_memory() -> None:
    """Return cached device memory, so that the next measurement starts with all of it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def median_seconds(function: Callable[[], Any], rounds: int, warm_up: int = 2) -> float:
    """The median time of a call in seconds, the device's work included."""
    times = []
    for number in range(warm_up + rounds):
        synchronise()
        begin = time.perf_counter()
        function()
        synchronise()
        if number >= warm_up:
            times.append(time.perf_counter() - begin)
    return statistics.median(times)


def peak_flops(dtype: str) -> float | None:
    """The peak rate of the device in FLOP/s for `float32`, `bfloat16` or `float16`; None if it is not listed."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    rates = next((rates for part, rates in PEAK_TFLOPS.items() if all(word in name for word in part.split())), None)
    return None if rates is None else rates[dtype] * 1e12


def environment() -> dict[str, Any]:
    """Versions and device names that a reader of the results needs."""
    result: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": available_cpus(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if torch.cuda.is_available() else None,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "packages": {name: _version(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        result |= {
            "device": properties.name,
            "device_memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "driver": _driver_version(),
        }
    return result


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _driver_version() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
