"""The training loop. `train` opens everything; `_run_steps` is the loop itself.

A run directory contains

    recipe.toml     the recipe, with changes applied and the run's own [about]
    run.toml        where the data is, and the fingerprint of the model from which training started
    metrics.jsonl   metrics of steps and scores of validations
    checkpoint.pt   everything that `--resume` needs
    broken.jsonl    samples that could not be used, with the reasons, if any
    best/, last/    models that `wordsight.load` opens; `best` has the best value of the recipe's selection metric
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
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
from wordsight.errors import ConfigError, OutputError
from wordsight.evaluation import Classification, Evaluator, Retrieval
from wordsight.files import make_directory, recover_directory, remove_partial, write_atomic
from wordsight.locks import lock
from wordsight.metrics import Score
from wordsight.model import build, build_empty
from wordsight.text import build_tokenizer
from wordsight.training.caption_tokens import CaptionTokens
from wordsight.training.checkpoint import load_checkpoint, save_checkpoint
from wordsight.training.checks import check_data, check_recipe, check_selection, notes, overlap_notes
from wordsight.training.log import RunLog
from wordsight.training.optimizer import build_optimizer
from wordsight.training.recipe import START, Recipe, load_recipe
from wordsight.training.rows import read_rows
from wordsight.training.run_directory import (
    CHECKPOINT,
    LAST,
    RECIPE,
    Start,
    remembered_start,
    with_own_about,
    write_run_file,
)
from wordsight.training.selection import selection_value
from wordsight.training.sources import open_evaluators, open_sources
from wordsight.training.state import EMA, Learner, RunIdentity, State, Tokens
from wordsight.training.step import train_step
from wordsight.weights import Card, TokenizerConfig

_BEST = "best"
_BROKEN = "broken.jsonl"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: the run directory, which `wordsight.load` opens.
        steps: number of steps taken.
        best_step: the step of the best model: the one with the highest value of the recipe's selection metric, or the
            last one if the recipe has none.
        best_scores: the validation scores of the best model.
        start_scores: the validation scores before the first step, of a run that started from a model.
    """

    directory: Path
    steps: int
    best_step: int
    best_scores: tuple[Score, ...]
    start_scores: tuple[Score, ...] = ()


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
            and preprocessing and determines the tokenizer. `change_start` changes its image size.
            A run that starts from a model is validated before its first step too.
        resume: continue exactly from the checkpoint in `out`; if there is none, start a new run. `start` need not be
            given again.
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
    torch_device = parse_device(device)
    origin = _open_start(start, Path(out), resume)
    recipe = _with_start(recipe if isinstance(recipe, Recipe) else load_recipe(recipe), origin)
    recipe = with_own_about(recipe, Path(out), source=_name_of(start), resume=resume)
    paths = [data] if isinstance(data, str | Path) else data
    mixture, recipe_evaluators = _open_data(recipe, paths)
    if not (evaluators or resume):
        check_selection(recipe, recipe_evaluators)
    directory = make_directory(Path(out))
    with lock(directory / ".lock"):
        state = _prepare(recipe, mixture, origin, directory, resume, torch_device)
        write_run_file(directory, paths, state.identity.start)
        log = RunLog(directory, state.steps, recipe.schedule.steps, state.sums, tensorboard)
        with closing(log), _stop_requests() as stop, _loader(recipe, mixture, state, workers) as loader:
            if state.steps < recipe.schedule.steps:
                for line in _start_lines(state, recipe, mixture, recipe_evaluators):
                    log.print(line)
            try:
                _run_steps(state, recipe, loader, [*recipe_evaluators, *evaluators], directory, log, stop)
            finally:
                if count := _list_broken(loader, directory):
                    log.print(f"{count} broken samples were replaced by others; see {directory / _BROKEN} for reasons")
    return Run(directory, state.steps, state.best_step, state.best_scores, _start_scores(directory))


def _open_start(start: str | Path | DualEncoder | None, directory: Path, resume: bool) -> Start | None:
    """Return the model from which training starts; that of a resumed run need not be given again."""
    if start is None:
        return remembered_start(directory) if resume else None
    model = load(start, device="cpu") if isinstance(start, str | Path) else start
    return Start(model, model.fingerprint.digest)


