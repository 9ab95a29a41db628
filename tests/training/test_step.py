"""Gradient accumulation with batch normalisation: each part has its own statistics, which are updated once."""

from pathlib import Path
from typing import Any

import torch

from wordsight.data import BatchPlan, Loader
from wordsight.loss import softmax_loss
from wordsight.model import to_float
from wordsight.training import load_recipe
from wordsight.training import loop as loop_module
from wordsight.training.recipe import Recipe
from wordsight.training.sources import open_sources
from wordsight.training.state import State
from wordsight.training.step import _backward


def new_state(recipe: Recipe, data: Path) -> tuple[State, Any]:
    mixture = open_sources(recipe, [data])
    state = loop_module._new_state(recipe, mixture, None, torch.device("cpu"))
    plan = BatchPlan(batch_size=recipe.batch_size, size_px=16, augmentation=recipe.augmentation)
    with Loader(mixture, state.tokens.tokenizer, plan) as loader:
        return state, next(loader)


def test_gradients_and_statistics_are_those_of_parts_with_their_own_normalisation(world: Path) -> None:
    changes = ("accumulation=4", "loss.mask_equal_texts=false", "loss.caption_token_weight=0", "ema_decay=0")
    recipe = load_recipe(world / "recipe.toml", changes)
    state, batch = new_state(recipe, world)
    _backward(state, batch, recipe)

    expected, _ = new_state(recipe, world)
    clip, preprocessing = expected.learner.clip, recipe.image_preprocessing
    pixels = to_float(batch.pixels, preprocessing.mean, preprocessing.std)
    image_NE = torch.cat([clip.encode_image(part) for part in pixels.chunk(4)])  # one pass: statistics updated once
    units = [torch.nn.functional.normalize(tower, dim=1) for tower in (image_NE, clip.encode_text(batch.ids))]
    softmax_loss(*units, clip.scale).backward()
    for (name, ours), theirs in zip(state.learner.named_parameters(), expected.learner.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5, msg=name)
    for (name, ours), theirs in zip(state.learner.named_buffers(), expected.learner.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6, msg=name)
    tracked = [value.item() for name, value in state.learner.named_buffers() if name.endswith("num_batches_tracked")]
    assert set(tracked) == {4}
