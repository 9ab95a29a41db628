"""Training: a recipe and shards in, a run directory with a trained model out.

recipe.py           what determines a run, as typed TOML; does not load torch
loop.py             `train`: opens everything and runs the steps; read this first
step.py             one optimiser step
state.py            everything that a run needs to continue; checkpoint.py saves and loads it
checks.py           what is refused or reported at the start
start.py            changes to the model from which training starts
changes.py          changes to a recipe, as `--set` makes them
run_directory.py    what a run remembers, so that it can be resumed without naming recipe and data again
init_recipe.py      a first recipe for one's own shards
sources.py          opens the shards that a recipe names
selection.py        which validation score selects the best model
optimizer.py        AdamW and parameter groups; muon.py has Muon
caption_tokens.py   the auxiliary task: caption token classification
log.py              metrics.jsonl and the progress display; event_files.py has TensorBoard
rows.py             reads metrics.jsonl; does not load torch
runs.py             reads runs to compare them; does not load torch

The names below are imported on first use if they need torch (PEP 562), so that recipes can be read without it.
"""

from typing import TYPE_CHECKING, Any

from wordsight.evaluation import Evaluator
from wordsight.training.recipe import Recipe, load_recipe, recipe_path, recipe_paths

if TYPE_CHECKING:
    from wordsight.training.loop import Run, train

__all__ = ["Evaluator", "Recipe", "Run", "load_recipe", "recipe_path", "recipe_paths", "train"]


def __getattr__(name: str) -> Any:
    if name in ("Run", "train"):
        from wordsight.training import loop

        return getattr(loop, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
