"""Work by threads whose results come in the order of the tasks, a bounded number of them ahead."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered_map(work: Callable[[Task], Result], tasks: Iterable[Task], ahead: int = 8) -> Iterator[Result]:
    """What `work` makes of each task, in order, by a thread a processor.

    Args:
        tasks: may stream; no more are taken than `ahead` of the result that is wanted.
    """
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
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
