"""Running a compiled kernel over ranges of rows on all cores.

Kernels are compiled with `nogil`, so that plain threads run them side by side. Numba's own threads
are not used: where two Python threads start them at once, its default layer ends the process.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Lock
from typing import Any, TypeVar

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_blas = Lock()
_blas_users = 0
_blas_limits: Any = None


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Matrix products of this process take one thread each meanwhile, so that several threads can
    make their own. As before when the last of those who are in here leaves."""
    from threadpoolctl import threadpool_limits

    global _blas_users, _blas_limits
    with _blas:
        if _blas_users == 0:
            _blas_limits = threadpool_limits(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _blas:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limits.restore_original_limits()


def over_ranges(
    function: Callable[[int, int], T],
    count: int,
    *,
    piece: int,
) -> list[T]:
    """What function(start, stop) returns for consecutive ranges of at most `piece` that cover
    0 … count, in order; several ranges run at once."""
    ranges = [(start, min(start + piece, count)) for start in range(0, count, piece)]
    if len(ranges) < 2 or cores() == 1:
        return [function(start, stop) for start, stop in ranges]
    with ThreadPoolExecutor(cores()) as threads:
        return list(threads.map(lambda ends: function(*ends), ranges))
