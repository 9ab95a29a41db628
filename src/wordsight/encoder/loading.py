"""A name or a place becomes a dual encoder."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wordsight.encoder.dual_encoder import DualEncoder
from wordsight.encoder.runtime import check_runtime
from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.files import newest_complete
from wordsight.image import Decoding
from wordsight.web import Progress
from wordsight.weights.formats.onnx_directory import is_exported
from wordsight.weights.hub.catalogue import is_published, published_card, published_cards
from wordsight.weights.hub.download import HUB_PREFIX, resolve

if TYPE_CHECKING:
    import torch

    from wordsight.weights.checkpoint import Checkpoint

_BEST_NAME = "best"
_RUN_FILES = ("metrics.jsonl", "recipe.toml")


def load(
    name_or_path: str | Path,
    device: "str | torch.device | None" = None,
    architecture: str | None = None,
    averaged: bool | None = None,
    mirror: str | None = None,
    progress: Progress | None = None,
    runtime: str = "torch",
    decoding: Decoding | None = None,
) -> DualEncoder:
    """Load a model.

    Args:
        name_or_path: a name of `wordsight models`, `hf-hub:owner/name`, a file of weights, the directory of a model (ours,
            open_clip's or Hugging Face's), or that of a training run, whose best is taken.
        device: such as `cpu` or `cuda:1`; by default the first accelerator, or else the CPU.
        architecture: of weights that do not say theirs: `ViT-B-32` (GELU), `ViT-B-32-quickgelu`, a preset.
        averaged: of a training checkpoint with both, whether the averaged weights are meant.
        mirror: a server that takes the place of the one from which published weights are fetched.
        progress: is told, of a download, how many bytes are here and how many there are.
        runtime: `torch`; `half`, the same in float16, for accelerators; `onnx`, for which the model is exported into
            the cache once; `int8`, the same with 8-bit products, select_runtime and with embeddings a little apart
            (docs/performance.md), for vision transformers; or `auto`, on a CPU the one of `torch` and `onnx` that took
            less time for a image when it was tried. A directory of ONNX graphs runs on `onnx`, or as `int8`.
        decoding: of images: `exact`, or select_runtime and a little apart `cropped` or `scaled`, see `Preprocessing`; by
            default as the card says, which is `exact` but for a model that was saved otherwise.

    Raises:
        WeightsError: there is no such model, or its files are broken.
        DownloadError: it is published, and cannot be had.
        ConfigError: there is no such device or runtime, `int8` is not for this model or processor, or `half` for ONNX.
        MissingExtraError: `onnx` or `int8` without their packages.
    """
    check_runtime(runtime)
    place = newest_complete(Path(name_or_path))
    if is_exported(place):
        clip = _load_exported(place, device, runtime)
    else:
        where = _device(device)
        clip = _on_runtime(find(name_or_path, architecture, averaged, mirror, progress), where, runtime, name_or_path)
    if decoding is not None:
        preprocessing = msgspec.structs.replace(clip.card.preprocessing, decoding=decoding)
        clip.card = msgspec.structs.replace(clip.card, preprocessing=preprocessing)
    return clip


def _on_runtime(found: "Checkpoint", where: "torch.device", runtime: str, name: str | Path) -> DualEncoder:
    """A model that was read, on a device or another runtime."""
    if runtime not in ("torch", "half"):
        from wordsight.encoder.runtime_selection import on_int8, on_onnx, select_runtime

        if runtime == "onnx":
            return on_onnx(found)
        if runtime == "int8":
            return on_int8(found)
        if where.type == "cpu":
            return select_runtime(DualEncoder(found.build(str(name)), found.card, files=found.files), found)
    model = found.build(str(name)).to(where)
    if runtime == "half":
        scalars = [parameter for parameter in model.parameters() if not parameter.ndim]
        in_single = [scalar.detach().clone() for scalar in scalars]
        model.half()
        for scalar, value in zip(scalars, in_single, strict=True):
            scalar.data = value  # scale and bias cost nothing, and 100 would be 100.03
    return DualEncoder(model, found.card, files=found.files)


def _load_exported(directory: Path, device: "str | torch.device | None", runtime: str) -> DualEncoder:
    """A directory of ONNX graphs; torch is not imported."""
    from wordsight.encoder.onnx_runtime import load_onnx_directory
    from wordsight.weights.formats.int8 import int8_directory

    if runtime == "half":
        raise ConfigError(f"runtime half: {directory} was exported to ONNX, in float32; leave it out, or take int8")
    if device is not None and str(device) != "cpu":
        raise ConfigError(f"device {str(device)!r}: {directory} was exported to ONNX, which runs here on 'cpu' alone")
    return load_onnx_directory(int8_directory(directory) if runtime == "int8" else directory)


def find(
    name_or_path: str | Path,
    architecture: str | None = None,
    averaged: bool | None = None,
    mirror: str | None = None,
    progress: Progress | None = None,
) -> "Checkpoint":
    """The parts of a model, not built; arguments and errors as `load`."""
    from wordsight.weights.read import described, read, stated_architecture

    name = str(name_or_path)
    path = newest_complete(Path(name_or_path))
    if path.exists():
        return read(_place_of_model(path), architecture, averaged)
    if name.startswith(HUB_PREFIX):
        return read(resolve(name, mirror, progress), architecture, averaged)
    if is_published(name):
        known = published_card(name)
        file = resolve(name, mirror, progress)
        return described(read(file, architecture or stated_architecture(known), averaged), known)
    raise WeightsError(
        f"{name}: no such model{_nearest(path)}; give a name that 'wordsight models' lists, a file of weights, or the "
        "directory of a model or of a training run"
    )


def _place_of_model(path: Path) -> Path:
    """A path itself, or the best model of a training run, whose checkpoint is no model."""
    from wordsight.weights.read import describes_model

    if path.is_file() or describes_model(path):
        return path
    best = newest_complete(path / _BEST_NAME)
    if best.is_dir():
        return best
    if any((path / file).exists() for file in _RUN_FILES):
        raise WeightsError(f"{path}: the run has no model yet; it is there after the first validation")
    return path


def _nearest(path: Path) -> str:
    """The nearest name of published weights, or of a directory beside."""
    beside = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    return nearest(str(path), published_cards()) or nearest(path.name, beside)


def _device(device: "str | torch.device | None") -> "torch.device":
    import torch

    if device is None:
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used: {reason}; leave it out, or take 'cpu'") from error
    return chosen
