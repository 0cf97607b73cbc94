"""Where on a time line the candidates of an answer lie: lanes, bars, ticks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from reid_index.search.video_result import Candidate, VideoResult

from .video_formats import clock_text, seconds_text, span

WIDTH = 1000.0
"""Of the line, in units of the drawing."""

_LEAST = 3.0
"""Width of a bar at least, or a second in a day would not be seen."""

_GAP = 2.0
"""Between two bars of one row."""

_TICKS = 8
_STEPS = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400),
    *(21600, 43200, 86400),
)
"""Seconds between two ticks."""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A candidate: where it begins, in units from 0 to WIDTH, how wide and in which row of its lane
    it is; strength: its score's place between the lowest, 0, and the highest, 1; marks: (begin,
    width) of the segments that won; text: what it is, in words."""

    rank: int
    at: float
    width: float
    row: int
    strength: float
    marks: tuple[tuple[float, float], ...]
    text: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A camera, or what it has in one video: its bars, in so many rows that none covers another."""

    name: str
    bars: tuple[Bar, ...]
    rows: int


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """lanes by name; ticks: (place, what it says); axis: what the ticks count; missing: candidates
    whose time is not known on this axis."""

    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[float, str], ...]
    axis: str
    missing: int


def timeline(result: VideoResult) -> Timeline | None:
    """The time line of the candidates, None where no time is known of any.

    By the clock where that is known of one, else by the seconds in each video; there every camera
    of every video has its lane, as the seconds of two videos are not the same time.
    """
    by_clock = any(one.start is not None for one in result.candidates)
    spans = [
        (one, _seconds(one.start, one.end) if by_clock else _plain(one.start_s, one.end_s))
        for one in result.candidates
    ]
    known = [(one, its) for one, its in spans if its is not None]
    if not known:
        return None
    first = min(start for _, (start, _) in known)
    last = max(end for _, (_, end) in known)
    scale = WIDTH / max(last - first, 1e-3)
    scores = [one.score for one, _ in known]
    low, high = min(scores), max(scores)
    videos = {one.video for one, _ in known}
    lanes: dict[tuple[bool, int, str], list[Bar]] = {}
    for one, (start, end) in known:
        video = "" if by_clock or len(videos) < 2 else one.video or ""
        width = max((end - start) * scale, _LEAST)
        bar = Bar(
            rank=one.rank,
            at=min((start - first) * scale, WIDTH - width),
            width=width,
            row=0,
            strength=1.0 if high == low else (one.score - low) / (high - low),
            marks=_marks(one, by_clock=by_clock, first=first, scale=scale),
            text=_text(one),
        )
        lanes.setdefault((one.camera is None, one.camera or 0, video), []).append(bar)
    named = sorted(lanes.items())
    return Timeline(
        lanes=tuple(_lane(_name(*key), bars) for key, bars in named),
        ticks=_ticks(first, last, scale, by_clock=by_clock),
        axis="time (UTC)" if by_clock else "time in the video",
        missing=len(spans) - len(known),
    )


def _seconds(start: datetime | None, end: datetime | None) -> tuple[float, float] | None:
    return _plain(
        None if start is None else start.timestamp(), None if end is None else end.timestamp()
    )


def _plain(start: float | None, end: float | None) -> tuple[float, float] | None:
    if start is None:
        return None
    return start, start if end is None else max(start, end)


def _marks(
    one: Candidate, *, by_clock: bool, first: float, scale: float
) -> tuple[tuple[float, float], ...]:
    matches = dict.fromkeys(
        _seconds(winner.match.start, winner.match.end)
        if by_clock
        else _plain(winner.match.start_s, winner.match.end_s)
        for winner in one.winners
    )
    return tuple(
        ((its[0] - first) * scale, max((its[1] - its[0]) * scale, 1.0))
        for its in matches
        if its is not None
    )


def _text(one: Candidate) -> str:
    what = "" if one.track is None else f", track {one.track}"
    return f"#{one.rank}{what}: score {one.score:.4f}, {span(one)}"


def _name(unknown: bool, camera: int, video: str) -> str:
    name = "camera not known" if unknown else f"camera {camera}"
    return f"{name} · {video}" if video else name


def _lane(name: str, bars: Sequence[Bar]) -> Lane:
    """The bars in as few rows as they need."""
    ends: list[float] = []
    placed = []
    for bar in sorted(bars, key=lambda bar: (bar.at, bar.rank)):
        row = next((row for row, end in enumerate(ends) if end + _GAP <= bar.at), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = bar.at + bar.width
        placed.append(replace(bar, row=row))
    return Lane(name=name, bars=tuple(placed), rows=len(ends))


def _ticks(
    first: float, last: float, scale: float, *, by_clock: bool
) -> tuple[tuple[float, str], ...]:
    length = max(last - first, 1e-3)
    step = next((step for step in _STEPS if length / step <= _TICKS), None)
    if step is None:
        step = 86400 * math.ceil(length / 86400 / _TICKS)
    begin = math.ceil(first / step - 1e-9)
    places = [number * step for number in range(begin, math.floor(last / step + 1e-9) + 1)]
    return tuple(
        (
            (place - first) * scale,
            _clock(place, step, length) if by_clock else seconds_text(place).removesuffix(".0"),
        )
        for place in places
    )


def _clock(place: float, step: float, length: float) -> str:
    """A time as the ticks need it: the day only where there are several."""
    text = clock_text(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=place))
    if step >= 86400:
        return text[:10]
    if length >= 86400:
        return text[5:16]
    return text[11:] if step < 60 else text[11:16]
