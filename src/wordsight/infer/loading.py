"""A name or a place becomes a dual encoder."""

from pathlib import Path

import torch

from wordsight.errors import ConfigError, WeightsError, nearest
from wordsight.files import newest_whole
from wordsight.infer.dual_encoder import DualEncoder
from wordsight.weights.own import CARD_NAME, WEIGHTS_NAME, is_model_folder, load_folder

_BEST_NAME = "best"
_RUN_FILES = ("metrics.jsonl", "recipe.toml")


def load(name_or_path: str | Path, device: str | torch.device | None = None) -> DualEncoder:
    """Load a model.

    Args:
        name_or_path: the folder of a saved model (or a file in it), or that of a training run, whose best is taken.
        device: such as `cpu` or `cuda:1`; by default the first accelerator, or else the CPU.

    Raises:
        WeightsError: there is no such model, or its files are broken.
        ConfigError: there is no such device.
    """
    where = _device(device)
    model, card = load_folder(_model_folder(name_or_path))
    return DualEncoder(model.to(where), card)


def _model_folder(name_or_path: str | Path) -> Path:
    if str(name_or_path).startswith("hf-hub:"):
        raise WeightsError(f"{name_or_path}: models of the hub cannot be loaded yet; give the folder of a saved model")
    path = newest_whole(Path(name_or_path))
    if path.is_file() and path.name in (WEIGHTS_NAME, CARD_NAME):
        path = path.parent
    if path.is_file():
        raise WeightsError(f"{path}: not a model of wordsight; give a folder with {WEIGHTS_NAME} and {CARD_NAME}")
    if not path.is_dir():
        raise WeightsError(
            f"{name_or_path}: no such model{_nearest_neighbour(path)}; "
            "give the folder of a saved model or of a training run"
        )
    if is_model_folder(path):
        return path
    best = newest_whole(path / _BEST_NAME)
    if best.is_dir():
        return best
    if any((path / name).exists() for name in _RUN_FILES):
        raise WeightsError(f"{path}: the run has no model yet; it is there after the first validation")
    raise WeightsError(f"{path}: neither a model ({WEIGHTS_NAME}, {CARD_NAME}) nor a training run ({_BEST_NAME}/)")


def _nearest_neighbour(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    return nearest(path.name, [entry.name for entry in path.parent.iterdir() if entry.is_dir()])


def _device(device: str | torch.device | None) -> torch.device:
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
