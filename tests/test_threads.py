"""Ranges on several threads: all covered once, errors told, no deadlock, and alive after a fork."""

import multiprocessing
import threading

import pytest

from reid_index import threads
from reid_index.threads import over_ranges


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
    over_ranges(lambda start, stop: meet.wait(), 2, piece=1)


def test_an_error_is_the_callers() -> None:
    def fail(start: int, stop: int) -> None:
        if start == 7:
            raise ValueError("the seventh")

    for _ in range(20):
        with pytest.raises(ValueError, match="the seventh"):
            over_ranges(fail, 50, piece=1)
    assert over_ranges(lengths, 10, piece=4) == [(0, 4), (4, 4), (8, 2)]


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
