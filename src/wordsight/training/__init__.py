"""Batches -> a trained run: recipe, step, loop, checkpoints, log and validation."""

from wordsight.evaluate.tasks import Evaluator
from wordsight.training.loop import Run, train
from wordsight.training.recipe import Recipe, load_recipe, recipe_path

__all__ = ["Evaluator", "Recipe", "Run", "load_recipe", "recipe_path", "train"]
