"""The training loop. `train` opens everything; `_run_steps` is the loop itself.

A run directory contains

    recipe.toml     the recipe, with changes applied
    metrics.jsonl   metrics of steps and scores of validations
    checkpoint.pt   everything that `--resume` needs
    broken.jsonl    samples that could not be used, with the reasons, if any
    best/, last/    models that `wordsight.load` opens; `best` has the best value of the recipe's selection metric
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import torch

from wordsight.config import to_toml
from wordsight.data import BatchPlan, Loader, Mixture
from wordsight.encoder import DualEncoder, load
from wordsight.encoder.devices import parse_device
from wordsight.errors import OutputError, counted
from wordsight.evaluate import Evaluator
from wordsight.files import lock, make_directory, recover_directory, remove_partial, write_atomic
from wordsight.metrics import Score
from wordsight.model import build, build_empty
from wordsight.text import build_tokenizer
from wordsight.training.caption_tokens import CaptionTokens
from wordsight.training.checkpoint import load_checkpoint, save_checkpoint
from wordsight.training.log import RunLog
from wordsight.training.optimizer import build_optimizer
from wordsight.training.recipe import Recipe, load_recipe
from wordsight.training.selection import selection_value
from wordsight.training.sources import open_evaluators, open_sources
from wordsight.training.state import EMA, Learner, RunIdentity, State, Tokens
from wordsight.training.step import train_step
from wordsight.weights import Card, TokenizerConfig

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: the run directory, which `wordsight.load` opens.
        steps: number of steps taken.
        best_step: the step of the best model: the one with the highest value of the recipe's selection metric, or the
            last one if the recipe has none.
        best_scores: the validation scores of the best model.
    """

    directory: Path
    steps: int
    best_step: int
    best_scores: tuple[Score, ...]


