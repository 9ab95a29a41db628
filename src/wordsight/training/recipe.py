"""A recipe: everything that decides what a run learns, in one TOML file.

What step s sees depends on data, recipe, seed and s alone (design rule 1), so a recipe names steps, never minutes.
What changes only how a run is watched (workers, output directory, TensorBoard) is not in it.
"""

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from wordsight.config import Config, decode, read_toml, set_key
from wordsight.data import SourceConfig
from wordsight.errors import ConfigError, nearest
from wordsight.image import Augmentation, Preprocessing
from wordsight.model import ModelConfig, preset
from wordsight.training.optimizer import OptimizerConfig

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


class About(Config, frozen=True):
    """What a reader of `wordsight recipes` wants to know first."""

    title: str
    description: str = ""
    command: str = ""
    hardware: str = ""
    minutes: float | None = None
    scores: dict[str, str] = msgspec.field(default_factory=dict)


class ScheduleConfig(Config, frozen=True):
    """Linear warm-up, then a cosine that falls to `final_share` of the rate (Radford et al. 2021, 2.5)."""

    steps: Positive
    warmup_steps: Annotated[int, Meta(ge=0)] = 0
    final_share: Share = 0.0


class LossConfig(Config, frozen=True):
    """Score 3, and what may be added to it.

    `mask_equal_texts`: a text of the batch that is one of a image's own (a caption, or a name of its label) is no
    negative of it; `auto` does so where a source has labels for captions, in which equal texts are common.
    `caption_token_weight`: weight of the second task, in which a linear layer names the words of the image's texts (after
    SuperCLIP, arXiv 2512.14480), or 0.
    """

    mask_equal_texts: bool | Literal["auto"] = "auto"
    caption_token_weight: Annotated[float, Meta(ge=0)] = 0.0


class RetrievalSet(Config, frozen=True):
    """Captioned pairs on which recall is measured."""

    shards: str


class LabelSet(Config, frozen=True):
    """Labelled images on which the zero-shot classifier is measured."""

    shards: str
    templates: tuple[str, ...] = ("a photo of a {}.",)


class ValidationConfig(Config, frozen=True):
    """What is measured while a run goes on; the mean of the sets' selection_score figures chooses the best model."""

    every_steps: Positive = 500
    retrieval: tuple[RetrievalSet, ...] = ()
    labels: tuple[LabelSet, ...] = ()


class Recipe(Config, frozen=True):
    """One training run."""

    about: About
    model: ModelConfig | str
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    sources: tuple[SourceConfig, ...] = ()
    batch_size: Positive = 256
    accumulation: Positive = 1
    seed: Annotated[int, Meta(ge=0)] = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema_decay: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    augmentation: Augmentation = Augmentation()
    preprocessing: Preprocessing | None = None
    loss: LossConfig = LossConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every_steps: Positive = 500

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"accumulation: batch_size {self.batch_size} cannot be cut into {self.accumulation} equal parts"
            )
        if self.schedule.warmup_steps >= self.schedule.steps:
            raise ConfigError(
                f"schedule: warmup_steps {self.schedule.warmup_steps} leave nothing of {self.schedule.steps} steps"
            )
        if isinstance(self.model, str):
            preset(self.model)

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration, looked up where the recipe names a preset."""
        return preset(self.model) if isinstance(self.model, str) else self.model

    @property
    def form(self) -> Preprocessing:
        """How images reach the trained model; where the recipe does not say, CLIP's own at the model's size."""
        return self.preprocessing or Preprocessing(size_px=self.architecture.image.image_size_px)

    @property
    def masks_equal_texts(self) -> bool:
        """`loss.mask_equal_texts`, with `auto` decided."""
        if self.loss.mask_equal_texts == "auto":
            return any(source.templates for source in self.sources)
        return self.loss.mask_equal_texts


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that the package holds.

    Raises:
        ConfigError: neither; with the nearest name.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    directory = Path(str(resources.files("wordsight") / "recipes"))
    known = sorted(file.stem for file in directory.glob("*.toml"))
    if str(name) in known:
        return directory / f"{name}.toml"
    raise ConfigError(f"{name}: no such recipe{nearest(str(name), known)}; 'wordsight recipes' lists {len(known)}")


def load_recipe(name: str | Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply `--set key=value` changes.

    Raises:
        ConfigError: no such recipe, an unknown key (with the nearest one), or a value that cannot be.
    """
    path = recipe_path(name)
    tree: dict[str, Any] = read_toml(path)
    for change in changes:
        tree = set_key(tree, change)
    return decode(tree, Recipe, str(path))
