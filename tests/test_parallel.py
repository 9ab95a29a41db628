import threading
import time

import pytest

from wordsight.parallel import ordered_map


def test_results_are_in_the_order_of_the_tasks() -> None:
    def work(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number**2

    assert list(ordered_map(work, range(40))) == [number**2 for number in range(40)]


def test_at_most_ahead_tasks_are_taken_before_their_results_are_requested() -> None:
    taken: list[int] = []

    def tasks():
        for number in range(1000):
            taken.append(number)
            yield number

    results = ordered_map(lambda number: number, tasks(), ahead=5)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(taken) == 15
    results.close()


def test_an_exception_is_raised_and_stops_the_threads() -> None:
    def work(number: int) -> int:
        return 1 // (3 - number)

    before = threading.active_count()
    results = ordered_map(work, range(1000))
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert threading.active_count() == before
