"""Load the model that a command's options describe."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wordsight.encoder import DualEncoder


@dataclass(frozen=True)
class ModelOptions:
    """The values of `--model` and of the options that determine how it is loaded and run; can be pickled.

    Attributes:
        name: value of `--model`.
        architecture: value of `--as`.
        averaged: True for `--averaged`, False for `--plain`.
        device, runtime, decoding, policy, batch_size, mirror: values of the options of these names.
    """

    name: str
    architecture: str | None = None
    averaged: bool | None = None
    device: str | None = None
    runtime: str = "torch"
    decoding: str | None = None
    policy: str = "viewer"
    batch_size: int | None = None
    mirror: str | None = None

    def load(self, progress: Callable[[int, int | None], None] | None = None) -> "DualEncoder":
        """Load the model; `progress` and errors as for `wordsight.load`."""
        from wordsight.encoder import load

        options: dict[str, Any] = {
            "architecture": self.architecture,
            "averaged": self.averaged,
            "device": self.device,
            "runtime": self.runtime,
            "decoding": self.decoding,
            "policy": self.policy,
            "batch_size": self.batch_size,
            "mirror": self.mirror,
        }
        return load(self.name, progress=progress, **options)

    def with_absolute_path(self) -> "ModelOptions":
        """The same options with a local model named by its absolute path, for processes in other directories."""
        path = Path(self.name)
        return replace(self, name=str(path.resolve())) if path.exists() else self


def load_model(options: ModelOptions, quiet: bool = False) -> "DualEncoder":
    """Load a model and show the progress of its download."""
    from wordsight.cli.terminal import show_byte_progress

    with show_byte_progress(quiet) as progress:
        return options.load(progress)
