"""A result as a table for people, and as JSONL and CSV for programs."""

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from reid_index import Match, Result

_FIELDS = (
    *("rank", "item", "source", "camera", "person", "track", "video", "start", "end"),
    *("start_s", "end_s", "box", "similarity", "distance", "matched_distance"),
    "reranked_distance",
)


def as_record(match: Match) -> dict[str, Any]:
    """A match as a flat JSON object: the columns of the item beside rank and score.

    Times are ISO 8601 in UTC. similarity is null in a Euclidean gallery, distance in the others;
    matched_distance is null where no parts are compared, reranked_distance unless the answer was
    re-ranked.
    A further column of the item that is called like one of these, such as rank, is left out.
    """
    record = {name: getattr(match, name) for name in _FIELDS}
    record |= {name: value for name, value in match.extra.items() if name not in record}
    return {name: plain(value) for name, value in record.items()}


def plain(value: Any) -> Any:
    """A value as JSON has it: times as text, NaN and Inf, which JSON lacks, as null."""
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _time(value: datetime) -> str:
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def jsonl(result: Result) -> str:
    """One JSON object a line, best match first."""
    return "".join(
        json.dumps(as_record(match), ensure_ascii=False, allow_nan=False) + "\n"
        for match in result.matches
    )


def csv_text(result: Result, *, columns: Sequence[str]) -> str:
    """CSV with a header; a box or a set is a JSON list in its cell.

    columns: all that the gallery's items have, so that every answer has the same header.
    """
    names = [*_FIELDS, *(name for name in columns if name not in _FIELDS)]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for record in map(as_record, result.matches):
        writer.writerow(
            {
                name: json.dumps(value) if isinstance(value, list | tuple) else value
                for name, value in record.items()
            }
        )
    return out.getvalue()


def table(result: Result) -> str:
    """A table for a terminal."""
    score = "similarity" if result.metric.higher_is_better else "distance"
    reranked = any(match.reranked_distance is not None for match in result.matches)
    matched = any(match.matched_distance is not None for match in result.matches)
    rows = [["rank", "item", score, "camera", "person", "time", "source"]]
    if reranked:
        rows[0].insert(3, "re-ranked")
    if matched:
        rows[0].insert(3, "matched")
    for match in result.matches:
        value = match.similarity if match.distance is None else match.distance
        rows.append(
            [
                str(match.rank),
                str(match.item),
                f"{value:.4f}",
                _or_dash(match.camera),
                _or_dash(match.person),
                when(match),
                place(match),
            ]
        )
        if reranked:
            rows[-1].insert(3, f"{match.reranked_distance:.4f}")
        if matched:
            rows[-1].insert(3, f"{match.matched_distance:.4f}")
    return aligned(rows)


def place(match: Match) -> str:
    """The picture of a match and, where it shows more people, the box of this one in it."""
    if match.box is None:
        return match.source
    return f"{match.source} @{','.join(f'{side:g}' for side in match.box)}"


def when(match: Match) -> str:
    """The time of a match: a point in time, or seconds in its video, or a dash."""
    if match.start is not None:
        return _time(match.start)
    if match.start_s is not None:
        return f"{match.start_s:.1f} s"
    return "-"


def aligned(rows: list[list[str]]) -> str:
    """Rows of cells as lines with columns, every cell `printable`."""
    clean = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*clean, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in clean
    )
    return "".join(line + "\n" for line in lines)


def printable(text: str) -> str:
    """One line: control characters, which could steer a terminal, are replaced."""
    return "".join(c if c.isprintable() else "�" for c in text)


def counted(number: int, noun: str) -> str:
    """A number of things: "1 item", "1,000 items"."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
