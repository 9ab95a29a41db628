"""`load`: from the name or the path of a model to a `DualEncoder`."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wordsight.encoder.devices import parse_device
from wordsight.encoder.dual_encoder import DualEncoder, check_options
from wordsight.encoder.runtime import Runtime, check_runtime
from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.files import newest_complete
from wordsight.image import Decoding, Policy
from wordsight.web import Progress
from wordsight.weights.card import Card
from wordsight.weights.formats.onnx_directory import is_exported
from wordsight.weights.hub.catalogue import is_published, published_card, published_cards
from wordsight.weights.hub.download import HUB_PREFIX, resolve

if TYPE_CHECKING:
    import torch

    from wordsight.encoder.onnx_runtime import OnnxRuntime
    from wordsight.model import CLIP
    from wordsight.weights.checkpoint import Checkpoint

_BEST_NAME = "best"
_MAX_SHOWN = 300
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
    policy: Policy = "viewer",
    batch_size: int | None = None,
) -> DualEncoder:
    """Load a model by name or path, in any published format, and download it if necessary.

    For example `load("openai/ViT-B-32")` or `load("runs/first", device="cuda", batch_size=512)`.

    Args:
        name_or_path: a name listed by `wordsight models`; `hf-hub:owner/name`; a weights file; the directory of a
            model in the format of wordsight, open_clip or Hugging Face, or exported to ONNX; or the directory of a
            training run, which loads its best model.
        device: such as `cpu` or `cuda:1`; by default the first accelerator, or the CPU if there is none.
        architecture: required only for weights that do not state their architecture: `ViT-B-32` (GELU),
            `ViT-B-32-quickgelu`, or the name of a preset.
        averaged: True for the averaged (EMA) weights of a training checkpoint, False for the plain ones; required only
            if it holds both.
        mirror: address of a server that replaces the one from which published weights are downloaded.
        progress: called during a download with the number of bytes received and the total, if known.
        runtime: `torch`; `half`: torch in float16, for accelerators; `onnx`: ONNX Runtime on the CPU, for which the
            model is exported into the cache on first use; `int8`: the same with 8-bit products, for vision
            transformers, faster, with slightly different embeddings (docs/explanation/performance.md); `auto`: on a
            CPU, the faster of `torch` and `onnx` for single images, measured once. The directory of an exported model
            runs on `onnx`, or on `int8` if requested.
        decoding: of image files: `exact`; `cropped` or `scaled`, which are faster, with slightly different embeddings
            (see `Preprocessing`). By default as the model's card says: `exact`, unless it was saved otherwise.
        policy: how image files are decoded: `viewer`, as a person sees them (EXIF rotation applied, alpha over white),
            or `published`, as the published pipelines do.
        batch_size: number of images encoded together; by default a value for the device.

    Returns:
        The model with its tokenizer and preprocessing, in evaluation mode.

    Raises:
        WeightsError: no such model, or its files are broken.
        DownloadError: a published model cannot be downloaded.
        ConfigError: an option has an unknown value, the device is not available, or the runtime does not support the
            model or this CPU.
        MissingExtraError: `onnx` or `int8` without the packages of the extra `onnx`.
    """
    check_runtime(runtime)
    check_options(policy, batch_size)
    path = _local_path(name_or_path)
    if is_exported(path):
        exported = _open_exported(path, device, runtime, is_chosen=architecture is not None or averaged is not None)
        return DualEncoder(exported, _with_decoding(exported.card, decoding), policy, exported.files, batch_size)
    torch_device = parse_device(device)
    checkpoint = find_checkpoint(name_or_path, architecture, averaged, mirror, progress)
    model = _build(checkpoint, torch_device, runtime, str(name_or_path))
    return DualEncoder(model, _with_decoding(checkpoint.card, decoding), policy, checkpoint.files, batch_size)


def find_checkpoint(
    name_or_path: str | Path,
    architecture: str | None = None,
    averaged: bool | None = None,
    mirror: str | None = None,
    progress: Progress | None = None,
) -> "Checkpoint":
    """Read the weights and the card of a model without building it; arguments and errors are those of `load`."""
    from wordsight.weights.read import described, read, require_architecture, stated_architecture

    name = str(name_or_path)
    path = _local_path(name_or_path)
    try:
        if path.exists():
            return read(_model_path(path), architecture, averaged)
    except OSError as error:  # a directory that may not be listed or searched, or a name that no file can have
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}; check the path") from error
    if name.startswith(HUB_PREFIX):
        return read(resolve(name, mirror, progress), architecture, averaged)
    if is_published(name):
        card = published_card(name)
        if architecture is not None and (model := card.model()) is not None:
            require_architecture(model, architecture, name)
        file = resolve(name, mirror, progress)
        return described(read(file, architecture or stated_architecture(card), averaged), card)
    raise _no_such_model(name, path)


def check_name(name_or_path: str | Path) -> None:
    """Report the name of a model that does not exist, without reading or downloading a model.

    Raises:
        WeightsError: as for `load`.
    """
    name, path = str(name_or_path), _local_path(name_or_path)
    if not (path.exists() or name.startswith(HUB_PREFIX) or is_published(name)):
        raise _no_such_model(name, path)


def _no_such_model(name: str, path: Path) -> WeightsError:
    from wordsight.weights.mistaken import mistaken_for_weights

    if path.is_symlink():
        return WeightsError(f"{path}: {mistaken_for_weights(path)}")
    return WeightsError(
        f"{name}: no such model; give a name listed by 'wordsight models', a weights file, or the directory of a model "
        f"or of a training run{_nearest_name(path)}"
    )


def _local_path(name_or_path: str | Path) -> Path:
    """The path that a name would have, which need not exist.

    Raises:
        WeightsError: the path cannot be examined: it is too long, or a directory in it may not be searched.
    """
    path = Path(name_or_path)
    try:
        return newest_complete(path)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{str(path)[:_MAX_SHOWN]}: cannot be read: {reason}; check the name") from error


def _with_decoding(card: Card, decoding: Decoding | None) -> Card:
    if decoding is None:
        return card
    return msgspec.structs.replace(card, preprocessing=msgspec.structs.replace(card.preprocessing, decoding=decoding))


def _open_exported(
    directory: Path, device: "str | torch.device | None", runtime: str, is_chosen: bool
) -> "OnnxRuntime":
    """Open a directory of ONNX graphs without importing torch; `is_chosen`: --as, --averaged or --plain is given."""
    from wordsight.encoder.onnx_runtime import OnnxRuntime
    from wordsight.weights.formats.int8 import int8_directory

    if is_chosen:
        raise ConfigError(
            f"{directory}: exported to ONNX with one set of weights, and states its architecture; leave out --as, "
            "--averaged and --plain"
        )
    if runtime == "half":
        raise ConfigError(f"runtime half: {directory} was exported to ONNX in float32; omit the option, or use int8")
    if device is not None and str(device) != "cpu":
        raise ConfigError(f"device {str(device)!r}: {directory} was exported to ONNX, which runs only on 'cpu' here")
    return OnnxRuntime(int8_directory(directory) if runtime == "int8" else directory)


def _build(checkpoint: "Checkpoint", device: "torch.device", runtime: str, name: str) -> "CLIP | Runtime":
    """Build the model on a device, or open it on another runtime."""
    if runtime not in ("torch", "half"):
        from wordsight.encoder.runtime_selection import load_int8, load_onnx, select_runtime
        from wordsight.encoder.torch_runtime import TorchRuntime

        if runtime == "onnx":
            return load_onnx(checkpoint)
        if runtime == "int8":
            return load_int8(checkpoint)
        if device.type == "cpu":
            return select_runtime(TorchRuntime(checkpoint.build(name), checkpoint.card.preprocessing), checkpoint)
    model = checkpoint.build(name).to(device)
    if runtime == "half":
        _convert_to_half(model)
    return model


def _convert_to_half(model: "CLIP") -> None:
    """Convert all weights to float16 but the scalars, the logit scale and bias, which save nothing.

    The logarithm of a scale of 100, rounded to float16, would be that of 100.03.
    """
    scalars = [parameter for parameter in model.parameters() if not parameter.ndim]
    exact = [scalar.detach().clone() for scalar in scalars]
    model.half()
    for scalar, value in zip(scalars, exact, strict=True):
        scalar.data = value


def _model_path(path: Path) -> Path:
    """Return the path itself, or the best model in the directory of a training run."""
    from wordsight.weights.read import describes_model

    if path.is_file() or describes_model(path):
        return path
    best = newest_complete(path / _BEST_NAME)
    if best.is_dir():
        return best
    if any((path / file).exists() for file in _RUN_FILES):
        raise WeightsError(f"{path}: the run has no model yet; the first one is saved after the first validation")
    return path


def _nearest_name(path: Path) -> str:
    """Suggest the nearest name of published weights or of a directory next to the path."""
    siblings = [entry.name for entry in path.parent.iterdir() if entry.is_dir()] if path.parent.is_dir() else []
    return nearest(str(path), published_cards()) or nearest(path.name, siblings)
