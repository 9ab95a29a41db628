"""Collect the facts about an installation and its machine that a bug report needs."""

import os
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from wordsight.cache import CacheUsage, cache_directory, cache_usage
from wordsight.parallel import available_cpus
from wordsight.web import without_credentials

VARIABLES = (
    "WORDSIGHT_CACHE",
    "WORDSIGHT_MAX_MEMORY",
    "WORDSIGHT_OFFLINE",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "HF_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CUDA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "RAY_ADDRESS",
)
"""Variables that change what wordsight does. All others, and with them most secrets, are never read."""

SECRET_VARIABLES = ("HF_TOKEN",)
"""Variables of which only the presence is reported."""

_HIDDEN_EXTRAS = ("all", "dev", "docs")  # `all` combines other extras; `dev` and `docs` are for developers of wordsight
_REQUIREMENT = re.compile(r"(?P<name>[A-Za-z0-9._-]+)[^;]*(?:;.*extra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?")


@dataclass(frozen=True)
class Device:
    """A device on which torch can run a model.

    Attributes:
        name: as `--device` accepts it.
        model: the product name.
        num_cpus: of the CPU, the number of logical CPUs; None for an accelerator.
        num_available_cpus: how many of them this process may use.
        memory_bytes: of an accelerator, the size of its memory; None if it is unknown.
    """

    name: str
    model: str
    num_cpus: int | None = None
    num_available_cpus: int | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class Extra:
    """An extra of the package, such as `onnx`.

    Attributes:
        missing: the distributions that are not installed.
        install: the command that installs it.
    """

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Environment:
    """An installation and its machine.

    Attributes:
        versions: of wordsight, Python and the platform.
        packages: version of each installed dependency.
        torch_error: why torch cannot be imported; empty if it can.
        variables: environment variables without credentials.
    """

    versions: Mapping[str, str]
    packages: Mapping[str, str]
    devices: tuple[Device, ...]
    extras: tuple[Extra, ...]
    cache_path: Path
    cache: list[CacheUsage]
    variables: Mapping[str, str]
    torch_error: str = ""


def describe_environment() -> Environment:
    """Collect everything; imports torch, if it can be imported, to find accelerators."""
    from wordsight import __version__

    accelerators, torch_error = _accelerators()
    requirements = _requirements()
    names = sorted({name for names in requirements.values() for name in names}, key=str.lower)
    return Environment(
        versions={
            "wordsight": f"{__version__} ({Path(__file__).parents[1]})",
            "Python": f"{platform.python_version()}, {platform.python_implementation()} ({sys.executable})",
            "platform": platform.platform(),
        },
        packages={name: version for name in names if (version := _version(name))},
        devices=(_cpu(), *accelerators),
        extras=tuple(_extra(extra, names) for extra, names in requirements.items() if extra),
        cache_path=cache_directory(),
        cache=cache_usage(),
        variables=_variables(os.environ),
        torch_error=torch_error,
    )


def as_dict(environment: Environment) -> dict[str, Any]:
    """The environment as plain values, for JSON."""
    from wordsight.cli.cache import as_dict as cache_as_dict

    return {
        "versions": dict(environment.versions),
        "packages": dict(environment.packages),
        "devices": [asdict(device) for device in environment.devices],
        "torch_error": environment.torch_error,
        "extras": {
            extra.name: {"installed": not extra.missing, "missing": extra.missing, "install": extra.install}
            for extra in environment.extras
        },
        "cache": cache_as_dict(environment.cache),
        "environment": dict(environment.variables),
    }


def _requirements() -> dict[str, list[str]]:
    """Return the names of the required distributions by extra; the extra of those that are always required is empty."""
    try:
        lines = metadata.requires("wordsight") or []
    except metadata.PackageNotFoundError:  # a source tree that is not installed
        lines = []
    requirements: dict[str, list[str]] = {"": []}
    for line in lines:
        match = _REQUIREMENT.match(line)
        if match and match["extra"] not in _HIDDEN_EXTRAS:
            requirements.setdefault(match["extra"] or "", []).append(match["name"])
    return requirements


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _extra(name: str, requirements: list[str]) -> Extra:
    missing = tuple(requirement for requirement in requirements if not _version(requirement))
    return Extra(name, missing, f"pip install 'wordsight[{name}]'")


def _cpu() -> Device:
    model = platform.processor() or platform.machine()
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    if match := re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE):
        model = match[1]
    return Device("cpu", model, num_cpus=os.cpu_count(), num_available_cpus=available_cpus())


def _accelerators() -> tuple[list[Device], str]:
    """The accelerators that torch finds, and the reason if torch cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library cannot be loaded
        return [], " ".join(str(error).split())
    if not torch.accelerator.is_available():
        return [], ""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None:
        return [], ""
    if accelerator.type != "cuda":
        indices = range(torch.accelerator.device_count())
        return [Device(f"{accelerator.type}:{index}", accelerator.type) for index in indices], ""
    properties = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return [
        Device(f"cuda:{index}", gpu.name, memory_bytes=gpu.total_memory) for index, gpu in enumerate(properties)
    ], ""


def _variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The relevant variables that are set, without credentials."""
    variables = {name: without_credentials(environment[name]) for name in VARIABLES if name in environment}
    return variables | {name: "(set)" for name in SECRET_VARIABLES if environment.get(name)}
