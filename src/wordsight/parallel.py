"""An ordered parallel map with a bounded number of results in flight."""

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def ordered_map(work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int = 8) -> Iterator[Result]:
    """Apply `work` to each task in one thread per CPU and yield the results in the order of the tasks.

    Args:
        work: called in the threads; the first exception it raises is raised here, and ends them.
        tasks: can be a stream; at most `ahead` tasks are taken before their results are requested.
        ahead: number of results in flight.
    """
    with ThreadPoolExecutor(available_cpus()) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for task in tasks:
                waiting.append(pool.submit(work, task))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
