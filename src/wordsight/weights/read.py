"""Any file or directory of weights to a model's parts: which format it is, is told by what lies there.

a directory with wordsight.json          ours
a directory with open_clip_config.json   open_clip's
a directory with config.json             transformers' CLIPModel or SiglipModel
a TorchScript archive                 OpenAI's
other files                           weights alone: of an architecture that is named, or of a card that knows them
"""

from collections.abc import Callable
from pathlib import Path

import msgspec

from wordsight.errors import WeightsError
from wordsight.weights.card import CARD_NAME
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.torch_archive import is_archive
from wordsight.weights.formats.hugging_face import CONFIG_NAME as HUGGING_FACE_NAME
from wordsight.weights.formats.hugging_face import read_hugging_face
from wordsight.weights.formats.open_clip import CONFIG_NAME as OPEN_CLIP_NAME
from wordsight.weights.formats.open_clip import read_open_clip
from wordsight.weights.formats.openai import is_openai, read_openai
from wordsight.weights.formats.state_dict import read_checkpoint
from wordsight.weights.formats.wordsight import read_wordsight
from wordsight.weights.hub.catalogue import PublishedCard
from wordsight.weights.hub.download import card_of_file

WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")

_DIRECTORYS: dict[str, Callable[[Path], Checkpoint]] = {
    CARD_NAME: read_wordsight,
    OPEN_CLIP_NAME: read_open_clip,
    HUGGING_FACE_NAME: read_hugging_face,
}
"""By the file that describes a model, who reads its directory; the first that is there counts."""


def describes_model(directory: Path) -> bool:
    """Whether a directory has a file that describes a model."""
    return any((directory / name).exists() for name in _DIRECTORYS)


def read(path: Path, architecture: str | None = None, averaged: bool | None = None) -> Checkpoint:
    """Read a model, whatever its format.

    Args:
        path: a directory, or a file; a file beside a description of its model is read with it.
        architecture: of weights that do not say theirs, a name of `checkpoints.architectures`.
        averaged: of a training checkpoint, whether to take the averaged weights; see `read_checkpoint`.

    Raises:
        WeightsError: not weights, broken, or they do not say what they are.
    """
    if path.is_dir():
        return _read_directory(path, architecture, averaged)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; give a file or a directory of weights")
    if architecture is None and path.suffix in (*WEIGHTS_SUFFIXES, ".json"):
        for name, reader in _DIRECTORYS.items():
            if (path.parent / name).exists():
                return reader(path.parent)
    if is_archive(path) and is_openai(path):
        return read_openai(path)
    known = card_of_file(path) if architecture is None else None
    if known is not None:
        return described(read_checkpoint(path, stated_architecture(known), averaged), known)
    return read_checkpoint(path, architecture, averaged)


def described(found: Checkpoint, known: PublishedCard) -> Checkpoint:
    """A published model with what its card knows beyond its files: name, preprocessing, licence, source.

    Raises:
        WeightsError: the files are those of another architecture.
    """
    model = known.model()
    if model is not None and model != found.card.model:
        raise WeightsError(f"{known.name}: the files that were fetched are another architecture's; fetch them again")
    card = msgspec.structs.replace(
        found.card,
        name=known.name,
        preprocessing=known.preprocessing or found.card.preprocessing,
        source=known.address or f"hf-hub:{known.repository}",
        licence=known.licence,
    )
    return Checkpoint(found.tensors, card, found.files)


def _read_directory(path: Path, architecture: str | None, averaged: bool | None) -> Checkpoint:
    for name, reader in _DIRECTORYS.items():
        if (path / name).exists():
            return reader(path)
    files = _weights_in(path)
    if len(files) != 1:
        said = f"{len(files)} files of weights" if files else "no weights"
        raise WeightsError(
            f"{path}: {said} and none of {', '.join(_DIRECTORYS)}; give a directory that holds a model, or one file"
        )
    return read(files[0], architecture, averaged)


def _weights_in(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in WEIGHTS_SUFFIXES)


def stated_architecture(known: PublishedCard) -> str | None:
    """A card's preset under the name that open_clip gives to its activation; None where the files say it."""
    if not known.architecture:
        return None
    return f"{known.architecture}-quickgelu" if known.activation == "quick_gelu" else known.architecture
