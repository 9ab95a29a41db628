"""The loop: batches in, a trained run out. `train` opens everything, `_go_on` is the loop itself.

A run's directory holds

    recipe.toml     the recipe, with its changes applied
    metrics.jsonl   figures of steps and validations
    checkpoint.pt   everything that `--resume` needs
    broken.jsonl    samples that could not be used, with the reasons, if any
    best/, last/    models that `wordsight.load` opens; `best` has the highest validation score
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

from wordsight.config import plain, to_toml
from wordsight.data import BatchPlan, Loader, Mixture
from wordsight.encoder import DualEncoder, load
from wordsight.errors import OutputError
from wordsight.evaluate.tasks import Evaluator, selection_score
from wordsight.files import lock, make_directory, recover_directory, remove_partial, write_atomic
from wordsight.model import build, build_empty
from wordsight.text import build_tokenizer
from wordsight.training.caption_tokens import CaptionTokens
from wordsight.training.checkpoint import load_checkpoint, save_checkpoint
from wordsight.training.log import RunLog
from wordsight.training.optimizer import build_optimizer
from wordsight.training.recipe import Recipe, load_recipe
from wordsight.training.sources import open_evaluators, open_sources
from wordsight.training.state import EMA, Learner, State, Tokens
from wordsight.training.step import train_step
from wordsight.weights import Card, TokenizerConfig

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        directory: what `wordsight.load` opens.
        steps: how many were taken.
        best_step: where the validation score was highest; `best_scores` are the scores there.
    """

    directory: Path
    steps: int
    best_step: int
    best_scores: dict[str, float]


def train(
    recipe: str | Path | Recipe,
    data: Sequence[str | Path] | str | Path,
    out: str | Path,
    start: str | Path | None = None,
    resume: bool = False,
    workers: int = 1,
    evaluators: Sequence[Evaluator] = (),
    tensorboard: bool = False,
) -> Run:
    """Train a model as a recipe says, on the first accelerator if there is one, else on the CPU.

    Args:
        recipe: a file, a name of `wordsight recipes`, or a `Recipe`.
        data: directories of shards, or a directory of such directories.
        out: the run's directory.
        start: a model to start from, as for `wordsight.load`; it brings its architecture, preprocessing and tokenizer.
        resume: go on from the checkpoint in `out`, exactly; without one there, start.
        workers: threads that prepare batches; they change nothing but speed.
        evaluators: more validation, beside the recipe's own.
        tensorboard: also write TensorBoard's files (extra `log`).

    Raises:
        ConfigError: recipe and data do not fit, or a resumed run had another configuration.
        DataError: shards are missing, or too many samples are broken.
        OutputError: `out` holds a run and `resume` is False, or cannot be written.
        TrainingError: the loss is not finite.
        KeyboardInterrupt: asked to stop by SIGINT or SIGTERM; everything is saved.
    """
    recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
    first = load(start, device="cpu") if start is not None else None
    if first is not None:
        recipe = msgspec.structs.replace(recipe, model=first.card.model, preprocessing=first.card.preprocessing)
    places = [data] if isinstance(data, str | Path) else list(data)
    mixture = open_sources(recipe, places)
    judges = [*open_evaluators(recipe, places), *evaluators]
    directory = make_directory(Path(out))
    with lock(directory / ".lock"):
        state = _prepare(recipe, mixture, first, directory, resume, _best_device())
        log = RunLog(directory, state.steps, recipe.schedule.steps, tensorboard)
        try:
            with _stop_requests() as stop, _loader(recipe, mixture, state, workers) as loader:
                try:
                    _go_on(state, recipe, loader, judges, directory, log, stop)
                finally:
                    _list_broken(loader, directory, log)
        finally:
            log.close()
    return Run(directory, state.steps, state.best_step, state.best_scores)


def _go_on(
    state: State,
    recipe: Recipe,
    loader: Loader,
    judges: Sequence[Evaluator],
    directory: Path,
    log: RunLog,
    stop: "_Stop",
) -> None:
    """Take the steps that are left, validating and saving as the recipe says."""
    while state.steps < recipe.schedule.steps:
        begin = time.perf_counter()
        batch = next(loader)
        waited_s = time.perf_counter() - begin
        figures = train_step(state, batch, recipe)
        log.step(state.steps, figures, recipe.batch_size, waited_s)
        done = state.steps == recipe.schedule.steps
        if done or state.steps % recipe.validation.every_steps == 0:
            _validate(state, recipe, judges, directory, log)
        if done or stop.requested or state.steps % recipe.checkpoint_every_steps == 0:
            save_checkpoint(directory / CHECKPOINT, state)
        if stop.requested and not done:
            log.say(f"stopped after step {state.steps}; everything is saved, and a resumed run goes on from here")
            raise KeyboardInterrupt


