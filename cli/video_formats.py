"""The answer to a video as a table for people, and as JSONL and CSV for programs."""

import csv
import io
import json
import posixpath
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any, Protocol

from reid_index.search.video_result import Candidate, VideoResult, Winner

from .formats import aligned, plain

_FIELDS = (
    *("rank", "score", "camera", "person", "track", "video", "start", "end", "start_s", "end_s"),
    *("segments", "pairs", "counted"),
)
_COLUMNS = (*_FIELDS, "similarity", "item", "source", "root", "items", "similarities")
_OF_A_WINNER = (
    *(
        "item",
        "source",
        "root",
        "person",
        "start",
        "end",
        "start_s",
        "end_s",
        "frame_first",
        "frame_last",
    ),
    "box",
)


def as_record(
    candidate: Candidate, *, weights: Sequence[Sequence[float] | None] | None = None
) -> dict[str, Any]:
    """A candidate as a JSON object, its winners in it.

    Times are ISO 8601 in UTC, start_s and end_s seconds in the video. similarity: of its best
    pair. weights: for each winner the attention over its frames, None where there is none.
    """
    winners = [
        _winner(winner, None if weights is None else weights[place])
        for place, winner in enumerate(candidate.winners)
    ]
    record = {name: plain(getattr(candidate, name)) for name in _FIELDS}
    return record | {"similarity": plain(best(candidate)), "winners": winners}


def _winner(winner: Winner, weights: Sequence[float] | None) -> dict[str, Any]:
    match = winner.match
    record: dict[str, Any] = {"target": winner.target, "similarity": plain(winner.similarity)}
    for name in _OF_A_WINNER:
        value = match.extra.get(name) if name.startswith("frame_") else getattr(match, name)
        record[name] = plain(value)
    frames = match.extra.get("frames")
    record["frames"] = None if frames is None else list(frames)
    record["attention"] = None if weights is None else [plain(float(one)) for one in weights]
    return record


def best(candidate: Candidate) -> float | None:
    """The similarity of its best pair, None where no pair reached what counts."""
    return candidate.winners[0].similarity if candidate.winners else None


def jsonl(result: VideoResult, *, weights: Sequence[Sequence[Sequence[float] | None]]) -> str:
    """One JSON object a line, best candidate first. weights: of each candidate's winners."""
    return "".join(
        json.dumps(as_record(candidate, weights=its), ensure_ascii=False, allow_nan=False) + "\n"
        for candidate, its in zip(result.candidates, weights, strict=True)
    )


def csv_text(result: VideoResult) -> str:
    """CSV with a header, a row for each candidate; similarity, item, source and root are those of
    its best winner, items and similarities of all winners, as JSON lists."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for candidate in result.candidates:
        row = {name: plain(getattr(candidate, name)) for name in _FIELDS}
        first = candidate.winners[0].match if candidate.winners else None
        row |= {
            "similarity": plain(best(candidate)),
            "item": None if first is None else first.item,
            "source": None if first is None else first.source,
            "root": None if first is None else first.root,
            "items": json.dumps([winner.match.item for winner in candidate.winners]),
            "similarities": json.dumps([plain(one.similarity) for one in candidate.winners]),
        }
        writer.writerow(row)
    return out.getvalue()


def table(result: VideoResult) -> str:
    """A table for a terminal."""
    rows = [["rank", "score", "similarity", "camera", "person", "track", "span", "pairs", "source"]]
    for candidate, place in zip(result.candidates, places(result.candidates), strict=True):
        similarity = best(candidate)
        rows.append(
            [
                str(candidate.rank),
                f"{candidate.score:.4f}",
                "-" if similarity is None else f"{similarity:.4f}",
                "-" if candidate.camera is None else str(candidate.camera),
                candidate.person or "-",
                candidate.track or "-",
                span(candidate) or "-",
                f"{candidate.counted:,} of {candidate.pairs:,}",
                place,
            ]
        )
    return aligned(rows)


def places(candidates: Sequence[Candidate]) -> list[str]:
    """Where each candidate is to be found: its video, else the folder of its track's pictures, else
    its picture; below its root, where they have several, as names may be the same there."""
    roots = {one.winners[0].match.root for one in candidates if one.winners}
    found = []
    for one in candidates:
        place = _place(one)
        if len(roots) > 1 and one.winners:
            place = posixpath.join(one.winners[0].match.root, place)
        found.append(place)
    return found


def _place(candidate: Candidate) -> str:
    if candidate.video is not None:
        return candidate.video
    if not candidate.winners:
        return "-"
    source = candidate.winners[0].match.source
    if candidate.track is None:
        return source
    return str(PurePosixPath(source).parent)


class Timed(Protocol):
    """What has a time: a candidate, a match, a segment of the target."""

    @property
    def start(self) -> datetime | None: ...
    @property
    def end(self) -> datetime | None: ...
    @property
    def start_s(self) -> float | None: ...
    @property
    def end_s(self) -> float | None: ...


def span(of: Timed) -> str | None:
    """From when to when it is seen: by the clock, in UTC, else by the seconds
    in its video; None where neither is known."""
    if of.start is not None:
        return _clock_span(of.start, of.end)
    if of.start_s is not None:
        first = seconds_text(of.start_s)
        last = first if of.end_s is None else seconds_text(of.end_s)
        return first if first == last else f"{first}–{last}"
    return None


def short_span(of: Timed, *, within: Timed) -> str | None:
    """`span` without the day, where all that it is within is of that day."""
    text, whole = span(of), span(within)
    if text is None or of.start is None or whole is None or whole.count("-") > 2:
        return text
    return text[11:]


def _clock_span(start: datetime, end: datetime | None) -> str:
    first = clock_text(start)
    last = first if end is None else clock_text(end)
    if first == last:
        return f"{first}Z"
    if first[:10] == last[:10]:
        last = last[11:]
    return f"{first}–{last}Z"


def clock_text(time: datetime) -> str:
    """A point in time to the second, in UTC."""
    return time.astimezone(UTC).replace(tzinfo=None).isoformat(sep=" ", timespec="seconds")


def seconds_text(seconds: float) -> str:
    """Seconds in a video as m:ss.s, or h:mm:ss.s from an hour on."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{tail}" if hours else f"{minutes}:{tail}"
