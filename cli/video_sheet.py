"""The answer sheet of a video: the target's segments, a time line of each camera, and under each
candidate the segments that decided, frame by frame, as a single HTML page.

The page holds its pictures itself and asks for nothing from anywhere: it opens from disk, offline.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from reid_index.search.video_result import Candidate, VideoResult

from .formats import counted
from .sheet import templates, verdict_of
from .strips import Shot, shots_of
from .timeline import timeline
from .video_formats import places, short_span, span

_TARGET_STRIPS = 8
"""Segments of the target that are shown: those that decided most."""

Weights = Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class TargetSegment:
    """A segment of what is looked for: its frames, and when it was, in words, where known."""

    shots: tuple[Shot, ...]
    span: str | None


@dataclass(frozen=True, kw_only=True)
class TargetShown:
    """What is looked for, as the sheet shows it. segments: in order; none for bare vectors.
    person: its label, None where unknown."""

    label: str
    person: str | None
    segments: Sequence[TargetSegment]


@dataclass(frozen=True, kw_only=True)
class _Frame:
    """A frame as the template prints it. picture: a data: URI, None where it cannot be shown.
    weight: the share of attention that it has, None where there is none."""

    picture: str | None
    text: str
    weight: float | None


@dataclass(frozen=True, kw_only=True)
class _Strip:
    """A segment. number: of the target's segment, from 0. heaviest: of the frames' weights.
    whole: whether its frames are whole pictures of a video."""

    number: int
    frames: Sequence[_Frame]
    span: str | None
    whole: bool
    similarity: float | None = None
    item: int | None = None

    @property
    def heaviest(self) -> float:
        return max((frame.weight or 0.0 for frame in self.frames), default=0.0) or 1.0


@dataclass(frozen=True, kw_only=True)
class _Card:
    candidate: Candidate
    verdict: str
    span: str | None
    place: str
    strips: Sequence[_Strip]


def render_video_sheet(
    result: VideoResult,
    *,
    target: TargetShown,
    pictures: Callable[[Iterable[Shot]], Mapping[Shot, str | None]],
    weights: Sequence[Sequence[Weights]],
    title: str,
    rule: str,
    details: Sequence[tuple[str, str]],
    note: str | None = None,
    footnote: str | None = None,
) -> str:
    """The page as one string, to be written as UTF-8.

    pictures: shots → data: URIs of their crops, None for what cannot be shown. It is asked once,
    for all that the page shows, so that each video is read once. weights: for each candidate and
    each of its winners the attention over its frames, from 0 to 1, None where there is none.
    rule: in words, how scores are made of pairs. details: (term, value) pairs about the search,
    shown in this order. note: on what is missing.

    Of the target the segments are shown that the winners were compared with, 8 at most: those of
    most winners, equal ones by number.
    """
    numbers = _shown_numbers(result, len(target.segments))
    shots = {shot for number in numbers for shot in target.segments[number].shots}
    shots |= {
        shot for one in result.candidates for won in one.winners for shot in shots_of(won.match)
    }
    uris = pictures(shots)
    scores = [one.score for one in result.candidates]
    page = (
        templates()
        .get_template("video_sheet.html")
        .render(
            title=title,
            target=target,
            person=target.person,
            target_strips=[_target_strip(target, number, uris) for number in numbers],
            left_out=_left_out(len(target.segments), len(numbers)),
            line=timeline(result),
            lowest=min(scores, default=0.0),
            highest=max(scores, default=0.0),
            cards=[
                _card(one, target.person, its, uris, place=place)
                for one, its, place in zip(
                    result.candidates, weights, places(result.candidates), strict=True
                )
            ],
            rule=rule,
            note=note,
            details=details,
            footnote=footnote,
        )
    )
    # A file name that is not UTF-8 reaches Python as lone surrogates, which no file can hold.
    return page.encode(errors="replace").decode()


def _shown_numbers(result: VideoResult, segments: int) -> list[int]:
    """Which segments of the target are shown, in order."""
    won = Counter(winner.target for one in result.candidates for winner in one.winners)
    best = sorted(won, key=lambda number: (-won[number], number))[:_TARGET_STRIPS]
    # Without any winner, the target is shown all the same.
    return sorted(number for number in best or range(_TARGET_STRIPS) if number < segments)


def _left_out(segments: int, shown: int) -> str | None:
    others = segments - shown
    if others <= 0 or shown == 0:
        return None
    verb = "is" if others == 1 else "are"
    return f"{counted(others, 'more segment')} of the target {verb} not shown"


def _target_strip(target: TargetShown, number: int, uris: Mapping[Shot, str | None]) -> _Strip:
    segment = target.segments[number]
    return _Strip(
        number=number,
        frames=_frames(segment.shots, None, uris),
        span=segment.span,
        whole=_is_whole(segment.shots),
    )


def _card(
    candidate: Candidate,
    person: str | None,
    weights: Sequence[Weights],
    uris: Mapping[Shot, str | None],
    *,
    place: str,
) -> _Card:
    strips = []
    for winner, its in zip(candidate.winners, weights, strict=True):
        shots = shots_of(winner.match)
        strips.append(
            _Strip(
                number=winner.target,
                frames=_frames(shots, its, uris),
                span=short_span(winner.match, within=candidate),
                whole=_is_whole(shots),
                similarity=winner.similarity,
                item=winner.match.item,
            )
        )
    return _Card(
        candidate=candidate,
        verdict=verdict_of(candidate.person, person),
        span=span(candidate),
        place=place,
        strips=strips,
    )


def _frames(
    shots: Sequence[Shot], weights: Weights, uris: Mapping[Shot, str | None]
) -> list[_Frame]:
    """weights: as many as shots, or none."""
    given: Sequence[float | None] = weights or [None] * len(shots)
    return [
        _Frame(picture=uris[shot], text=shot.text, weight=weight)
        for shot, weight in zip(shots, given, strict=True)
    ]


def _is_whole(shots: Sequence[Shot]) -> bool:
    return any(
        shot.video is not None and shot.frame is not None and shot.frame.box is None
        for shot in shots
    )