def _name_of(start: str | Path | DualEncoder | None) -> str:
    if isinstance(start, DualEncoder):
        return start.card.name
    return "" if start is None else str(start)


def _start_scores(directory: Path) -> tuple[Score, ...]:
    """Return the scores of the validation before the first step, if there was one."""
    for row in read_rows(directory / "metrics.jsonl"):
        if row["step"] == 0 and "scores" in row:
            return msgspec.convert(row["scores"], tuple[Score, ...])
    return ()


def _run_steps(
    state: State,
    recipe: Recipe,
    loader: Loader,
    evaluators: Sequence[Evaluator],
    directory: Path,
    log: RunLog,
    stop: "_Stop",
) -> None:
    """Take the remaining steps, with validations and checkpoints as the recipe says.

    A run that starts from a model is validated before its first step too.
    """
    if state.identity.start and not state.steps:
        _validate(state, recipe, evaluators, directory, log)
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
            _list_broken(loader, directory)
            save_checkpoint(directory / CHECKPOINT, state)
        if stop.requested and not is_last:
            log.print(f"stopped after step {state.steps}; the checkpoint is saved, and a resumed run continues from it")
            raise KeyboardInterrupt


def _start_lines(
    state: State, recipe: Recipe, mixture: Mixture, evaluators: Sequence[Retrieval | Classification]
) -> Iterator[str]:
    """Yield what the user should know before the first step."""
    for change in state.changes:
        yield f"from step {change.step}: {change.key} is {change.after} instead of {change.before}{_effect(change.key)}"
    if recipe.loss.caption_token_weight and state.caption_tokens is None:
        yield "loss.caption_token_weight has no effect: too few samples share a token"
    yield from notes(recipe, mixture, state.learner.clip, state.tokens.tokenizer)
    yield from overlap_notes(mixture, evaluators)


def _effect(key: str) -> str:
    return "; the learning rate follows the new schedule from this step" if key == "schedule.steps" else ""


def _list_broken(loader: Loader, directory: Path) -> int:
    """Add the broken samples that the loader replaced to `broken.jsonl`, and return the number of all that it lists."""
    path = directory / _BROKEN
    previous = path.read_bytes().splitlines() if path.is_file() else []
    rows = dict.fromkeys([*previous, *(msgspec.json.encode(broken) for broken in loader.broken)])
    if len(rows) > len(previous):
        write_atomic(path, b"".join(row + b"\n" for row in rows))
    return len(rows)


def _validate(state: State, recipe: Recipe, evaluators: Sequence[Evaluator], directory: Path, log: RunLog) -> None:
    """Evaluate the model and save it as `last`; also as `best` if it is the best so far."""
    model = build_empty(recipe.architecture)
    model.load_state_dict(state.weights(), assign=True)
    model.eval().requires_grad_(False)
    encoder = DualEncoder(model, _card(state, recipe, ()), files=state.tokens.files)
    scores = tuple(score for evaluator in evaluators for score in evaluator(encoder, state.steps))
    sets = [each for each in evaluators if isinstance(each, Retrieval | Classification)]
    log.scores(state.steps, scores, {each.dataset: each.images.data_sha256 for each in sets})
    metric = recipe.validation.selection_metric
    value = None if metric is None else selection_value(scores, metric)
    names = [LAST]
    is_start = state.identity.start != "" and state.best_step == 0  # the best so far; a tie is no improvement on it
    previous = state.best_value
    if value is None or previous is None or value > previous or (value == previous and not is_start):
        state.best_value, state.best_step, state.best_scores = value, state.steps, scores
        names.append(_BEST)
    for name in names:
        DualEncoder(model, _card(state, recipe, scores), files=state.tokens.files).save(directory / name)


