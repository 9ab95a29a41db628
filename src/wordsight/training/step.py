"""The training step: updates a state with one batch.

Read `train_step` first. The rest of the module is the auxiliary loss of caption token classification, and gradient
accumulation: the loss sees the whole batch although the encoders process it in parts (Gao et al. 2021,
arXiv 2101.06983). Loss and gradient equal those of the whole batch, unless the image tower normalises batches: then the
statistics are those of each part.
"""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wordsight.data import Batch
from wordsight.errors import TrainingError
from wordsight.loss import caption_token_loss, masked_sigmoid_loss, masked_softmax_loss, sigmoid_loss, softmax_loss
from wordsight.model import to_float
from wordsight.training.recipe import Recipe, ScheduleConfig
from wordsight.training.state import Learner, State

_KEYS_IN_ERROR = 5


@dataclass(frozen=True)
class StepMetrics:
    """The metrics of one step.

    Attributes:
        loss: the contrastive loss.
        caption_token_loss: the loss of caption token classification, before its weight; 0 without that task.
        scale: the logit scale before the step.
        gradient_norm: norm of all gradients together, before clipping.
        learning_rate: of the step.
    """

    loss: float
    caption_token_loss: float
    scale: float
    gradient_norm: float
    learning_rate: float


def learning_rate_factor(step: int, schedule: ScheduleConfig) -> float:
    """Return the factor of the peak learning rate at a step, counted from 0: linear warm-up, then half a cosine."""
    warmup_steps = schedule.num_warmup_steps
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / (schedule.steps - warmup_steps)
    return schedule.final_share + (1 - schedule.final_share) * (1 + math.cos(math.pi * progress)) / 2


def train_step(state: State, batch: Batch, recipe: Recipe) -> StepMetrics:
    """Take one optimiser step on one batch.

    Raises:
        TrainingError: loss or gradient norm is not finite; the message names the step and the batch.
    """
    learning_rate = recipe.optimizer.learning_rate * learning_rate_factor(batch.step, recipe.schedule)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.zero_grad(set_to_none=True)
    batch = _on_device(batch, state.device)
    loss, token_loss = _backward(state, batch, recipe)
    max_norm = recipe.optimizer.gradient_clip
    norm = nn.utils.clip_grad_norm_(state.learner.parameters(), math.inf if max_norm is None else max_norm)
    metrics = StepMetrics(loss.item(), token_loss.item(), state.learner.clip.scale.item(), norm.item(), learning_rate)
    if not (math.isfinite(metrics.loss + metrics.caption_token_loss) and math.isfinite(metrics.gradient_norm)):
        keys = ", ".join(batch.keys[:_KEYS_IN_ERROR])
        raise TrainingError(
            f"step {batch.step}: loss {metrics.loss}, gradient norm {metrics.gradient_norm} "
            f"on the batch of {keys}, ...; "
            "start again in another --out with a lower optimizer.learning_rate or with optimizer.gradient_clip"
        )
    state.optimizer.step()
    state.learner.clip.bound_scale_()
    state.steps += 1
    if state.ema:
        state.ema.update(state.steps)
    return metrics


def _on_device(batch: Batch, device: torch.device) -> Batch:
    if device.type == "cpu":
        return batch
    names = ("pixels", "ids", "text_numbers", "own_numbers", "own_ids")
    return replace(batch, **{name: getattr(batch, name).to(device, non_blocking=True) for name in names})


def _backward(state: State, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Add the gradients of the whole batch to the parameters, and return both losses."""
    if recipe.accumulation == 1:
        with _precision(recipe, batch):
            image_NE, text_NE = _embed(state.learner, batch.pixels, batch.ids, recipe)
        loss, token_loss = _losses(state, image_NE, text_NE, batch, recipe)
        (loss + recipe.loss.caption_token_weight * token_loss).backward()
        return loss.detach(), token_loss.detach()
    parts = list(_parts(batch, recipe.accumulation))
    buffers = [(buffer, buffer.clone()) for buffer in state.learner.buffers()]
    with torch.no_grad(), _precision(recipe, batch):
        embedded = [_embed(state.learner, pixels, ids, recipe) for pixels, ids in parts]
        for buffer, before in buffers:  # statistics of batch normalisation, which the second pass updates
            buffer.copy_(before)
    image_NE, text_NE = (torch.cat(tower).requires_grad_() for tower in zip(*embedded, strict=True))
    loss, token_loss = _losses(state, image_NE, text_NE, batch, recipe)
    (loss + recipe.loss.caption_token_weight * token_loss).backward()
    size = len(parts[0][1])
    for (pixels, ids), image_grad, text_grad in zip(
        parts, _gradient(image_NE).split(size), _gradient(text_NE).split(size), strict=True
    ):
        with _precision(recipe, batch):
            image, text = _embed(state.learner, pixels, ids, recipe)
        torch.autograd.backward([image, text], [image_grad, text_grad])
    return loss.detach(), token_loss.detach()


def _parts(batch: Batch, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(batch.pixels.chunk(count), batch.ids.chunk(count), strict=True)


def _gradient(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def _embed(learner: Learner, pixels: Tensor, ids: Tensor, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return the embeddings of both encoders, (n, E) float32, before normalisation."""
    preprocessing = recipe.image_preprocessing
    images = learner.clip.encode_image(to_float(pixels, preprocessing.mean, preprocessing.std))
    return images.float(), learner.clip.encode_text(ids).float()


def _losses(state: State, image_NE: Tensor, text_NE: Tensor, batch: Batch, recipe: Recipe) -> tuple[Tensor, Tensor]:
    image_unit_NE = nn.functional.normalize(image_NE, dim=-1)
    text_unit_NE = nn.functional.normalize(text_NE, dim=-1)
    loss = _contrastive_loss(state, image_unit_NE, text_unit_NE, batch, recipe)
    if state.caption_tokens is None or state.learner.caption_head is None:
        return loss, loss.new_zeros(())
    logits_NV = state.learner.caption_head(image_NE)
    return loss, caption_token_loss(logits_NV, state.caption_tokens.targets(batch.own_ids.flatten(1)))


def _contrastive_loss(state: State, image_NE: Tensor, text_NE: Tensor, batch: Batch, recipe: Recipe) -> Tensor:
    """Return the recipe's loss of unit embeddings: sigmoid for a model with a logit bias, otherwise softmax."""
    clip = state.learner.clip
    if recipe.uses_sigmoid_loss:
        if recipe.masks_equal_texts:
            return masked_sigmoid_loss(image_NE, text_NE, clip.scale, clip.logit_bias, batch.is_own_text())
        return sigmoid_loss(image_NE, text_NE, clip.scale, clip.logit_bias)
    if recipe.masks_equal_texts:
        return masked_softmax_loss(image_NE, text_NE, clip.scale, batch.is_own_text())
    return softmax_loss(image_NE, text_NE, clip.scale)


def _precision(recipe: Recipe, batch: Batch) -> AbstractContextManager[object]:
    """Autocast to bfloat16 on accelerators; many CPUs are slower in bfloat16 than in float32."""
    if recipe.precision == "float32" or (recipe.precision == "auto" and batch.pixels.device.type == "cpu"):
        return nullcontext()
    return torch.autocast(batch.pixels.device.type, dtype=torch.bfloat16)
