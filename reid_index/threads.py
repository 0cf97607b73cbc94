"""Running a compiled kernel over ranges of rows on all cores.

Kernels are compiled with `nogil`, so that plain threads run them side by side. Numba's own threads
are not used: where two Python threads start them at once, its default layer ends the process.
"""

import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def over_ranges(
    function: Callable[[int, int], T],
    count: int,
    *,
    piece: int,
    pool: ThreadPoolExecutor | None = None,
) -> list[T]:
    """What function(start, stop) returns for consecutive ranges of at most `piece` that cover
    0 … count, in order; several ranges run at once. pool: threads to use again and again."""
    ranges = [(start, min(start + piece, count)) for start in range(0, count, piece)]
    if len(ranges) < 2 or cores() == 1:
        return [function(start, stop) for start, stop in ranges]
    with nullcontext(pool) if pool else ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(lambda ends: function(*ends), ranges))
