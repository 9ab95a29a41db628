"""The remaining time of simulated jobs, and the lines that show it."""

import contextlib
import random
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

from wordsight.progress import TimeLeft, format_duration, no_phases, phase, show_phases_with

Trace = list[tuple[float, float]]  # seconds since the previous report, and items done in it


def jittered(count: int, seconds: float, items: float = 1, spread: float = 0.3, seed: int = 0) -> Trace:
    """Reports of a constant rate with noise."""
    noise = random.Random(seed)
    return [(seconds * noise.uniform(1 - spread, 1 + spread), items) for _ in range(count)]


def with_pauses(trace: Trace, every: int, pause_s: float) -> Trace:
    """One of `every` reports takes longer: a checkpoint."""
    return [(seconds + pause_s * (number % every == every - 1), items) for number, (seconds, items) in enumerate(trace)]


def worst_error(trace: Trace, from_s: float = 0.0, total: float | None = None) -> float:
    """The largest relative error after the first tenth of the time that follows `from_s`, up to nine tenths."""
    total = sum(items for _, items in trace) if total is None else total
    end_s = sum(seconds for seconds, _ in trace)
    begin_s, stop_s = from_s + 0.1 * (end_s - from_s), from_s + 0.9 * (end_s - from_s)
    estimate, now_s, done, worst = TimeLeft(total, 0.0), 0.0, 0.0, 0.0
    for seconds, items in trace:
        now_s, done = now_s + seconds, done + items
        estimate.update(now_s, done)
        if begin_s <= now_s <= stop_s:
            left_s = estimate.left_s(now_s)
            assert left_s is not None
            worst = max(worst, abs(left_s / (end_s - now_s) - 1))
    return worst


def cumulative_error(trace: Trace) -> float:
    """The same error of the rate since the start, at the end of the first tenth: the negative control."""
    total, end_s = sum(items for _, items in trace), sum(seconds for seconds, _ in trace)
    now_s = done = 0.0
    for seconds, items in trace:
        now_s, done = now_s + seconds, done + items
        if now_s >= 0.1 * end_s:
            break
    return abs((total - done) * now_s / done / (end_s - now_s) - 1)


TRACES = {
    "constant": jittered(300, 1.0),
    "constant without noise": jittered(300, 1.0, spread=0.0),
    "many reports per second": jittered(20_000, 0.01, spread=0.9),
    "start of eight per cent": [(26.0, 1), *jittered(300, 1.0)],
    "slow first reports": [*jittered(8, 3.0), *jittered(300, 1.0)],
    "half of the items in a cache": [*jittered(40, 0.1, items=250), *jittered(200, 2.0, items=50)],
    "nine tenths in a cache": [(1.0, 9000), *jittered(200, 1.0, items=5)],
    "pauses of a quarter": with_pauses(jittered(600, 1.0), every=30, pause_s=10),
    "hours": jittered(20_000, 1.0),
}


@pytest.mark.parametrize("name", TRACES)
def test_the_remaining_time_is_right_within_30_per_cent_after_the_first_tenth(name: str) -> None:
    assert worst_error(TRACES[name]) < 0.3


@pytest.mark.parametrize("name", ["start of eight per cent", "half of the items in a cache", "nine tenths in a cache"])
def test_the_rate_since_the_start_would_be_wrong(name: str) -> None:
    assert cumulative_error(TRACES[name]) > 0.3


@pytest.mark.parametrize("factor", [0.1, 0.5, 0.7, 1.5, 2, 10])
def test_after_a_change_of_the_rate_it_is_right_after_a_tenth_of_the_second_phase(factor: float) -> None:
    first = jittered(300, 1.0)
    second = jittered(max(100, int(300 / factor)), factor, seed=1)
    assert worst_error([*first, *second], from_s=sum(seconds for seconds, _ in first)) < 0.3


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_rarely_shortens_the_window(seed: int) -> None:
    assert worst_error(jittered(300, 1.0, spread=0.5, seed=seed)) < 0.3


def test_time_spent_on_something_else_does_not_count() -> None:
    estimate = TimeLeft(100, 0.0)
    for step in range(1, 51):
        estimate.update(float(step), step)
    estimate.skip(1000.0)
    for step in range(51, 61):
        estimate.update(1000.0 + step - 50, step)
    assert estimate.left_s(1010.0) == pytest.approx(40.0)


def test_nothing_is_known_before_the_first_report_and_little_after_it() -> None:
    estimate = TimeLeft(100, 10.0)
    assert estimate.left_s(20.0) is None
    estimate.update(30.0, 40)
    assert estimate.left_s(30.0) == pytest.approx(30.0)
    assert estimate.left_s(35.0) == pytest.approx(25.0)


def test_memory_does_not_grow_with_the_job() -> None:
    estimate = TimeLeft(1e9, 0.0)
    for number in range(50_000):
        estimate.update(float(number), number + 1)
    assert len(estimate._intervals) <= 129


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3599.6, "1 h 00 min"), (11100, "3 h 05 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_a_phase_without_a_display_costs_nothing_and_a_display_is_restored() -> None:
    with phase("hashing", 3) as progress:
        progress(1)
    with no_phases():
        seen: list[object] = []
        show_phases_with(lambda name, total, unit: recorded(seen, name, total))
        with phase("hashing", 3) as progress:
            progress(2)
        assert seen == ["hashing", 3, 2]
    with phase("hashing") as progress:
        progress(1)
    assert seen == ["hashing", 3, 2]


def recorded(seen: list[object], name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    seen.extend([name, total])
    return contextlib.nullcontext(seen.append)


def test_traces_are_as_long_as_they_say() -> None:
    for trace in TRACES.values():
        assert all(seconds > 0 and items > 0 for seconds, items in trace)
