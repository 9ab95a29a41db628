"""Read a model from any file or directory; the format is detected.

directory with wordsight.json           wordsight
directory with open_clip_config.json    open_clip
directory with config.json              transformers' CLIPModel or SiglipModel
TorchScript archive                     OpenAI
any other weights file                  a state dict, whose architecture is named by the caller or by the card of
                                        published weights with the same SHA-256
"""

from pathlib import Path

import msgspec

from wordsight.errors import WeightsError
from wordsight.weights.certificate import check_certified
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.torch_archive import is_archive
from wordsight.weights.formats.openai import is_openai, read_openai
from wordsight.weights.formats.registry import FORMATS, Format
from wordsight.weights.formats.state_dict import read_checkpoint
from wordsight.weights.hub.catalogue import PublishedCard
from wordsight.weights.hub.download import card_of_file

WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


def describes_model(directory: Path) -> bool:
    """Whether a directory contains a file that describes a model."""
    return _format_of(directory) is not None


def read(path: Path, architecture: str | None = None, averaged: bool | None = None) -> Checkpoint:
    """Read a model of any format.

    Args:
        path: a directory or a file. If the directory of a weights file describes a model, and `architecture` is None,
            the directory is read instead of the file.
        architecture: for weights that do not state their architecture, a name of `state_dict.architectures`.
        averaged: for a training checkpoint, whether to take its averaged (EMA) weights; see `read_checkpoint`.

    Raises:
        WeightsError: the path contains no weights, they are broken, or their architecture is unknown.
    """
    if path.is_dir():
        return _read_directory(path, architecture, averaged)
    if not path.is_file():
        raise WeightsError(f"{path}: no such file; pass a file or a directory of weights")
    if architecture is None and path.suffix in (*WEIGHTS_SUFFIXES, ".json"):
        directory_format = _format_of(path.parent)
        if directory_format is not None:
            return directory_format.read(path.parent)
    if is_archive(path) and is_openai(path):
        return read_openai(path)
    published = card_of_file(path) if architecture is None else None
    if published is not None:
        return described(read_checkpoint(path, stated_architecture(published), averaged), published)
    return read_checkpoint(path, architecture, averaged)


def described(checkpoint: Checkpoint, published: PublishedCard) -> Checkpoint:
    """Complete a published checkpoint with the name, preprocessing, source and licence of its card in the catalogue.

    Raises:
        WeightsError: the architecture of the files differs from that of the card.
    """
    model = published.model()
    if model is not None and model != checkpoint.card.model:
        raise WeightsError(
            f"{published.name}: the architecture of the downloaded files differs from the card; download them again"
        )
    card = msgspec.structs.replace(
        checkpoint.card,
        name=published.name,
        preprocessing=published.preprocessing or checkpoint.card.preprocessing,
        source=published.address or f"hf-hub:{published.repository}",
        licence=published.licence,
    )
    return Checkpoint(checkpoint.tensors, card, checkpoint.files)


def stated_architecture(published: PublishedCard) -> str | None:
    """The architecture of a published card under open_clip's name; None if the files themselves describe it.

    open_clip's names end in `-quickgelu` if the activation is QuickGELU.
    """
    if not published.architecture:
        return None
    has_quick_gelu = published.activation == "quick_gelu"
    return f"{published.architecture}-quickgelu" if has_quick_gelu else published.architecture


def _format_of(directory: Path) -> Format | None:
    """The format of a directory, by the file that describes its model; the first format in `FORMATS` wins."""
    formats = (each for each in FORMATS.values() if each.description_name)
    return next((each for each in formats if (directory / each.description_name).exists()), None)


def _read_directory(path: Path, architecture: str | None, averaged: bool | None) -> Checkpoint:
    check_certified(path)
    directory_format = _format_of(path)
    if directory_format is not None:
        return directory_format.read(path)
    files = sorted(file for file in path.iterdir() if file.suffix in WEIGHTS_SUFFIXES)
    if len(files) != 1:
        contents = f"{len(files)} weights files" if files else "no weights"
        names = ", ".join(each.description_name for each in FORMATS.values() if each.description_name)
        raise WeightsError(
            f"{path}: contains {contents} and none of {names}; pass the directory of a model, or one weights file"
        )
    return read(files[0], architecture, averaged)
