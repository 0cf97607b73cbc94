"""Ranges on several threads: all covered once, errors told, no deadlock, and alive after a fork."""

import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from threadpoolctl import threadpool_limits

from reid_index import threads
from reid_index.threads import over_ranges, single_threaded_blas


@pytest.fixture(autouse=True)
def _several_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)


def lengths(start: int, stop: int) -> tuple[int, int]:
    return start, stop - start


def test_every_range_is_answered_in_its_place() -> None:
    assert over_ranges(lengths, 10, piece=4) == [(0, 4), (4, 4), (8, 2)]
    assert over_ranges(lengths, 0, piece=4) == []
    assert over_ranges(lengths, 1000, piece=1) == [(at, 1) for at in range(1000)]


def test_several_run_at_once() -> None:
    meet = threading.Barrier(2, timeout=20)
    places = over_ranges(lambda start, stop: meet.wait(), 2, piece=1)
    assert sorted(places) == [0, 1]


def test_an_error_is_the_callers() -> None:
    def fail(start: int, stop: int) -> None:
        if start == 7:
            raise ValueError("the seventh")

    for _ in range(20):
        with pytest.raises(ValueError, match="the seventh"):
            over_ranges(fail, 50, piece=1)
    assert over_ranges(lengths, 10, piece=4) == [(0, 4), (4, 4), (8, 2)]


def test_after_an_error_of_another_thread_nothing_more_is_begun() -> None:
    begun: list[int] = []
    mine = threading.Event()

    def fail(start: int, stop: int) -> None:
        begun.append(start)
        if threading.current_thread() is not threading.main_thread():
            mine.wait(timeout=20)
            raise ValueError("another's")
        mine.set()
        time.sleep(0.001)

    with pytest.raises(ValueError, match="another's"):
        over_ranges(fail, 3000, piece=1)
    assert len(begun) < 1500


def test_ranges_within_ranges_do_not_wait_for_each_other() -> None:
    def nested(start: int, stop: int) -> list[tuple[int, int]]:
        return over_ranges(lengths, 8, piece=1)

    done: list[object] = []
    callers = [
        threading.Thread(target=lambda: done.append(over_ranges(nested, 16, piece=1)))
        for _ in range(6)
    ]
    for caller in callers:
        caller.daemon = True
        caller.start()
    for caller in callers:
        caller.join(timeout=60)
    assert len(done) == 6


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own() -> None:
    over_ranges(lengths, 10, piece=1)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        answer = pool.apply_async(over_ranges, (lengths, 10), {"piece": 4})
        assert answer.get(timeout=60) == [(0, 4), (4, 4), (8, 2)]


def test_after_an_error_of_the_caller_nothing_more_is_begun() -> None:
    begun: list[int] = []
    others = threading.Event()

    def fail(start: int, stop: int) -> None:
        begun.append(start)
        if threading.current_thread() is threading.main_thread():
            others.wait(timeout=20)
            raise ValueError("mine")
        others.set()
        time.sleep(0.001)

    with pytest.raises(ValueError, match="mine"):
        over_ranges(fail, 3000, piece=1)
    assert len(begun) < 1500


def taken() -> set[int]:
    return {library["num_threads"] for library in threads._blas_libraries().info()}


def test_products_take_one_thread_until_the_last_user_has_left() -> None:
    before = taken()
    with single_threaded_blas() as ours:
        assert ours
        with single_threaded_blas() as ours:
            assert ours
            assert taken() == {1}
        assert taken() == {1}
    assert taken() == before


def test_whoever_came_first_every_thread_can_have_products_of_one_thread() -> None:
    """threadpoolctl heeds the first thread that limits, for as long as that one lives."""

    def ask() -> tuple[bool, set[int]]:
        with single_threaded_blas() as ours:
            return ours, taken()

    assert ask() == (True, {1})
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(ask).result() == (True, {1})
        assert ask() == (True, {1})
        assert pool.submit(ask).result() == (True, {1})


@pytest.mark.skipif(os.cpu_count() == 1, reason="one core: one thread is all there is")
def test_where_others_limit_the_threads_of_products_one_at_a_time_is_in_here() -> None:
    inside: list[int] = []

    def ask() -> bool:
        with single_threaded_blas() as ours, single_threaded_blas():
            inside.append(1)
            alone = len(inside) == 1
            time.sleep(0.01)
            inside.pop()
            return alone and not ours

    over, begun = threading.Event(), threading.Event()

    def others() -> None:
        with threadpool_limits(2, user_api="blas"):
            begun.set()
            over.wait(timeout=60)

    other = threading.Thread(target=others)
    other.start()
    begun.wait(timeout=60)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: ask(), range(8)))
    over.set()
    other.join()
    with single_threaded_blas() as ours:
        assert ours


def meet(start: int, stop: int) -> int:
    return barrier.wait()


barrier = threading.Barrier(2, timeout=20)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_runs_several_at_once() -> None:
    over_ranges(lengths, 100, piece=1)  # the parent's threads are there
    with multiprocessing.get_context("fork").Pool(1) as pool:
        answer = pool.apply_async(over_ranges, (meet, 2), {"piece": 1})
        assert sorted(answer.get(timeout=60)) == [0, 1]
