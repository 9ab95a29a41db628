"""Read a model from any file or directory; the format is detected.

directory with wordsight.json           wordsight
directory with open_clip_config.json    open_clip
directory with config.json              transformers' CLIPModel or SiglipModel
TorchScript archive                     OpenAI
any other weights file                  a state dict, whose architecture is named by the caller or by the card of
                                        published weights with the same SHA-256
"""

import re
from pathlib import Path

import msgspec

from wordsight.config import differing_keys, plain
from wordsight.errors import WeightsError
from wordsight.model import ModelConfig
from wordsight.progress import phase
from wordsight.weights.certificate import check_certified
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.containers.pickle import Record
from wordsight.weights.containers.safetensors import INDEX_SUFFIX
from wordsight.weights.containers.torch_archive import is_archive, read_archive
from wordsight.weights.formats.openai import is_openai, read_openai_directory
from wordsight.weights.formats.registry import FORMATS, Format
from wordsight.weights.formats.state_dict import architecture_named, read_checkpoint
from wordsight.weights.formats.wordsight import is_run, read_run
from wordsight.weights.hub.catalogue import PublishedCard
from wordsight.weights.hub.download import card_of_file
from wordsight.weights.mistaken import UNFINISHED_SUFFIXES, mistaken_for_weights

WEIGHTS_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")

_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(\.safetensors|\.bin)")
_DISTRIBUTED_SUFFIX = ".distcp"
_MAX_KEYS_IN_ERROR = 3


def describes_model(directory: Path) -> bool:
    """Whether a directory contains a file that describes a model."""
    return _format_of(directory) is not None


@phase("loading weights")
def read(path: Path, architecture: str | None = None, averaged: bool | None = None) -> Checkpoint:
    """Read a model of any format.

    Args:
        path: a directory or a file. If `architecture` is None and the directory of a weights file describes a model,
            this description applies to the file.
        architecture: for weights that do not state their architecture, a name of `state_dict.architectures`.
        averaged: for a training checkpoint, whether to take its averaged (EMA) weights; see `read_checkpoint`.

    Raises:
        WeightsError: the path contains no weights, they are broken, or their architecture is unknown or another one
            than `architecture`.
    """
    if path.is_dir():
        return _read_directory(path, architecture, averaged)
    if not path.is_file():
        reason = mistaken_for_weights(path)
        if not reason:
            reason = "not a regular file" if path.exists() else "no such file; pass a file or a directory of weights"
        raise WeightsError(f"{path}: {reason}")
    if any(path.name == each.description_name for each in FORMATS.values()):
        return _read_directory(path.parent, architecture, averaged)
    shard = _SHARD.fullmatch(path.name)
    if shard and (index := path.with_name(f"{shard[1]}{shard[2]}{INDEX_SUFFIX}")).is_file():
        path = index
    directory_format = _format_for(path)
    if architecture is None and directory_format is not None and path.name in directory_format.weights_names:
        return directory_format.read(path.parent, path, averaged)
    return _read_file(path, architecture, averaged)


def _read_file(path: Path, architecture: str | None, averaged: bool | None) -> Checkpoint:
    """Read a file that may describe its model itself; otherwise its directory, the caller or a published card does."""
    value = read_archive(path).value if is_archive(path) else None
    if is_run(value):
        return _as_named(read_run(path, value, averaged), architecture, path)
    if is_openai(value) and (architecture is None or isinstance(value, Record)):
        return _as_named(read_openai_directory(path.parent, path, averaged), architecture, path)
    published = card_of_file(path) if architecture is None else None
    if published is not None:
        return described(read_checkpoint(path, stated_architecture(published), averaged), published)
    directory_format = _format_for(path) if architecture is None else None
    if directory_format is None:
        return read_checkpoint(path, architecture, averaged)
    try:
        return directory_format.read(path.parent, path, averaged)
    except WeightsError as error:
        raise WeightsError(
            f"{error} (read as {directory_format.description_name} describes it; if it is another model, name its "
            "architecture with --as)"
        ) from error


def _as_named(checkpoint: Checkpoint, architecture: str | None, where: Path) -> Checkpoint:
    """A checkpoint that states its architecture, unless the caller names another one."""
    if architecture is not None:
        require_architecture(checkpoint.card.model, architecture, str(where))
    return checkpoint


def require_architecture(model: ModelConfig, architecture: str, where: str) -> None:
    """Refuse a name for weights that state another architecture themselves.

    Args:
        model: the architecture that they state.
        architecture: the name, one of `state_dict.architectures`.
        where: the weights, named in errors.

    Raises:
        WeightsError: the message names the first keys that differ.
    """
    stated, named = plain(model), plain(architecture_named(architecture))
    if keys := differing_keys(stated, named):
        shown = ", ".join(keys[:_MAX_KEYS_IN_ERROR])
        raise WeightsError(
            f"{where}: states an architecture that is not {architecture} (they differ in {shown}); leave out --as, or, "
            "to override it, pass the weights file itself"
        )


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


def _described_formats(directory: Path) -> list[Format]:
    """The formats whose description files a directory contains, in the order of `FORMATS`."""
    formats = (each for each in FORMATS.values() if each.description_name)
    return [each for each in formats if (directory / each.description_name).exists()]


def _format_of(directory: Path) -> Format | None:
    """The format of a directory, by the file that describes its model; the first format in `FORMATS` wins."""
    return next(iter(_described_formats(directory)), None)


def _format_for(path: Path) -> Format | None:
    """The format in whose directory a weights file is; a format to which its name belongs is preferred."""
    formats = _described_formats(path.parent)
    return next((each for each in formats if path.name in each.weights_names), next(iter(formats), None))


def _read_directory(path: Path, architecture: str | None, averaged: bool | None) -> Checkpoint:
    directory_format = _format_of(path)
    if directory_format is not FORMATS["wordsight"]:  # whose card states the hash of its weights
        check_certified(path)
    if directory_format is not None:
        return _as_named(directory_format.read(path, None, averaged), architecture, path)
    names = sorted(file.name for file in path.iterdir())
    files = [name for name in names if name.endswith(INDEX_SUFFIX)]
    files = files or [name for name in names if Path(name).suffix in WEIGHTS_SUFFIXES]
    if len(files) == 1:
        return read(path / files[0], architecture, averaged)
    descriptions = ", ".join(each.description_name for each in FORMATS.values() if each.description_name)
    advice = "pass the directory of a model, or one weights file"
    if not files and any(name.endswith(UNFINISHED_SUFFIXES) for name in names):
        advice = "a download in it is unfinished: download the model again"
    elif not files and any(name.endswith(_DISTRIBUTED_SUFFIX) for name in names):
        advice = "convert it with torch.distributed.checkpoint.format_utils.dcp_to_torch_save"
    contents = f"{len(files)} weights files" if files else "no weights"
    raise WeightsError(f"{path}: contains {contents} and none of {descriptions}; {advice}")
