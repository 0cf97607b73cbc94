"""A result as a table for people, and as JSONL and CSV for programs."""

import csv
import io
import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from reid_index import Match, Result
from reid_index.attributes import CONFIDENCE, ORIGIN, PREFIX, names_in
from reid_index.filters.where import compile_where

_FIELDS = (
    *("rank", "item", "source", "camera", "person", "track", "video", "start", "end"),
    *("start_s", "end_s", "box", "similarity", "distance", "matched_distance"),
    "reranked_distance",
)


def as_record(match: Match) -> dict[str, Any]:
    """A match as a flat JSON object: the columns of the item beside rank and score.

    Times are ISO 8601 in UTC. similarity is null in a Euclidean gallery, distance in the others;
    matched_distance is null where no parts are compared, reranked_distance unless the answer was
    re-ranked. confidence is there where nothing but a description was asked for.
    A further column of the item that is called like one of these, such as rank, is left out.
    """
    record = {name: getattr(match, name) for name in _FIELDS}
    if match.confidence is not None:
        record["confidence"] = match.confidence
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


def csv_text(result: Result, *, columns: Sequence[str], is_described: bool = False) -> str:
    """CSV with a header; a box or a set is a JSON list in its cell.

    columns: all that the gallery's items have, so that every answer has the same header.
    is_described: nothing but a description was asked for, so that matches have a confidence.
    """
    fields = (*_FIELDS, "confidence") if is_described else _FIELDS
    names = [*fields, *(name for name in columns if name not in fields)]
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


def table(result: Result, *, attributes: Sequence[str] = (), is_described: bool = False) -> str:
    """A table for a terminal. attributes: of the items, to be shown; is_described: see
    `csv_text`."""
    score = "similarity" if result.metric.higher_is_better else "distance"
    if is_described:
        score = "confidence"
    reranked = any(match.reranked_distance is not None for match in result.matches)
    matched = any(match.matched_distance is not None for match in result.matches)
    rows = [["rank", "item", score, "camera", "person", *attributes, "time", "source"]]
    if reranked:
        rows[0].insert(3, "re-ranked")
    if matched:
        rows[0].insert(3, "matched")
    for match in result.matches:
        value = score_of(match)
        rows.append(
            [
                str(match.rank),
                str(match.item),
                f"{value:.4f}",
                _or_dash(match.camera),
                _or_dash(match.person),
                *(attribute_text(match, name) or "-" for name in attributes),
                when(match),
                place(match),
            ]
        )
        if reranked:
            rows[-1].insert(3, f"{match.reranked_distance:.4f}")
        if matched:
            rows[-1].insert(3, f"{match.matched_distance:.4f}")
    return aligned(rows)


def score_of(match: Match) -> float:
    """Its similarity, distance or confidence: the one that it has."""
    scores = (match.similarity, match.distance, match.confidence)
    return next(score for score in scores if score is not None)


def named_attributes(where: str | None, schema: pa.Schema) -> list[str]:
    """The attributes that an expression asks of columns of that schema, without prefix. Raises
    WhereError."""
    if where is None:
        return []
    asked = [
        name.removesuffix(CONFIDENCE).removesuffix(ORIGIN)
        for name in compile_where(where).columns(schema)
    ]
    return names_in(name for name in dict.fromkeys(asked) if name in schema.names)


def attribute_text(match: Match, name: str) -> str | None:
    """An attribute of a match, "yes (0.93)" or "black, red (0.81)", without a number where somebody
    said so; None where it is not known."""
    value = match.extra.get(PREFIX + name)
    if value is None:
        return None
    words = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    sure = match.extra.get(PREFIX + name + CONFIDENCE)
    return words if sure is None else f"{words} ({sure:.2f})"


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
