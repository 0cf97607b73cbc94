"""Running a compiled kernel over ranges of rows on all cores.

Kernels are compiled with `nogil`, so that plain threads run them side by side. Numba's own threads
are not used: where two Python threads start them at once, its default layer ends the process.
"""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any, TypeVar, cast

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
    global _blas_users, _blas_limits
    with _blas:
        if _blas_users == 0:
            _blas_limits = _blas_libraries().limit(limits=1)
        _blas_users += 1
    try:
        yield
    finally:
        with _blas:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limits.restore_original_limits()


@cache
def _blas_libraries() -> Any:
    """The loaded BLAS libraries, NumPy's among them. Looking for them takes longer than many a
    search, so it is done once."""
    import numpy  # noqa: F401  # loads its BLAS
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads for all cores but the caller's own, kept: to start them takes longer than many a
    search. None of their tasks waits for another, so any number of callers may share them."""
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="reid-index")


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_threads.cache_clear)


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
    # The caller works too. Whoever is free takes the next range, each core at its own pace.
    results: list[T | None] = [None] * len(ranges)
    left = iter(range(len(ranges)))

    def work() -> None:
        try:
            for at in left:
                results[at] = function(*ranges[at])
        finally:
            for _ in left:  # after an error nobody need go on
                pass

    helpers = [_threads().submit(work) for _ in range(min(cores(), len(ranges)) - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            # One that has not begun has nothing left to do; others' work may be before it.
            if not helper.cancel():
                helper.result()
    return cast("list[T]", results)
