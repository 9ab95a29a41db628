"""An ordered parallel map with a bounded number of results in flight."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # only on Linux
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def ordered_map(work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int = 8) -> Iterator[Result]:
    """Apply `work` to each task in one thread per CPU and yield the results in the order of the tasks.

    Args:
        work: called in the threads. The first exception that it raises, in the order of the tasks, is raised here, and
            tasks that have not started are cancelled.
        tasks: consumed lazily; can be a stream.
        ahead: number of tasks that are submitted beyond the one whose result is yielded next.
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
