"""The people in several pictures, by picture and position, and their vectors."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from extractors.boxes import Box, boxes_by_source, read_boxes
from extractors.extractor import Extractor
from extractors.pictures import LISTS, Person, Picture, Source
from reid_index import Metric, open_shard
from reid_index.errors import BadSource, NothingToIndex, UsageError

from .formats import counted, printable
from .sources import extract, find_source, tell_left_out

_TOLD = 20
"""Pictures without people that are named one by one."""


@dataclass(frozen=True)
class Member:
    """One person. picture, position: from 1. source: the picture below the root. box: x, y, width,
    height in pixels, None for the whole picture."""

    picture: int
    position: int
    source: str
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class Assembly:
    """Pictures with people, before anything is opened. source: what `harvest` takes; its people
    have their picture and position as columns. pictures: how many. members: all people, in order.
    """

    source: Source
    pictures: int
    members: tuple[Member, ...]


@dataclass(frozen=True)
class Crowd:
    """The people who could be read, in order of picture and position. vectors: (n, D), as the
    extractor makes them. skipped: how many could not be read."""

    members: tuple[Member, ...]
    vectors: NDArray[np.floating]
    skipped: int


def assemble(paths: Sequence[Path], boxes: Path | None, *, strict: bool) -> Assembly:
    """The people in picture files and folders, the pictures counted in the order of the paths, in
    a folder by name.

    boxes: a file of person boxes; a picture's are those whose path is its own below the folder
    given or, of several paths, below what they have in common, or else ends the longest path that
    ends as the picture's does. None: each picture is one person. strict: a picture without people
    is an error, and is not just told.

    Raises BadSource, NothingToIndex, UsageError.
    """
    lists = [path for path in paths if path.suffix.lower() in LISTS]
    if lists:
        raise UsageError(f"{lists[0]} is a list: name pictures or folders of them")
    source = find_source(paths, layout="folder", boxes=None, keep_junk=False)
    tell_left_out(source)
    if source.count == 0:
        raise NothingToIndex(f"{source.root}: there are no pictures in it")
    if source.count == 1:
        raise UsageError(f"{source.root}: one picture: name at least two to be compared")
    pictures = list(source.pictures())
    if boxes is not None:
        pictures = _with_boxes(pictures, boxes, root=source.root, strict=strict)
    pictures = [_numbered(picture, number) for number, picture in enumerate(pictures, start=1)]
    if sum(bool(picture.people) for picture in pictures) < 2:
        raise NothingToIndex(
            f"{boxes}: of {counted(len(pictures), 'picture')} it has people in one alone, who are "
            "different people: nobody is to be compared"
        )
    members = [_member(picture, person) for picture in pictures for person in picture.people]
    people = replace(
        source,
        count=len(members),
        columns={"picture": pa.int64(), "position": pa.int64()},
        pictures=lambda: (picture for picture in pictures if picture.people),
    )
    return Assembly(people, len(pictures), tuple(members))


def _numbered(picture: Picture, number: int) -> Picture:
    people = [
        replace(person, columns={"picture": number, "position": position})
        for position, person in enumerate(picture.people, start=1)
    ]
    return replace(picture, people=tuple(people))


def _member(picture: Picture, person: Person) -> Member:
    place = person.columns
    return Member(place["picture"], place["position"], picture.source, person.box)


def _with_boxes(
    pictures: Sequence[Picture], path: Path, *, root: Path, strict: bool
) -> list[Picture]:
    """The pictures with their people of a file of boxes; without any where it has none."""
    found = boxes_by_source(read_boxes(path, pictures=root))
    taken = _taken(pictures, found, path)
    if not taken:
        raise NothingToIndex(
            f"{path}: it has no box in any of {counted(len(pictures), 'picture')}; its paths are "
            f"relative to {root}"
        )
    alone = [picture for picture in pictures if picture.source not in taken]
    for picture in alone[:_TOLD]:
        told = f"{picture.path}: {path} has nobody in it"
        if strict:
            raise BadSource(told)
        click.echo(f"no person: {printable(told)}", err=True)
    if len(alone) > _TOLD:
        click.echo(f"no person: in {len(alone):,} pictures altogether", err=True)
    others = sum(len(boxes) for name, boxes in found.items() if name not in taken.values())
    if others:
        message = f"{path}: left out {others:,}: in pictures that are not given"
        click.echo(printable(message), err=True)
    return [
        replace(picture, people=tuple(_people(found.get(taken.get(picture.source, ""), ()))))
        for picture in pictures
    ]


def _people(boxes: Sequence[Box]) -> Iterator[Person]:
    for box in boxes:
        yield Person((box.x, box.y, box.width, box.height))


def _taken(pictures: Sequence[Picture], found: dict[str, list[Box]], path: Path) -> dict[str, str]:
    """Source of a picture → how the file of boxes calls it, for those that it has boxes in."""
    taken = {picture.source: picture.source for picture in pictures if picture.source in found}
    called: dict[str, Picture] = {}
    for picture in pictures:
        if picture.source in taken:
            continue
        parts = Path(os.path.abspath(picture.path)).parts[1:]
        tails = ("/".join(parts[at:]) for at in range(len(parts)))
        name = next((tail for tail in tails if tail in found and tail not in taken), None)
        if name is None:
            continue
        if name in called:
            raise BadSource(
                f"{path}: {name!r} may be {called[name].path} or {picture.path}; give longer paths"
            )
        called[name] = picture
    return taken | {picture.source: name for name, picture in called.items()}


def embed(
    assembly: Assembly,
    extractor: Extractor,
    *,
    batch_size: int,
    workers: int | None,
    strict: bool,
) -> Crowd:
    """The vectors of the people who can be read; the others are told and counted.

    Raises NothingToIndex where people of fewer than two pictures are left, with strict
    UnreadableImage for the first who cannot be read, and what the extractor raises.
    """
    with tempfile.TemporaryDirectory() as scratch:
        taken = extract(
            assembly.source,
            extractor,
            Path(scratch),
            metric=Metric.EUCLIDEAN,  # vectors are kept as they are
            dtype="float32",
            batch_size=batch_size,
            workers=workers,
            strict=strict,
        )
        shards = [open_shard(part) for part in taken.parts]
        vectors = [np.array(shard.vectors, np.float32) for shard in shards]
        tables = [shard.items.select(["picture", "position"]) for shard in shards]
    read: set[tuple[int, int]] = set()
    for table in tables:
        read |= set(zip(*(table[name].to_pylist() for name in table.column_names), strict=True))
    members = [one for one in assembly.members if (one.picture, one.position) in read]
    if len({member.picture for member in members}) < 2:
        only = "in one picture alone" if members else "in no picture"
        raise NothingToIndex(
            f"{assembly.source.root}: people can be read {only}, of "
            f"{counted(assembly.pictures, 'picture')}: nobody is to be compared"
        )
    return Crowd(tuple(members), np.concatenate(vectors), taken.skipped)
