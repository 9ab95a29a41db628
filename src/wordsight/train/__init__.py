"""Batches -> a trained run: recipe, step, loop, checkpoints, log and validation."""

from wordsight.train.loop import Run, train
from wordsight.train.recipe import Recipe, load_recipe, recipe_path
from wordsight.train.validation import Evaluator

__all__ = ["Evaluator", "Recipe", "Run", "load_recipe", "recipe_path", "train"]
