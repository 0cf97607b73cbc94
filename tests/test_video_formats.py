"""Answers to videos as text: tables, JSONL, CSV, and how times are said."""

import csv
import io
import json
from datetime import timedelta

import pytest
from video_answer import NOON, at, candidate, in_video, match, result, winner

from cli.video_formats import csv_text, jsonl, seconds_text, short_span, span, table

FRAMES = ["7@0.28:1,2,30,60", "9@0.36:2,2,30,60"]
OF_A_VIDEO = {"source": "a.mp4", "video": "a.mp4", "extra": {"frames": FRAMES, "frame_first": 7}}


def answer():
    first = candidate(
        1,
        winner(1, 0.75, 40, **OF_A_VIDEO, **in_video(0.25)),
        winner(0, 0.5, 41, **OF_A_VIDEO),
        score=1.25,
        camera=2,
        person="anna",
        track="7",
        video="a.mp4",
        **in_video(65.04),
        **at(0),
    )
    return result(
        first,
        candidate(2, winner(0, 0.25, 3), score=0.25, track="t", start_s=3.0),
        candidate(3, score=0.0),
    )


def test_a_table_has_a_line_for_each_candidate():
    header, *lines = table(answer()).splitlines()
    titles = ["rank", "score", "similarity", "camera", "person", "track", "span", "pairs", "source"]
    assert header.split() == titles
    places = [header.index(title) for title in titles]
    cells = [
        [line[a:b].strip() for a, b in zip(places, [*places[1:], None], strict=True)]
        for line in lines
    ]
    assert cells == [
        [
            *("1", "1.2500", "0.7500", "2", "anna", "7"),
            *("2024-05-03 12:00:00–12:00:03Z", "2 of 6", "a.mp4"),
        ],
        ["2", "0.2500", "0.2500", "-", "-", "t", "0:03.0", "2 of 6", "t"],
        ["3", "0.0000", "-", "-", "-", "-", "-", "2 of 6", "-"],
    ]


def test_one_name_below_two_roots_is_told_apart():
    some = [
        candidate(1, winner(0, 0.5, 1, **OF_A_VIDEO | {"root": "/d1"}), video="a.mp4"),
        candidate(2, winner(0, 0.5, 2, **OF_A_VIDEO | {"root": "/d2/"}), video="a.mp4"),
        candidate(3, winner(0, 0.5, 3, root=""), track="1"),
        candidate(4, video="b.mp4"),
    ]
    lines = table(result(*some)).splitlines()
    assert [line.split()[-1] for line in lines[1:]] == ["/d1/a.mp4", "/d2/a.mp4", "t", "b.mp4"]


def test_jsonl_has_winners_with_spans_frames_and_attention():
    weights = [[[0.25, 0.75], None], [None], []]
    first, second, third = map(json.loads, jsonl(answer(), weights=weights).splitlines())
    assert list(first) == [
        *("rank", "score", "camera", "person", "track", "video", "start", "end", "start_s"),
        *("end_s", "segments", "pairs", "counted", "similarity", "winners"),
    ]
    assert first["start"] == "2024-05-03T12:00:00Z"
    assert (first["start_s"], first["end_s"], first["similarity"]) == (65.04, 68.04, 0.75)
    best, other = first["winners"]
    assert (best["target"], best["similarity"], best["item"]) == (1, 0.75, 40)
    assert (best["source"], best["root"]) == ("a.mp4", "/r")
    assert (best["start_s"], best["end_s"], best["frame_first"]) == (0.25, 3.25, 7)
    assert (best["frames"], best["attention"]) == (FRAMES, [0.25, 0.75])
    assert other["attention"] is None
    assert (second["camera"], second["winners"][0]["frames"]) == (None, None)
    assert (third["similarity"], third["winners"]) == (None, [])


def test_csv_has_a_row_for_each_candidate():
    rows = list(csv.DictReader(io.StringIO(csv_text(answer()))))
    assert [row["rank"] for row in rows] == ["1", "2", "3"]
    first = rows[0]
    assert (first["item"], first["source"], first["similarity"]) == ("40", "a.mp4", "0.75")
    assert first["root"] == "/r"
    assert (json.loads(first["items"]), json.loads(first["similarities"])) == (
        [40, 41],
        [0.75, 0.5],
    )
    assert (first["start"], first["end_s"]) == ("2024-05-03T12:00:00Z", "68.04")
    assert (rows[2]["item"], rows[2]["items"]) == ("", "[]")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00.0"),
        (59.96, "1:00.0"),
        (65.04, "1:05.0"),
        (3599.9, "59:59.9"),
        (7325.5, "2:02:05.5"),
    ],
)
def test_seconds_in_a_video(seconds, text):
    assert seconds_text(seconds) == text


def test_spans_of_a_day_of_two_and_of_a_moment():
    day = candidate(1, **at(0))
    assert span(day) == "2024-05-03 12:00:00–12:00:03Z"
    assert short_span(day, within=day) == "12:00:00–12:00:03Z"
    night = candidate(1, start=NOON, end=NOON + timedelta(hours=13))
    assert span(night) == "2024-05-03 12:00:00–2024-05-04 01:00:00Z"
    assert short_span(day, within=night) == span(day)
    assert span(match(1, start=NOON)) == "2024-05-03 12:00:00Z"
    assert span(match(1, start_s=0.0, end_s=0.0)) == "0:00.0"
    assert span(match(1)) is None
    assert short_span(match(1), within=day) is None
