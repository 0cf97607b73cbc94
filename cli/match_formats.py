"""People and pairs of them as a table for people, and as JSONL, CSV and JSON for programs."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .crowd import Member
from .formats import aligned, printable


class Pair(NamedTuple):
    """Two people of different pictures, how far apart they are, and what was decided."""

    one: Member
    other: Member
    distance: float
    same: bool


_PAIR = (
    *("picture", "position", "source", "other_picture", "other_position", "other_source"),
    *("distance", "same"),
)
_PERSON = ("group", "picture", "position", "source", "box")


def pair_text(
    form: str, pairs: Iterable[Pair], *, members: Sequence[Member], about: Mapping[str, Any]
) -> Iterator[str]:
    """The answer, piece by piece, so that millions of pairs need no memory.

    form: table, jsonl, csv, json. members: everybody who may be in a pair. about: of the JSON
    object, beside `people` and `pairs`.
    """
    if form == "table":
        yield from _table(pairs, members)
    elif form == "csv":
        yield _row(_PAIR)
        for pair in pairs:
            # A number, as in a list of pairs for `reid calibrate`.
            yield _row((_record(pair) | {"same": int(pair.same)}).values())
    elif form == "jsonl":
        for pair in pairs:
            yield json.dumps(_record(pair), ensure_ascii=False) + "\n"
    else:
        people = [_person(member) for member in members]
        head = json.dumps({**about, "people": people}, ensure_ascii=False)
        yield head.removesuffix("}") + ', "pairs": ['
        between = ""
        for pair in pairs:
            yield f"{between}\n{json.dumps(_record(pair), ensure_ascii=False)}"
            between = ","
        yield "]}\n"


def group_text(
    form: str, members: Sequence[Member], groups: Sequence[int], *, about: Mapping[str, Any]
) -> str:
    """Everybody with the group that they are in, from 1, group after group. See `pair_text`."""
    order = sorted(range(len(members)), key=lambda at: groups[at])  # stable: people in order
    people = [{"group": groups[at] + 1, **_person(members[at])} for at in order]
    if form == "json":
        return json.dumps({**about, "people": people}, ensure_ascii=False) + "\n"
    if form == "jsonl":
        return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in people)
    if form == "csv":
        boxes = (None if one["box"] is None else json.dumps(one["box"]) for one in people)
        rows = [(one | {"box": box}).values() for one, box in zip(people, boxes, strict=True)]
        return "".join(map(_row, [_PERSON, *rows]))
    cells = [["group", "picture", "position", "file"]]
    for at in order:
        member = members[at]
        numbers = (groups[at] + 1, member.picture, member.position)
        cells.append([*map(str, numbers), _place(member)])
    return aligned(cells)


def _record(pair: Pair) -> dict[str, Any]:
    one, other = pair.one, pair.other
    values = (
        *(one.picture, one.position, one.source, other.picture, other.position, other.source),
        *(pair.distance, pair.same),
    )
    return dict(zip(_PAIR, values, strict=True))


def _person(member: Member) -> dict[str, Any]:
    box = None if member.box is None else list(member.box)
    return {
        "picture": member.picture,
        "position": member.position,
        "source": member.source,
        "box": box,
    }


class _Line:
    """A file for the csv module that gives back what was written to it."""

    def write(self, text: str) -> str:
        return text


_writer = csv.writer(_Line(), lineterminator="\n")


def _row(cells: Iterable[object]) -> str:
    line: str = _writer.writerow(cells)  # gives what `write` gives
    return line


_HEADS = (
    *("picture", "position", "other picture", "other position", "distance", "same"),
    *("file", "other file"),
)


def _table(pairs: Iterable[Pair], members: Sequence[Member]) -> Iterator[str]:
    """As `aligned` makes one, but with widths that are known beforehand."""
    widest = max(len(printable(_place(member))) for member in members)
    widths = [max(len(head), widest if "file" in head else 0) for head in _HEADS]

    def line(cells: Iterable[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return "  ".join(padded).rstrip() + "\n"

    yield line(_HEADS)
    for one, other, distance, same in pairs:
        numbers = (one.picture, one.position, other.picture, other.position)
        yield line(
            [
                *map(str, numbers),
                f"{distance:.4f}",
                "yes" if same else "no",
                *(printable(_place(one)), printable(_place(other))),
            ]
        )


def _place(member: Member) -> str:
    if member.box is None:
        return member.source
    return f"{member.source} @{','.join(f'{side:g}' for side in member.box)}"
