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
from threading import Event, Lock, RLock, Thread
from typing import Any, TypeVar, cast

T = TypeVar("T")


def cores() -> int:
    """Cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


_blas = Lock()
_blas_users = 0
_blas_limit: "_Limit | None" = None
_blas_turn = RLock()


class _Limit(Thread):
    """Keeps matrix products to one thread each for as long as it lives.

    threadpoolctl heeds only the thread that limited first, while that one lives. So this is a
    thread of its own, which ends with the limit: neither our callers nor others are locked out.
    """

    def __init__(self) -> None:
        super().__init__(name="reid-index-blas", daemon=True)
        self._is_set, self._over = Event(), Event()
        self.works = False
        self._libraries = _blas_libraries()  # what may go wrong does so in the caller's thread
        self.start()
        self._is_set.wait()

    def run(self) -> None:
        """Limit, until told that it is over."""
        try:
            with self._libraries.limit(limits=1):
                self.works = all(one.num_threads == 1 for one in self._libraries.lib_controllers)
                self._is_set.set()
                self._over.wait()
        finally:
            self._is_set.set()  # nobody waits for a thread that is gone

    def end(self) -> None:
        """As before."""
        self._over.set()
        self.join()


@contextmanager
def single_threaded_blas() -> Iterator[bool]:
    """Matrix products of this process take one thread each meanwhile, so that several threads can
    make their own; as before when the last of those who are in here leaves.

    Gives whether that is so. It is not where others in this process limit the threads of BLAS, too:
    then whoever is in here is alone in here, and should leave the threads to BLAS. Products of
    several threads on all cores each take a hundred times as long.
    """
    global _blas_users, _blas_limit
    with _blas:
        if _blas_limit is None:
            _blas_limit = _Limit()
        limit = _blas_limit
        _blas_users += 1
    try:
        if limit.works:
            yield True
        else:
            with _blas_turn:
                yield False
    finally:
        with _blas:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.end()
                _blas_limit = None


@cache
def _blas_libraries() -> Any:
    """NumPy's BLAS library, or all that are loaded where it cannot be told. Looking for them takes
    longer than many a search, so it is done once."""
    import numpy  # noqa: F401  # loads its BLAS
    from threadpoolctl import ThreadpoolController

    loaded = ThreadpoolController().select(user_api="blas")
    paths = [one["filepath"] for one in loaded.info() if "numpy" in one["filepath"]]
    return loaded.select(filepath=paths) if paths else loaded


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads for all cores but the caller's own, kept: to start them takes longer than many a
    search. None of their tasks waits for another, so any number of callers may share them."""
    return ThreadPoolExecutor(max(1, cores() - 1), thread_name_prefix="reid-index")


def _after_fork() -> None:
    """A child has none of its parent's threads."""
    global _blas, _blas_turn, _blas_users, _blas_limit
    _threads.cache_clear()
    _blas, _blas_turn, _blas_users, _blas_limit = Lock(), RLock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


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