def train(
    recipe: str | Path | Recipe,
    data: Sequence[str | Path] | str | Path,
    out: str | Path,
    start: str | Path | DualEncoder | None = None,
    resume: bool = False,
    workers: int = 1,
    evaluators: Sequence[Evaluator] = (),
    tensorboard: bool = False,
    device: str | torch.device | None = None,
) -> Run:
    """Train a model according to a recipe.

    Args:
        recipe: a file, the name of a recipe listed by `wordsight recipes`, or a `Recipe`.
        data: directories of shards, or a directory of such directories.
        out: the run directory.
        start: a model to start from, or its name or path as for `wordsight.load`; it replaces the recipe's architecture
            and preprocessing and determines the tokenizer.
        resume: continue exactly from the checkpoint in `out`; if there is none, start a new run.
        workers: number of threads that prepare batches; it has no influence on the result.
        evaluators: additional evaluators, called at every validation after those of the recipe.
        tensorboard: also write TensorBoard event files (extra `log`).
        device: such as `cpu` or `cuda:1`; by default the first accelerator, or the CPU if there is none.

    Raises:
        ConfigError: there is no such device, recipe and data do not match, the resumed run had another configuration,
            or no evaluator reports the recipe's selection metric.
        DataError: shards are missing, or too many samples are broken.
        OutputError: `out` contains a run and `resume` is False, or `out` is not writable.
        TrainingError: the loss is not finite.
        KeyboardInterrupt: stopped by SIGINT or SIGTERM; the checkpoint is saved.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    torch_device = parse_device(device)
    start_model = load(start, device="cpu") if isinstance(start, str | Path) else start
    if start_model is not None:
        card = start_model.card
        recipe = msgspec.structs.replace(recipe, model=card.model, preprocessing=card.preprocessing)
    directories = [data] if isinstance(data, str | Path) else list(data)
    mixture = open_sources(recipe, directories)
    all_evaluators = [*open_evaluators(recipe, directories), *evaluators]
    directory = make_directory(Path(out))
    with lock(directory / ".lock"):
        state = _prepare(recipe, mixture, start_model, directory, resume, torch_device)
        log = RunLog(directory, state.steps, recipe.schedule.steps, tensorboard)
        try:
            with _stop_requests() as stop, _loader(recipe, mixture, state, workers) as loader:
                try:
                    _run_steps(state, recipe, loader, all_evaluators, directory, log, stop)
                finally:
                    _list_broken(loader, directory, log)
        finally:
            log.close()
    return Run(directory, state.steps, state.best_step, state.best_scores)


def _run_steps(
    state: State,
    recipe: Recipe,
    loader: Loader,
    evaluators: Sequence[Evaluator],
    directory: Path,
    log: RunLog,
    stop: "_Stop",
) -> None:
    """Take the remaining steps, with validations and checkpoints as the recipe says."""
    while state.steps < recipe.schedule.steps:
        begin = time.perf_counter()
        batch = next(loader)
        waited_s = time.perf_counter() - begin
        metrics = train_step(state, batch, recipe)
        log.step(state.steps, metrics, recipe.batch_size, waited_s)
        is_last = state.steps == recipe.schedule.steps
        if is_last or state.steps % recipe.validation.every_steps == 0:
            _validate(state, recipe, evaluators, directory, log)
        if is_last or stop.requested or state.steps % recipe.checkpoint_every_steps == 0:
            save_checkpoint(directory / CHECKPOINT, state)
        if stop.requested and not is_last:
            log.print(f"stopped after step {state.steps}; the checkpoint is saved, and a resumed run continues from it")
            raise KeyboardInterrupt


def _list_broken(loader: Loader, directory: Path, log: RunLog) -> None:
    """Add the broken samples that the loader replaced to `broken.jsonl`, and print their number."""
    path = directory / "broken.jsonl"
    previous = path.read_bytes().splitlines() if path.exists() else []
    rows = dict.fromkeys([*previous, *(msgspec.json.encode(broken) for broken in loader.broken)])
    if rows:
        write_atomic(path, b"".join(row + b"\n" for row in rows))
        log.print(f"replaced by others: {counted(len(rows), 'broken sample')}; see {path} for the reasons")


def _validate(state: State, recipe: Recipe, evaluators: Sequence[Evaluator], directory: Path, log: RunLog) -> None:
    """Evaluate the model and save it as `last`; also as `best` if it is the best so far."""
    model = build_empty(recipe.architecture)
    model.load_state_dict(state.weights(), assign=True)
    model.eval().requires_grad_(False)
    encoder = DualEncoder(model, _card(state, recipe, ()), files=state.tokens.files)
    scores = tuple(score for evaluator in evaluators for score in evaluator(encoder, state.steps))
    log.scores(state.steps, scores)
    metric = recipe.validation.selection_metric
    value = None if metric is None else selection_value(scores, metric)
    names = ["last"]
    if value is None or state.best_value is None or value >= state.best_value:
        state.best_value, state.best_step, state.best_scores = value, state.steps, scores
        names.append("best")
    for name in names:
        DualEncoder(model, _card(state, recipe, scores), files=state.tokens.files).save(directory / name)


def _prepare(
    recipe: Recipe,
    mixture: Mixture,
    start_model: DualEncoder | None,
    directory: Path,
    resume: bool,
    device: torch.device,
) -> State:
    """Return the state to continue from: a new one, or that of the checkpoint."""
    checkpoint = directory / CHECKPOINT
    if not resume and (checkpoint.exists() or (directory / "recipe.toml").exists()):
        raise OutputError(f"{directory}: already contains a run; continue it with --resume, or choose another --out")
    state = _new_state(recipe, mixture, start_model, device)
    remove_partial(directory)
    if resume:
        for name in ("best", "last"):
            recover_directory(directory / name)
        if checkpoint.exists():
            load_checkpoint(checkpoint, state)
    write_atomic(directory / "recipe.toml", to_toml(recipe).encode())
    return state


def _new_state(recipe: Recipe, mixture: Mixture, start_model: DualEncoder | None, device: torch.device) -> State:
    """Return the state before the first step."""
    tokens = _tokens(recipe, start_model)
    caption_tokens = CaptionTokens.count(mixture, tokens.tokenizer) if recipe.loss.caption_token_weight else None
    generator = torch.Generator().manual_seed(recipe.seed)
    clip = build(recipe.architecture, generator)
    if start_model is not None:
        clip.load_state_dict(start_model.model.state_dict())
    head = caption_tokens.build_head(recipe.architecture.embed_dim, generator) if caption_tokens else None
    learner = Learner(clip, head).to(device).train()
    return State(
        learner=learner,
        optimizer=build_optimizer(learner, recipe.optimizer),
        ema=EMA(learner, recipe.ema_decay) if recipe.ema_decay else None,
        caption_tokens=caption_tokens.to(device) if caption_tokens else None,
        tokens=tokens,
        identity=RunIdentity(
            recipe=recipe.without_about(),
            data=mixture.fingerprint,
            start=start_model.fingerprint.digest if start_model is not None else "",
        ),
        device=device,
    )


def _tokens(recipe: Recipe, start_model: DualEncoder | None) -> Tokens:
    if start_model is not None:
        return Tokens(start_model.card.tokenizer, start_model.tokenizer, start_model.files)
    config = TokenizerConfig(context_length=recipe.architecture.text.context_length)
    return Tokens(config, build_tokenizer(config, {}), {})


def _loader(recipe: Recipe, mixture: Mixture, state: State, workers: int) -> Loader:
    plan = BatchPlan(
        batch_size=recipe.batch_size,
        size_px=recipe.architecture.image.image_size_px,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
        trims_texts=recipe.architecture.text.is_trimmed,
    )
    return Loader(mixture, state.tokens.tokenizer, plan, workers=workers, first_step=state.steps)


def _card(state: State, recipe: Recipe, scores: Sequence[Score]) -> Card:
    """Return the card that is saved with the state's weights."""
    training = {
        "recipe": recipe.about.title,
        "data": state.identity.data,
        "steps": state.steps,
        "seed": recipe.seed,
        "averaged": bool(recipe.ema_decay),
        "scores": msgspec.to_builtins(list(scores)),
    }
    return Card(
        name=recipe.about.title,
        model=recipe.architecture,
        preprocessing=recipe.image_preprocessing,
        tokenizer=state.tokens.config,
        training=training,
    )


class _Stop:
    """A signal handler that records the request to stop; a second signal interrupts immediately."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn SIGINT and SIGTERM into a request to stop after the current step; a second signal interrupts immediately."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
