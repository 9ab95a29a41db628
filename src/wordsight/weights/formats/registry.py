"""The formats of model directories: how each is recognised, read and written.

ONNX is not among them: its graphs are never read back into a model (`onnx.py`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from wordsight.model import CLIP
from wordsight.weights.card import CARD_NAME
from wordsight.weights.checkpoint import Checkpoint
from wordsight.weights.formats import hugging_face, open_clip, openai, wordsight


class Reader(Protocol):
    """Reads a model from a directory."""

    def __call__(self, directory: Path, weights: Path | None = None, averaged: bool | None = None) -> Checkpoint:
        """Read the directory.

        Args:
            directory: contains the file that describes the model.
            weights: a weights file to read instead of the directory's.
            averaged: True or False if averaged or plain weights are required.

        Raises:
            WeightsError: a file is missing, broken or contradicts another, or there are no such weights.
        """


class Format(NamedTuple):
    """A format whose models are directories.

    Attributes:
        description_name: name of the file that describes the model, by which a directory of this format is recognised;
            empty if the format has no such file.
        weights_names: names that the weights file may have, preferred first.
        read: reads a directory.
        write: writes a float32 model into an existing directory. Raises WeightsError if the format cannot represent
            the model, and OutputError if the directory is not writable.
    """

    description_name: str
    weights_names: tuple[str, ...]
    read: Reader
    write: Callable[[Checkpoint, CLIP, Path], None]


FORMATS: dict[str, Format] = {
    "wordsight": Format(CARD_NAME, (wordsight.WEIGHTS_NAME,), wordsight.read_wordsight, wordsight.write_wordsight),
    "open_clip": Format(
        open_clip.CONFIG_NAME, open_clip.WEIGHTS_NAMES, open_clip.read_open_clip, open_clip.write_open_clip
    ),
    "hf": Format(
        hugging_face.CONFIG_NAME,
        hugging_face.WEIGHTS_NAMES,
        hugging_face.read_hugging_face,
        hugging_face.write_hugging_face,
    ),
    "openai": Format("", (openai.WEIGHTS_NAME,), openai.read_openai_directory, openai.write_openai),
}
"""Formats by the name that `convert` takes. If a directory has the description files of several, the first wins."""