def _prepare(
    recipe: Recipe,
    mixture: Mixture,
    origin: Start | None,
    directory: Path,
    resume: bool,
    device: torch.device,
) -> State:
    """Return the state to continue from: a new one, or that of the checkpoint."""
    checkpoint = directory / CHECKPOINT
    if not resume and (checkpoint.exists() or (directory / RECIPE).exists()):
        raise OutputError(f"{directory}: already contains a run; continue it with --resume, or choose another --out")
    state = _new_state(recipe, mixture, origin, device)
    remove_partial(directory)
    if resume:
        for name in (_BEST, LAST):
            recover_directory(directory / name)
        if checkpoint.exists():
            load_checkpoint(checkpoint, state)
        if state.steps > recipe.schedule.steps:
            raise ConfigError(
                f"schedule.steps {recipe.schedule.steps}: {directory} has taken {state.steps} steps; expected at least "
                "as many"
            )
    if not state.steps and (directory / "metrics.jsonl").is_file():
        (directory / "metrics.jsonl").unlink()  # rows of a run that stopped before its first checkpoint
    write_atomic(directory / RECIPE, to_toml(recipe).encode())
    return state


def _new_state(recipe: Recipe, mixture: Mixture, origin: Start | None, device: torch.device) -> State:
    """Return the state before the first step."""
    tokens = _tokens(recipe, origin)
    caption_tokens = CaptionTokens.count(mixture, tokens.tokenizer) if recipe.loss.caption_token_weight else None
    if caption_tokens is not None and not len(caption_tokens.weight):
        caption_tokens = None  # too little data; `_start_lines` says so
    generator = torch.Generator().manual_seed(recipe.seed)
    clip = build(recipe.architecture, generator)
    if origin is not None:
        clip.load_state_dict(origin.model.model.state_dict())
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
            start=origin.fingerprint if origin is not None else "",
        ),
        device=device,
    )


def _open_data(recipe: Recipe, data: Sequence[str | Path]) -> tuple[Mixture, list[Retrieval | Classification]]:
    """Open the training data and the validation sets, and check both."""
    mixture = open_sources(recipe, data)
    check_data(recipe, mixture)
    return mixture, open_evaluators(recipe, data)


def _with_start(recipe: Recipe, origin: Start | None) -> Recipe:
    """Return the recipe with the architecture and preprocessing of the start model, after checking it."""
    if origin is None:
        if recipe.model == START:
            raise ConfigError(f"recipe {recipe.about.title}: it trains an existing model; name one with --from MODEL")
        check_recipe(recipe, TokenizerConfig(context_length=recipe.architecture.text.context_length))
        return recipe
    card = origin.model.card
    recipe = msgspec.structs.replace(recipe, model=card.model, preprocessing=card.preprocessing)
    check_recipe(recipe, card.tokenizer)
    return recipe


def _tokens(recipe: Recipe, origin: Start | None) -> Tokens:
    if origin is not None:
        return Tokens(origin.model.card.tokenizer, origin.model.tokenizer, origin.model.files)
    config = TokenizerConfig(context_length=recipe.architecture.text.context_length)
    return Tokens(config, build_tokenizer(config, {}), {})


def _loader(recipe: Recipe, mixture: Mixture, state: State, workers: int) -> Loader:
    plan = BatchPlan(
        batch_size=recipe.batch_size,
        size_px=recipe.architecture.image.image_size_px,
        augmentation=recipe.augmentation,
        seed=recipe.seed,
        trims_texts=recipe.architecture.text.is_trimmed,
        max_broken_share=recipe.max_broken_share,
    )
    return Loader(mixture, state.tokens.tokenizer, plan, workers=workers, first_step=state.steps)


def _card(state: State, recipe: Recipe, scores: Sequence[Score]) -> Card:
    """Return the card that is saved with the state's weights."""
    training = {
        "recipe": recipe.about.recipe,
        "data": state.identity.data,
        "steps": state.steps,
        "seed": recipe.seed,
        "averaged": bool(recipe.ema_decay),
        "scores": msgspec.to_builtins(list(scores)),
    }
    if recipe.about.source_model:
        training["source_model"] = recipe.about.source_model
    if state.changes:
        training["changes"] = msgspec.to_builtins(list(state.changes))
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
