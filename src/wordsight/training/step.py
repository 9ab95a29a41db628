"""The training step: a batch and a state in, the state one step on.

Read `train_step` first. Two things hang on it: the second task of caption words, and accumulation, which is exact: the
loss sees the whole batch although the towers see it in parts (Gao et al. 2021, arXiv 2101.06983).
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wordsight.data import Batch
from wordsight.errors import TrainingError
from wordsight.loss import caption_token_loss, masked_softmax_loss, softmax_loss
from wordsight.model import to_float
from wordsight.training.recipe import Recipe, ScheduleConfig
from wordsight.training.state import Learner, State

_KEYS_IN_ERROR = 5


@dataclass(frozen=True)
class StepMetrics:
    """What one step reports: loss, the words' loss, logit scale, gradient norm and rate."""

    loss: float
    words_loss: float
    scale: float
    gradient_norm: float
    learning_rate: float


def rate_at(step: int, schedule: ScheduleConfig) -> float:
    """The share of the learning rate at a step counted from 0: linear warm-up, then half a cosine."""
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    through = (step - schedule.warmup_steps) / (schedule.steps - schedule.warmup_steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + math.cos(math.pi * through)) / 2


def train_step(state: State, batch: Batch, recipe: Recipe) -> StepMetrics:
    """Take one optimiser step on one batch.

    Raises:
        TrainingError: the loss is not finite; the message names step and batch.
    """
    rate = recipe.optimizer.learning_rate * rate_at(batch.step, recipe.schedule)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    state.optimizer.zero_grad(set_to_none=True)
    batch = _on_device(batch, state.device)
    loss, words_loss = _backward(state, batch, recipe)
    clip_at = recipe.optimizer.gradient_clip
    norm = nn.utils.clip_grad_norm_(state.learner.parameters(), math.inf if clip_at is None else clip_at)
    figures = StepMetrics(loss.item(), words_loss.item(), state.learner.clip.scale.item(), norm.item(), rate)
    if not (math.isfinite(figures.loss + figures.words_loss) and math.isfinite(figures.gradient_norm)):
        keys = ", ".join(batch.keys[:_KEYS_IN_ERROR])
        raise TrainingError(
            f"step {batch.step}: loss {figures.loss}, gradient norm {figures.gradient_norm} "
            f"on the batch of {keys}, ...: "
            "lower optimizer.learning_rate or set optimizer.gradient_clip, then go on with --resume"
        )
    state.optimizer.step()
    state.learner.clip.bound_scale_()
    state.steps += 1
    if state.average:
        state.average.update(state.steps)
    return figures


def _on_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    names = ("pixels", "ids", "text_numbers", "own_numbers", "own_ids")
    return replace(batch, **{name: getattr(batch, name).to(device, non_blocking=True) for name in names})


def _backward(state: State, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Add the gradients of the whole batch to the parameters; return the two losses."""
    if recipe.accumulation == 1:
        with _precision(recipe, batch):
            image_NE, text_NE = _embed(state.learner, batch.pixels, batch.ids, recipe)
        loss, words_loss = _losses(state, image_NE, text_NE, batch, recipe)
        (loss + recipe.loss.caption_token_weight * words_loss).backward()
        return loss.detach(), words_loss.detach()
    parts = list(_parts(batch, recipe.accumulation))
    with torch.no_grad(), _precision(recipe, batch):
        embedded = [_embed(state.learner, pixels, ids, recipe) for pixels, ids in parts]
    image_NE, text_NE = (torch.cat(tower).requires_grad_() for tower in zip(*embedded, strict=True))
    loss, words_loss = _losses(state, image_NE, text_NE, batch, recipe)
    (loss + recipe.loss.caption_token_weight * words_loss).backward()
    size = len(parts[0][1])
    for (pixels, ids), image_grad, text_grad in zip(
        parts, _gradient(image_NE).split(size), _gradient(text_NE).split(size), strict=True
    ):
        with _precision(recipe, batch):
            image, text = _embed(state.learner, pixels, ids, recipe)
        torch.autograd.backward([image, text], [image_grad, text_grad])
    return loss.detach(), words_loss.detach()


def _parts(batch: Batch, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(batch.pixels.chunk(count), batch.ids.chunk(count), strict=True)


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _embed(learner: Learner, pixels: Tensor, ids: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Embeddings (n, E) float32 of both towers, before normalisation."""
    images = learner.clip.encode_image(to_float(pixels, recipe.form.mean, recipe.form.std))
    return images.float(), learner.clip.encode_text(ids).float()


def _losses(state: State, image_NE: Tensor, text_NE: Tensor, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
    image_unit_NE = nn.functional.normalize(image_NE, dim=-1)
    text_unit_NE = nn.functional.normalize(text_NE, dim=-1)
    scale = state.learner.clip.scale
    if recipe.masks_equal_texts:
        loss = masked_softmax_loss(image_unit_NE, text_unit_NE, scale, batch.is_own_text())
    else:
        loss = softmax_loss(image_unit_NE, text_unit_NE, scale)
    if state.words is None or state.learner.words is None:
        return loss, loss.new_zeros(())
    return loss, caption_token_loss(state.learner.words(image_NE), state.words.targets(batch.own_ids.flatten(1)))


def _precision(recipe: Recipe, batch: Batch) -> AbstractContextManager[object]:
    """bfloat16 on accelerators; many CPUs are slower in it than in float32."""
    if recipe.precision == "float32" or (recipe.precision == "auto" and batch.pixels.device.type == "cpu"):
        return nullcontext()
    return torch.autocast(batch.pixels.device.type, dtype=torch.bfloat16)