def _list_broken(loader: Loader, directory: Path, log: RunLog) -> None:
    """Add the broken samples that were met to `broken.jsonl`, and say how many there are."""
    path = directory / "broken.jsonl"
    former = path.read_bytes().splitlines() if path.exists() else []
    rows = dict.fromkeys([*former, *(msgspec.json.encode(broken) for broken in loader.broken)])
    if rows:
        write_atomic(path, b"".join(row + b"\n" for row in rows))
        log.say(f"{len(rows)} broken samples were replaced by others; {path} lists them with their reasons")


def _validate(state: State, recipe: Recipe, judges: Sequence[Evaluator], directory: Path, log: RunLog) -> None:
    """Measure the model, save it as `last`, and as `best` too if it is."""
    model = build_empty(recipe.architecture)
    model.load_state_dict(state.weights(), assign=True)
    model.eval().requires_grad_(False)
    encoder = DualEncoder(model, _card(state, recipe, {}), files=state.tokens.files)
    scores = {name: value for judge in judges for name, value in judge(encoder, state.steps).items()}
    log.scores(state.steps, scores)
    names = ["last"]
    if selection_score(scores) >= state.best_score:
        state.best_score, state.best_step, state.best_scores = selection_score(scores), state.steps, scores
        names.append("best")
    for name in names:
        DualEncoder(model, _card(state, recipe, scores), files=state.tokens.files).save(directory / name)
    for line in _score_lines(scores):
        log.say(f"step {state.steps}: {line}")


def _score_lines(scores: dict[str, float]) -> Iterator[str]:
    for name, value in scores.items():
        if f"{name}.low" in scores:
            low, high, chance = (scores[f"{name}.{part}"] for part in ("low", "high", "chance"))
            yield f"{name} {value:.1%} [{low:.1%}, {high:.1%}], chance {chance:.1%}"


def _prepare(
    recipe: Recipe, mixture: Mixture, first: DualEncoder | None, directory: Path, resume: bool, device: torch.device
) -> State:
    """The state to start from: new, or that of the checkpoint."""
    checkpoint = directory / CHECKPOINT
    if not resume and (checkpoint.exists() or (directory / "recipe.toml").exists()):
        raise OutputError(f"{directory}: holds a run already; go on with --resume, or choose another --out")
    tokens, words = _tokens(recipe, first), None
    if recipe.loss.caption_token_weight:
        words = CaptionTokens.count(mixture, tokens.tokenizer)
    generator = torch.Generator().manual_seed(recipe.seed)
    clip = build(recipe.architecture, generator)
    if first is not None:
        clip.load_state_dict(first.model.state_dict())
    head = words.build_head(recipe.architecture.embed_dim, generator) if words else None
    learner = Learner(clip, head).to(device).train()
    identity = plain(recipe) | {"data": mixture.fingerprint}
    if first is not None:
        identity["start"] = first.fingerprint.digest
    identity.pop("about")
    state = State(
        learner=learner,
        optimizer=build_optimizer(learner, recipe.optimizer),
        average=EMA(learner, recipe.ema_decay) if recipe.ema_decay else None,
        words=words.to(device) if words else None,
        tokens=tokens,
        identity=identity,
        device=device,
    )
    remove_partial(directory)
    if resume:
        for name in ("best", "last"):
            recover_directory(directory / name)
        if checkpoint.exists():
            load_checkpoint(checkpoint, state)
    write_atomic(directory / "recipe.toml", to_toml(recipe).encode())
    return state


def _tokens(recipe: Recipe, first: DualEncoder | None) -> Tokens:
    if first is not None:
        return Tokens(first.card.tokenizer, first.tokenizer, first.files)
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


def _card(state: State, recipe: Recipe, scores: dict[str, float]) -> Card:
    """What is written beside the state's weights."""
    manifest = {"recipe": recipe.about.title, "data": state.identity["data"], "steps": state.steps, "seed": recipe.seed}
    return Card(
        name=recipe.about.title,
        model=recipe.architecture,
        preprocessing=recipe.form,
        tokenizer=state.tokens.config,
        training=manifest | {"scores": scores},
    )


def _best_device() -> torch.device:
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


class _Stop:
    """Whether a signal asked for the end."""

    def __init__(self) -> None:
        self.requested = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turn SIGINT and SIGTERM into a request that the loop answers after its step; a second one ends at once."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    former: dict[int, Any] = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
