"""Recipes: everything that determines what a run learns, in one TOML file.

Step s depends only on data, recipe, seed and s (docs/explanation/determinism.md), so the length of a run is given in
steps, never in minutes. Settings that change only how a run is executed or observed (workers, output directory,
TensorBoard) are not part of a recipe. This module does not load torch.
"""

from importlib import resources
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta

from wordsight.config import Config, check_keys, decode, read_toml
from wordsight.data import SourceConfig
from wordsight.errors import ConfigError, nearest
from wordsight.image import Augmentation, Preprocessing
from wordsight.metrics import Score
from wordsight.model import ModelConfig, preset
from wordsight.training.changes import apply_changes

_MAX_FLOAT = 1e30  # far beyond any useful setting, and far from overflow
_MAX_BATCH = 1 << 20  # thirty times the batch of the paper
_MAX_STEPS = 1 << 40  # more than a century of steps
_MAX_SEED = (1 << 64) - 1  # the key of the generators

START = "start"
"""The value of `model` for recipes that only train an existing model."""

PositiveInt = Annotated[int, Meta(ge=1, le=_MAX_STEPS)]
PositiveFloat = Annotated[float, Meta(gt=0, le=_MAX_FLOAT)]
NonNegativeInt = Annotated[int, Meta(ge=0)]
NonNegativeFloat = Annotated[float, Meta(ge=0, le=_MAX_FLOAT)]
Proportion = Annotated[float, Meta(ge=0, le=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]


class About(Config, frozen=True):
    """The description of a recipe, which `wordsight recipes` prints; it has no influence on the run.

    The `recipe.toml` of a run has its own description: what was measured for the recipe does not hold for a run of it.

    Attributes:
        title: name of the recipe; also the name of the trained model. A run that starts from a model, or whose recipe
            was changed on the command line, is named after its directory.
        recipe: in a run, the title of its recipe.
        source_model: in a run, the model from which training started.
        description: what is trained, on which data.
        command: the command that runs the recipe; in a run, the one that started it.
        exports: formats of `wordsight convert` in which the trained model can be written.
        hardware: the machine on which `minutes` was measured.
        minutes: measured duration of the run.
        scores: measured results, each with the keys `dataset`, `metric`, `value`, `low`, `high`, `n`, `chance` and
            `method` of a `wordsight.metrics.Score`, and `unreadable` if some images could not be read.

    Raises:
        ConfigError: a score is not in its interval.
    """

    title: str
    recipe: str = ""
    source_model: str = ""
    description: str = ""
    command: str = ""
    exports: tuple[str, ...] = ()
    hardware: str = ""
    minutes: float | None = None
    scores: tuple[Score, ...] = ()

    def __post_init__(self) -> None:
        for score in self.scores:
            if not 0 <= score.low <= score.value <= score.high <= 1:
                raise ConfigError(
                    f"about.scores: {score.dataset} {score.metric}: expected 0 <= low <= value <= high <= 1, found low "
                    f"{score.low}, value {score.value}, high {score.high}"
                )


class ScheduleConfig(Config, frozen=True):
    """Learning rate schedule: linear warm-up, then half a cosine (Radford et al. 2021, 2.5).

    Attributes:
        steps: number of optimiser steps.
        warmup_steps: number of steps during which the learning rate rises linearly; less than `steps`.
        warmup_share: the same as a fraction of `steps`, rounded, so that the warm-up follows another number of steps;
            instead of `warmup_steps`.
        final_share: learning rate after the last step, as a fraction of `optimizer.learning_rate`.

    Raises:
        ConfigError: the warm-up is given twice, or is not shorter than the run.
    """

    steps: PositiveInt
    warmup_steps: NonNegativeInt = 0
    warmup_share: Annotated[float, Meta(ge=0, lt=1)] | None = None
    final_share: Proportion = 0.0

    def __post_init__(self) -> None:
        if self.warmup_share is not None and self.warmup_steps:
            raise ConfigError(
                f"schedule: warmup_steps {self.warmup_steps} and warmup_share {self.warmup_share} contradict each "
                "other; keep one of them"
            )
        if self.warmup_steps >= self.steps:
            raise ConfigError(
                f"schedule: warmup_steps {self.warmup_steps} must be less than steps {self.steps}; set it too, or set "
                "warmup_steps = 0 and warmup_share = 0.05"
            )

    @property
    def num_warmup_steps(self) -> int:
        """The number of steps of the warm-up, given as a number or as a share."""
        return self.warmup_steps if self.warmup_share is None else round(self.warmup_share * self.steps)


class OptimizerConfig(Config, frozen=True):
    """AdamW (Loshchilov and Hutter 2019), optionally with Muon; defaults are those of table 18 for vision transformers.

    Attributes:
        learning_rate: peak learning rate, reached after the warm-up.
        weight_decay: decoupled weight decay of all parameters with two or more dimensions.
        beta1: decay rate of AdamW's first moment.
        beta2: decay rate of AdamW's second moment.
        epsilon: added to the denominator of AdamW's update.
        gradient_clip: maximum norm of all gradients together; none by default.
        matrices: optimiser of linear layers, convolutions and projections: `adamw`, like all other parameters, or
            `muon`.
        momentum: momentum of Muon.
    """

    learning_rate: PositiveFloat
    weight_decay: NonNegativeFloat = 0.2
    beta1: Decay = 0.9
    beta2: Decay = 0.98
    epsilon: PositiveFloat = 1e-6
    gradient_clip: PositiveFloat | None = None
    matrices: Literal["adamw", "muon"] = "adamw"
    momentum: Annotated[float, Meta(gt=0, lt=1)] = 0.95


class LossConfig(Config, frozen=True):
    """The contrastive loss, and optional additions to it.

    Attributes:
        kind: `softmax`, the loss of the paper's figure 3; `sigmoid`, SigLIP's (arXiv 2303.15343), for models with
            `model.logit_bias`; or `auto`: `sigmoid` for these models and `softmax` for all others.
        mask_equal_texts: exclude an image's own texts (its captions, or the names of its label) from its negatives;
            `auto` does so if any source has templates, because equal texts are then common.
        caption_token_weight: weight of caption token classification, an auxiliary task in which a linear layer
            predicts the tokens of an image's captions (after SuperCLIP, arXiv 2512.14480); 0 disables it.
    """

    kind: Literal["auto", "softmax", "sigmoid"] = "auto"
    mask_equal_texts: bool | Literal["auto"] = "auto"
    caption_token_weight: NonNegativeFloat = 0.0


class RetrievalSet(Config, frozen=True):
    """Captioned images on which recall@1, @5 and @10 are measured in both directions.

    Attributes:
        shards: path, address or name of the shards, as for a source; the last component of the path is the name of
            the dataset in scores.
    """

    shards: str


class LabelSet(Config, frozen=True):
    """Labelled images on which zero-shot accuracy is measured.

    Attributes:
        shards: path, address or name of the shards, as for a source; the last component of the path is the name of
            the dataset in scores.
        templates: prompt templates of the zero-shot classifier, each with one `{}`; images without labels need none.
    """

    shards: str
    templates: tuple[str, ...] = ("a photo of a {}.",)


class ValidationConfig(Config, frozen=True):
    """What is measured during a run, and which score selects the best model.

    A run that starts from a model is validated before its first step too.

    Attributes:
        every_steps: number of steps between two validations; the last step is always validated.
        selection_metric: name of the metric that selects the best model, such as `image_to_text_recall@10` or
            `accuracy`, averaged over the datasets that report it; `dataset/metric` for one of them; or `auto`:
            `image_to_text_recall@10` if a set has captions, otherwise `accuracy`. Without it, the last model is the
            best. Required if there are validation sets.
        sets: sets of images with captions or labels; the data decides what is measured: recall where images have
            captions, zero-shot accuracy where they have labels, both if they have both.
        retrieval: sets of captioned images.
        labels: sets of labelled images.
        max_unreadable_share: the run does not start if a larger share of the images of a set is unreadable; those below
            are counted in each score's `unreadable`.

    Raises:
        ConfigError: there are validation sets but no selection metric.
    """

    every_steps: PositiveInt = 500
    selection_metric: str | None = None
    sets: tuple[LabelSet, ...] = ()
    retrieval: tuple[RetrievalSet, ...] = ()
    labels: tuple[LabelSet, ...] = ()
    max_unreadable_share: Proportion = 0.1

    def __post_init__(self) -> None:
        if (self.sets or self.retrieval or self.labels) and self.selection_metric is None:
            example = "auto" if self.sets else "image_to_text_recall@10" if self.retrieval else "accuracy"
            raise ConfigError(
                "validation: there are validation sets but no selection_metric, so no score selects the best model; "
                f'add selection_metric = "{example}" to [validation]'
            )


class Recipe(Config, frozen=True):
    """One training run.

    Attributes:
        about: title, description and measured results.
        model: the architecture, as a table or as the name of a preset such as `ViT-B-32`; or `start`, for recipes that
            only train the model of `--from`, whose architecture replaces the recipe's in any case.
        schedule: number of steps and learning rate schedule.
        optimizer: the optimiser and its constants.
        sources: the shards to train on; by default all shards given with `--data`, weighted by size.
        batch_size: number of pairs per step, at least 2.
        accumulation: number of equal parts in which a batch passes through the encoders, to save memory; the loss still
            sees the whole batch. The statistics of batch normalisation (in `residual` and `modified_resnet` towers) are
            those of each part, so that only other towers take the same step as with the whole batch.
        seed: seed of the initial weights, the order of samples, captions and crops.
        precision: `float32`, `bfloat16` (autocast), or `auto`: bfloat16 on accelerators, float32 on CPUs.
        ema_decay: decay of the exponential moving average of the weights, which is evaluated and saved; 0 disables it.
        augmentation: how training crops are drawn; a source may override it.
        preprocessing: how images are prepared for the trained model; by default CLIP's preprocessing at
            `model.image.image_size_px`.
        loss: the contrastive loss and its additions.
        validation: what is measured during the run, and how the best model is selected.
        checkpoint_every_steps: number of steps between two checkpoints.
        max_broken_share: the run stops if a larger share of the distinct samples that were read from a source is
            broken; this is checked after 100 of them, or after all if there are fewer. Up to this share, broken samples
            are replaced by others and listed in `broken.jsonl`.

    Raises:
        ConfigError: keys contradict each other, or `model` is not a preset.
    """

    synonyms: ClassVar[dict[str, str]] = {
        "architecture": "model",
        "batch": "batch_size",
        "bs": "batch_size",
        "clip_grad": "optimizer.gradient_clip",
        "grad_clip": "optimizer.gradient_clip",
        "max_grad_norm": "optimizer.gradient_clip",
        "betas": "it is two keys of [optimizer]: beta1 and beta2",
        "data": "data is not part of a recipe: name shards in [[sources]], and pass --data DIR",
        "eps": "optimizer.epsilon",
        "epoch": "recipes count steps: schedule.steps = epochs * samples / batch_size",
        "epochs": "recipes count steps: schedule.steps = epochs * samples / batch_size",
        "num_epochs": "recipes count steps: schedule.steps = epochs * samples / batch_size",
        "eval_every": "validation.every_steps",
        "eval_steps": "validation.every_steps",
        "val": "validation",
        "grad_accum": "accumulation",
        "accum_freq": "accumulation",
        "gradient_accumulation_steps": "accumulation",
        "image_size": "model.image.image_size_px",
        "iterations": "schedule.steps",
        "iters": "schedule.steps",
        "max_steps": "schedule.steps",
        "num_steps": "schedule.steps",
        "train_steps": "schedule.steps",
        "learning-rate": "optimizer.learning_rate",
        "lr": "optimizer.learning_rate",
        "max_lr": "optimizer.learning_rate",
        "min_lr": "schedule.final_share, a fraction of optimizer.learning_rate, is its counterpart",
        "metric": "validation.selection_metric",
        "monitor": "validation.selection_metric",
        "name": "about.title",
        "optim": "optimizer",
        "save_every": "checkpoint_every_steps",
        "save_steps": "checkpoint_every_steps",
        "warmup": "schedule.warmup_steps",
        "warmup_ratio": "schedule.warmup_share",
        "wd": "optimizer.weight_decay",
        "workers": "it does not change the result, so it is an option: --workers N",
        "device": "it is not part of a recipe but an option: --device DEVICE",
    }

    about: About
    model: ModelConfig | str
    schedule: ScheduleConfig
    optimizer: OptimizerConfig
    sources: tuple[SourceConfig, ...] = ()
    batch_size: Annotated[int, Meta(ge=1, le=_MAX_BATCH)] = 256
    accumulation: PositiveInt = 1
    seed: NonNegativeInt = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    ema_decay: Decay = 0.0
    augmentation: Augmentation = Augmentation()
    preprocessing: Preprocessing | None = None
    loss: LossConfig = LossConfig()
    validation: ValidationConfig = ValidationConfig()
    checkpoint_every_steps: PositiveInt = 500
    max_broken_share: Proportion = 0.02

    def __post_init__(self) -> None:
        if self.batch_size == 1:
            raise ConfigError("batch_size 1: the contrastive loss compares the pairs of a batch; expected at least 2")
        if self.seed > _MAX_SEED:
            raise ConfigError(f"seed {self.seed}: expected 0 to 2**64 - 1")
        if self.batch_size % self.accumulation:
            raise ConfigError(f"accumulation: batch_size {self.batch_size} is not a multiple of {self.accumulation}")
        if isinstance(self.model, str) and self.model != START:
            preset(self.model)

    @property
    def architecture(self) -> ModelConfig:
        """The model's configuration; a preset's name is resolved."""
        return preset(self.model) if isinstance(self.model, str) else self.model

    @property
    def image_preprocessing(self) -> Preprocessing:
        """`preprocessing`, or by default CLIP's preprocessing at the model's size."""
        return self.preprocessing or Preprocessing(size_px=self.architecture.image.image_size_px)

    @property
    def uses_sigmoid_loss(self) -> bool:
        """`loss.kind` with `auto` resolved."""
        return self.architecture.logit_bias if self.loss.kind == "auto" else self.loss.kind == "sigmoid"

    @property
    def masks_equal_texts(self) -> bool:
        """`loss.mask_equal_texts` with `auto` resolved."""
        if self.loss.mask_equal_texts == "auto":
            return any(source.templates or source.label_templates for source in self.sources)
        return self.loss.mask_equal_texts

    def without_about(self) -> "Recipe":
        """Return this recipe with an empty `about`: equal for recipes that train the same model."""
        return msgspec.structs.replace(self, about=About(title=""))


def recipe_paths() -> dict[str, Path]:
    """Return the recipes of the package: name -> file."""
    directory = Path(str(resources.files("wordsight") / "recipes"))
    return {path.stem: path for path in sorted(directory.glob("*.toml"))}


def recipe_path(name: str | Path) -> Path:
    """Return the file of a recipe.

    Args:
        name: a path, or the name of one of the package's recipes.

    Raises:
        ConfigError: neither a file nor a known name; the message suggests the nearest name.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.is_file():
        return path
    paths = recipe_paths()
    if str(name) not in paths:
        raise ConfigError(f"{name}: no such recipe; known: {', '.join(paths) or 'none'}{nearest(str(name), paths)}")
    return paths[str(name)]


def load_recipe(name: str | Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply changes to it.

    Args:
        name: a path, or the name of one of the package's recipes.
        changes: `dotted.key=value`, as for the option `--set`.

    Raises:
        ConfigError: no such recipe, unknown or missing keys (the message lists all of them), or an invalid value.
    """
    path = recipe_path(name)
    data = apply_changes(read_toml(path), changes)
    recipe = decode(data, Recipe, str(path))
    check_keys(data, Recipe, str(path))  # scores are dataclasses, whose unknown keys are not errors of `decode`
    return recipe
