"""The log of a run: rows, remaining time, and TensorBoard's files as TensorBoard itself reads them."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from wordsight.metrics import Score
from wordsight.training.log import RunLog
from wordsight.training.rows import read_rows
from wordsight.training.state import LossSums
from wordsight.training.step import StepMetrics

RECIPE = """
batch_size = 4
[about]
title = "not a hyperparameter"
[optimizer]
learning_rate = 0.01
[augmentation]
scale = [0.5, 1.0]
[validation]
every_steps = 10
"""


def score(metric: str, value: float) -> Score:
    return Score(
        dataset="held/out", metric=metric, value=value, low=value - 0.1, high=value + 0.1, n=9, chance=0.5, method="-"
    )


def train_steps(log: RunLog, steps: Iterator[int] | range) -> None:
    for step in steps:
        metrics = StepMetrics(loss=1 / step, caption_token_loss=0.0, scale=1.0, gradient_norm=1.0, learning_rate=0.1)
        log.step(step, metrics, 4, 0.0)
        if step % 10 == 0:
            log.scores(step, [score("accuracy", 0.2), score("recall@1", step / 100)], {"held/out": "ab12"})


def open_log(directory: Path, first_step: int, steps: int = 40, tensorboard: bool = True) -> RunLog:
    (directory / "recipe.toml").write_text(RECIPE)
    return RunLog(directory, first_step, steps, LossSums(), tensorboard, every=5)


def events(directory: Path) -> Any:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    return accumulator.EventAccumulator(str(directory), {"scalars": 0, "tensors": 0}).Reload()


def steps_of(board: Any, tag: str) -> list[int]:
    return [event.step for event in board.Scalars(tag)]


def test_each_score_is_one_tag_and_its_interval_a_chart_and_not_a_scalar(tmp_path: Path) -> None:
    layout_pb2 = pytest.importorskip("tensorboard.plugins.custom_scalar.layout_pb2")
    log = open_log(tmp_path, 0)
    train_steps(log, range(1, 21))
    log.close()
    board, intervals = events(tmp_path / "tensorboard"), events(tmp_path / "tensorboard" / "intervals")
    tags = [tag for tag in board.Tags()["scalars"] if tag.startswith("held/out")]
    assert tags == ["held/out/accuracy", "held/out/recall@1"]
    assert [round(event.value, 6) for event in board.Scalars("held/out/recall@1")] == [0.1, 0.2]
    layout = layout_pb2.Layout()
    layout.ParseFromString(intervals.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    (category,) = layout.category
    charts = {chart.title: chart.margin.series[0] for chart in category.chart}
    band = charts["recall@1"]
    assert category.title == "held/out"
    ends = [[round(event.value, 6) for event in intervals.Scalars(tag)] for tag in (band.value, band.lower, band.upper)]
    assert ends == [[0.1, 0.2], [0.0, 0.1], [0.2, 0.3]]


def test_the_recipe_is_the_hyperparameters_and_the_scores_are_their_results(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.plugins.hparams import metadata

    log = open_log(tmp_path, 0)
    train_steps(log, range(1, 11))
    log.close()
    board = events(tmp_path / "tensorboard")
    start = board.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = {
        key: getattr(value, value.WhichOneof("kind"))
        for key, value in metadata.parse_session_start_info_plugin_data(start).hparams.items()
    }
    assert values == {
        "batch_size": 4.0,
        "optimizer.learning_rate": 0.01,
        "augmentation.scale": "[0.5, 1.0]",
        "validation.every_steps": 10.0,
    }
    experiment = metadata.parse_experiment_plugin_data(
        board.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    )
    results = [info.name.tag for info in experiment.metric_infos]
    assert results == ["held/out/accuracy", "held/out/recall@1"]
    assert set(results) <= set(board.Tags()["scalars"])


@pytest.mark.parametrize("first_part_has_events", [True, False])
@pytest.mark.parametrize("first_step", [0, 10, 17])
def test_a_resumed_run_neither_repeats_nor_loses_points(
    tmp_path: Path, first_step: int, first_part_has_events: bool
) -> None:
    train_steps(open_log(tmp_path, 0, tensorboard=first_part_has_events), range(1, 24))  # killed: not closed
    log = open_log(tmp_path, first_step)
    train_steps(log, range(first_step + 1, 41))
    log.close()
    rows = read_rows(tmp_path / "metrics.jsonl")
    board, intervals = events(tmp_path / "tensorboard"), events(tmp_path / "tensorboard" / "intervals")
    assert steps_of(board, "loss") == [row["step"] for row in rows if "loss" in row] == [*range(5, 41, 5)]
    assert steps_of(board, "held/out/recall@1") == steps_of(intervals, "held/out/recall@1/low") == [10, 20, 30, 40]


def test_the_duration_of_a_run_continues_after_an_interruption(tmp_path: Path) -> None:
    train_steps(open_log(tmp_path, 0, tensorboard=False), range(1, 11))
    first_s = read_rows(tmp_path / "metrics.jsonl")[-1]["elapsed_s"]
    time.sleep(0.2)  # does not count
    train_steps(open_log(tmp_path, 10, tensorboard=False), range(11, 21))
    elapsed = [row["elapsed_s"] for row in read_rows(tmp_path / "metrics.jsonl")]
    assert elapsed == sorted(elapsed)
    assert first_s <= elapsed[-1] < first_s + 0.2


def test_the_duration_of_an_older_log_is_that_of_its_steps(tmp_path: Path) -> None:
    rows = [{"step": 10, "loss": 1.0, "pairs_per_s": 8.0}, {"step": 20, "loss": 1.0, "pairs_per_s": 4.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_steps(open_log(tmp_path, 20, tensorboard=False), range(21, 26))
    assert read_rows(tmp_path / "metrics.jsonl")[-1]["elapsed_s"] == pytest.approx(10 * 4 / 8 + 10 * 4 / 4, abs=0.2)


class Clock:
    """A clock of which the test sets the time."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_remaining_time_includes_validations_and_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    monkeypatch.setattr(time, "perf_counter", clock)
    (tmp_path / "recipe.toml").write_text("[validation]\nevery_steps = 50\n")
    log = RunLog(tmp_path, 0, 1000, LossSums(), False)
    metrics = StepMetrics(loss=1.0, caption_token_loss=0.0, scale=1.0, gradient_norm=1.0, learning_rate=0.1)
    clock.now_s += 30  # starting
    shown: list[tuple[float, float]] = []
    for step in range(1, 1001):
        clock.now_s += 1.0 + (2.0 if step < 5 else 0.0)
        log.step(step, metrics, 4, 0.0)
        shown += [(clock.now_s, seconds_left(line)) for line in capsys.readouterr().err.splitlines()]
        if step % 50 == 0:
            clock.now_s += 40.0 if step == 50 else 25.0
            log.scores(step, [])
        clock.now_s += 3.0 if step % 100 == 0 else 0.0  # a checkpoint
    end_s = clock.now_s
    late = [(now_s, left_s) for now_s, left_s in shown if 0.1 * end_s < now_s < 0.95 * end_s]
    assert len(late) > 50
    assert max(abs(left_s / (end_s - now_s) - 1) for now_s, left_s in late) < 0.3


def seconds_left(line: str) -> float:
    """The seconds of `..., 1 min 05 s left` or `..., 1 h 05 min left`."""
    parts = line.rpartition(", ")[2].removesuffix(" left").split()
    units = {"h": 3600, "min": 60, "s": 1}
    return sum(float(number) * units[unit] for number, unit in zip(parts[::2], parts[1::2], strict=True))
