"""Where candidates lie on a time line."""

from datetime import timedelta

import pytest
from video_answer import NOON, at, candidate, in_video, result, winner

from cli.timeline import WIDTH, timeline


def bars(line):
    return [(lane.name, [bar.rank for bar in lane.bars]) for lane in line.lanes]


def test_by_the_clock_each_camera_has_a_lane():
    answer = result(
        candidate(1, winner(0, 0.9, 1, **at(21)), camera=2, score=9.0, **at(20)),
        candidate(2, camera=1, score=4.0, **at(0)),
        candidate(3, camera=2, score=5.0, **at(27)),
        candidate(4, score=6.0, **at(10)),
        candidate(5, camera=1, score=7.0, **in_video(4.0)),
        k=9,
    )
    line = timeline(answer)
    assert bars(line) == [("camera 1", [2]), ("camera 2", [1, 3]), ("camera not known", [4])]
    assert (line.axis, line.missing) == ("time (UTC)", 1)
    first, last = line.lanes[1].bars
    assert (first.at, first.width) == pytest.approx((20 / 30 * WIDTH, 3 / 30 * WIDTH))
    assert (last.at, last.width) == pytest.approx((27 / 30 * WIDTH, 3 / 30 * WIDTH))
    assert (first.strength, line.lanes[0].bars[0].strength, last.strength) == (1.0, 0.0, 0.2)
    assert first.marks == (pytest.approx((21 / 30 * WIDTH, 3 / 30 * WIDTH)),)
    assert first.text == "#1: score 9.0000, 2024-05-03 12:00:20–12:00:23Z"
    assert [text for _, text in line.ticks] == [f"12:00:{s:02d}" for s in range(0, 31, 5)]
    assert [place for place, _ in line.ticks] == pytest.approx(
        [second / 30 * WIDTH for second in range(0, 31, 5)]
    )


def test_by_seconds_each_camera_of_each_video_has_a_lane():
    one = candidate(1, camera=1, video="a.mp4", **in_video(0.0))
    same = timeline(result(one, candidate(2, camera=2, video="a.mp4", **in_video(5.0))))
    assert bars(same) == [("camera 1", [1]), ("camera 2", [2])]
    assert same.axis == "time in the video"
    assert [text for _, text in same.ticks] == [f"0:{second:02d}" for second in range(9)]
    other = timeline(result(one, candidate(2, camera=1, video="b.mp4", **in_video(5.0))))
    assert bars(other) == [("camera 1 · a.mp4", [1]), ("camera 1 · b.mp4", [2])]


def test_bars_that_overlap_lie_in_rows():
    some = [
        candidate(rank, camera=1, **in_video(start)) for rank, start in ((1, 0), (2, 1), (3, 4))
    ]
    (lane,) = timeline(result(*some)).lanes
    assert [(bar.rank, bar.row) for bar in lane.bars] == [(1, 0), (2, 1), (3, 0)]
    assert lane.rows == 2


def test_a_moment_in_a_year_is_to_be_seen_and_inside():
    days = [candidate(1, **at(0)), candidate(2, start=NOON + timedelta(days=300))]
    line = timeline(result(*days))
    (lane,) = line.lanes
    assert [bar.width for bar in lane.bars] == [3.0, 3.0]
    assert lane.bars[1].at + lane.bars[1].width == pytest.approx(WIDTH)
    assert 3 <= len(line.ticks) <= 9
    assert all(text.startswith("202") and len(text) == 10 for _, text in line.ticks)


def test_one_moment_has_a_line():
    line = timeline(result(candidate(1, start_s=5.0)))
    (bar,) = line.lanes[0].bars
    assert (bar.at, bar.width, bar.strength) == (0.0, 3.0, 1.0)
    assert line.ticks == ((0.0, "0:05"),)


def test_without_a_time_there_is_no_line():
    assert timeline(result(candidate(1))) is None
    assert timeline(result()) is None
