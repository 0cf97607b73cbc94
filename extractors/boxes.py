"""Person boxes in full pictures, read from COCO JSON, MOTChallenge text or CSV.

This module reads lists of boxes and cuts arrays; it opens no picture.
"""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import BadSource, UnreadableImage

from .cells import finite, integer, is_number, read_text, split_lines
from .extractor import Crop
from .images import SUFFIXES

_MOT_PEDESTRIAN = 1

_CSV_SOURCE = ("file", "source")
CSV_GEOMETRY = (("x", "y", "w", "h"), ("x", "y", "width", "height"), ("x1", "y1", "x2", "y2"))


@dataclass(frozen=True, kw_only=True)
class Box:
    """One person in one picture.

    source: the picture's path relative to the folder of pictures, with "/".
    x, y: left and top edge; width, height: above 0; all finite, in pixels, origin at the top left
        corner of the picture, counted from 0. The box may reach beyond the picture.
    track: which boxes are one person in one sequence. frame: the frame's number as the file has
        it, so counted from 1 in MOTChallenge files. person: label. camera: number. None = unknown.
    """

    source: str
    x: float
    y: float
    width: float
    height: float
    track: str | None = None
    frame: int | None = None
    person: str | None = None
    camera: int | None = None


def read_boxes(path: Path, *, pictures: Path) -> list[Box]:
    """The boxes of a file, in its order; empty when the file is sound but lists no person.

    path: UTF-8 text. A name ending in .json, or text that starts with { or [, is COCO JSON; text
    whose first cell is a number is MOTChallenge; anything else is CSV with a header.
    pictures: the folder that the pictures' paths are relative to. Only MOTChallenge looks into
    it; that a picture of the other formats exists is not checked.

    COCO (cocodataset.org/#format-data; coordinates count from 0): `images` with id and file_name,
    `annotations` with image_id and bbox [x, y, width, height]. Where `categories` has "person", of
    any case, only annotations of that category count. Those with iscrowd 1 never do. `track_id`,
    also inside `attributes`, becomes the track.

    MOTChallenge (Milan et al., MOT16, arXiv:1603.00831, table 5; motchallenge.net/instructions):
    frame, id, x, y, width, height, then optional columns, 6 or more in all. Frames and coordinates
    count from 1 there, so x and y are lowered by 1. Left out are rows with confidence (column 7)
    0 and, in files of 9 columns, rows whose class (column 8) is 1 or above but not 1, pedestrian;
    10 columns have world coordinates there instead. id −1 is no track. The picture of frame 1 is
    the one in `pictures` or `pictures/img1` whose stem is that number: 1.png, 000001.jpg.

    CSV: `file` or `source`; x, y, w, h, or x, y, width, height, or x1, y1, x2, y2 (right and lower
    edge, so width = x2 − x1), the first of these that is whole; optional `track`, `frame`,
    `person` and `camera`, where an empty cell is None. Other columns are not read.

    Raises BadSource, with the line or the annotation's index from 0, for a file that is empty,
    not UTF-8 or of another shape, a value that is missing, not a number, NaN or Inf, a width or
    height not above 0, an unknown image_id, a frame without picture or with several, and a
    picture's path that is absolute or has "..".
    """
    text = read_text(path)
    if path.suffix.lower() == ".json" or text.lstrip().startswith(("{", "[")):
        return _read_coco(text, path=path)
    lines = split_lines(text, path=path)
    line, first = next(lines, (1, [""]))
    if is_number(first[0]):
        return _read_mot(lines, line=line, first=first, path=path, pictures=pictures)
    return _read_csv(lines, line=line, header=first, path=path)


def boxes_by_source(boxes: Iterable[Box]) -> dict[str, list[Box]]:
    """Source → its boxes. Sources are ordered by their first box; each one's boxes keep order."""
    groups: dict[str, list[Box]] = {}
    for box in boxes:
        groups.setdefault(box.source, []).append(box)
    return groups


def crop_box(image: NDArray[np.uint8], box: tuple[float, float, float, float]) -> Crop:
    """The pixels that a box touches: a contiguous copy, so the picture itself can be freed.

    image: uint8 (H, W, 3). box: x, y, width, height in pixels, counted from 0 at the top left.
    Columns from floor(x) up to, without, ceil(x + width), rows likewise, clipped to the picture.

    Raises UnreadableImage for a box wholly outside the picture, without area, or not finite.
    """
    x, y, width, height = box
    if not (all(map(math.isfinite, box)) and width > 0 and height > 0):
        raise UnreadableImage(f"box {box} has no area or is not finite; correct the box")
    rows, columns = image.shape[:2]
    # The limits are whole, so clipping first gives the same pixels, and x + width may be Inf.
    left, right = math.floor(_clip(x, columns)), math.ceil(_clip(x + width, columns))
    top, bottom = math.floor(_clip(y, rows)), math.ceil(_clip(y + height, rows))
    if left >= right or top >= bottom:
        raise UnreadableImage(
            f"box {box} covers no pixel of the {columns}×{rows} picture; correct the box"
        )
    return image[top:bottom, left:right].copy()


def _clip(value: float, limit: int) -> float:
    return min(max(value, 0), limit)


def _checked_box(box: Box, *, where: str) -> Box:
    for name in ("x", "y", "width", "height"):
        if not math.isfinite(getattr(box, name)):
            raise BadSource(f"{where}: {name} is {getattr(box, name)}; give a finite number")
    if box.width <= 0 or box.height <= 0:
        raise BadSource(f"{where}: the box is {box.width}×{box.height} pixels; give a size above 0")
    return box


def _checked_source(name: str, *, where: str) -> str:
    """A picture's path with "/", refused where it is no path inside the folder of pictures."""
    # Windows rules know both slashes, drives and network shares: the stricter reading.
    path = PureWindowsPath(name)
    if path.anchor or ".." in path.parts or not path.parts or "\0" in name:
        raise BadSource(f"{where}: {name!r} is no path inside the folder of pictures; correct it")
    return path.as_posix()


# COCO


def _read_coco(text: str, *, path: Path) -> list[Box]:
    data = _load_json(text, path=path)
    if not isinstance(data, dict):
        raise BadSource(
            f"{path}: a JSON {type(data).__name__}; give a COCO object with images and annotations"
        )
    sources = _coco_sources(_objects(data, "images", path=path), path=path)
    persons = _coco_persons(_objects(data, "categories", path=path)) if "categories" in data else []
    boxes = []
    for index, annotation in enumerate(_objects(data, "annotations", path=path)):
        if annotation.get("iscrowd") == 1:
            continue
        if persons and annotation.get("category_id") not in persons:
            continue
        where = f"{path}, annotations[{index}]"
        boxes.append(_coco_box(annotation, sources=sources, where=where))
    return boxes


def _load_json(text: str, *, path: Path) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadSource(
            f"{path}, line {error.lineno}: not JSON ({error.msg}); correct the file"
        ) from error
    except (RecursionError, ValueError) as error:
        # Nested thousands deep, or an integer of thousands of digits.
        raise BadSource(f"{path}: not a COCO file ({error}); give a COCO object") from error


def _objects(data: Mapping[str, Any], key: str, *, path: Path) -> list[dict[str, Any]]:
    entries = data.get(key)
    if not isinstance(entries, list):
        raise BadSource(f"{path}: {key!r} is missing or no list; give a COCO object with it")
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise BadSource(f"{path}, {key}[{index}]: not an object; correct the entry")
    return entries


def _is_id(value: Any) -> TypeGuard[int | str]:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _coco_sources(images: Sequence[Mapping[str, Any]], *, path: Path) -> dict[int | str, str]:
    sources: dict[int | str, str] = {}
    for index, image in enumerate(images):
        where = f"{path}, images[{index}]"
        identity, name = image.get("id"), image.get("file_name")
        if not _is_id(identity) or not isinstance(name, str):
            raise BadSource(f"{where}: no id or no file_name; give both")
        if identity in sources:
            raise BadSource(f"{where}: id {identity!r} appears twice; give each picture its own")
        sources[identity] = _checked_source(name, where=where)
    return sources


def _coco_persons(categories: Sequence[Mapping[str, Any]]) -> list[Any]:
    """The ids of the categories called person, mostly one; empty where there is none."""
    return [
        category.get("id")
        for category in categories
        if str(category.get("name")).lower() == "person"
    ]


def _coco_box(
    annotation: Mapping[str, Any], *, sources: Mapping[int | str, str], where: str
) -> Box:
    identity = annotation.get("image_id")
    if not _is_id(identity) or identity not in sources:
        raise BadSource(f"{where}: image_id {identity!r} is not in images; add the picture")
    x, y, width, height = _coco_bbox(annotation.get("bbox"), where=where)
    track = _coco_track(annotation, where=where)
    box = Box(source=sources[identity], x=x, y=y, width=width, height=height, track=track)
    return _checked_box(box, where=where)


def _coco_bbox(bbox: Any, *, where: str) -> tuple[float, float, float, float]:
    numbers = isinstance(bbox, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in bbox
    )
    if not numbers or len(bbox) != 4:
        raise BadSource(f"{where}: bbox is not 4 numbers; give [x, y, width, height]")
    try:
        x, y, width, height = map(float, bbox)
        return x, y, width, height
    except OverflowError as error:
        raise BadSource(f"{where}: bbox has a number too large; correct it") from error


def _coco_track(annotation: Mapping[str, Any], *, where: str) -> str | None:
    track = annotation.get("track_id")
    attributes = annotation.get("attributes")
    if track is None and isinstance(attributes, dict):
        track = attributes.get("track_id")
    if track is None:
        return None
    if not _is_id(track):
        raise BadSource(f"{where}: track_id is {track!r}; give a whole number or a string")
    return str(track)


# MOTChallenge


def _read_mot(
    lines: Iterable[tuple[int, list[str]]],
    *,
    line: int,
    first: Sequence[str],
    path: Path,
    pictures: Path,
) -> list[Box]:
    """first: the cells of the file's first line, which is number `line`; lines: all others."""
    if len(first) < 6:
        raise BadSource(
            f"{path}, line {line}: {len(first)} columns; "
            "give frame, id, x, y, width, height as MOTChallenge does, or a header"
        )
    found = _numbered_pictures(pictures)
    boxes = []
    for number, cells in chain([(line, first)], lines):
        where = f"{path}, line {number}"
        if len(cells) != len(first):
            raise BadSource(f"{where}: {len(cells)} columns, not {len(first)}; correct the line")
        values = [
            finite(cell, name=f"column {column}", where=where)
            for column, cell in enumerate(cells, start=1)
        ]
        if is_mot_person(values):
            boxes.append(_mot_box(cells, values, found=found, pictures=pictures, where=where))
    return boxes


def _numbered_pictures(pictures: Path) -> dict[int, list[str]]:
    """Frame number → paths, relative to pictures, of the pictures with that number as stem."""
    found = defaultdict(list)
    for folder in (pictures, pictures / "img1"):
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            numbered = file.stem.isascii() and file.stem.isdigit()
            if numbered and file.suffix.lower() in SUFFIXES:
                found[int(file.stem)].append(file.relative_to(pictures).as_posix())
    return found


def is_mot_person(values: Sequence[float]) -> bool:
    """Whether the numbers of a MOTChallenge line are a person's: see `read_boxes`."""
    ignored = len(values) > 6 and values[6] == 0
    # Only ground truth of 9 columns has a class; trackers that write 9 fill it with −1.
    other_class = len(values) == 9 and values[7] >= 1 and values[7] != _MOT_PEDESTRIAN
    return not ignored and not other_class


def _mot_box(
    cells: Sequence[str],
    values: Sequence[float],
    *,
    found: Mapping[int, Sequence[str]],
    pictures: Path,
    where: str,
) -> Box:
    frame = integer(cells[0], name="frame", where=where, least=1)
    track = integer(cells[1], name="id", where=where, least=-1)
    sources = found.get(frame, ())
    if len(sources) != 1:
        several = " and ".join(sources) or "no picture"
        raise BadSource(
            f"{where}: frame {frame} has {several} in {pictures}; "
            f"keep one picture called {frame:06d}.jpg or the like there or in img1"
        )
    x, y, width, height = values[2:6]
    box = Box(
        source=sources[0],
        x=x - 1,
        y=y - 1,
        width=width,
        height=height,
        track=None if track == -1 else str(track),
        frame=frame,
    )
    return _checked_box(box, where=where)


# CSV


def _read_csv(
    lines: Iterable[tuple[int, list[str]]], *, line: int, header: Sequence[str], path: Path
) -> list[Box]:
    """header: the cells of the file's first line, which is number `line`; lines: all others."""
    names = [name.lower() for name in header]
    if len(set(names)) < len(names):
        raise BadSource(f"{path}, line {line}: the header has a column twice; rename one")
    source = next((name for name in _CSV_SOURCE if name in names), None)
    geometry = next((group for group in CSV_GEOMETRY if set(group) <= set(names)), None)
    if source is None or geometry is None:
        raise BadSource(
            f"{path}, line {line}: {', '.join(header)[:80]!r} is no header of boxes; give "
            "COCO JSON, MOTChallenge text, or CSV with file and x, y, w, h or x1, y1, x2, y2"
        )
    boxes = []
    for number, cells in lines:
        where = f"{path}, line {number}"
        if len(cells) != len(names):
            raise BadSource(f"{where}: {len(cells)} cells, not {len(names)}; correct the line")
        row = dict(zip(names, cells, strict=True))
        boxes.append(_csv_box(row, source=source, geometry=geometry, where=where))
    return boxes


def _csv_box(row: Mapping[str, str], *, source: str, geometry: Sequence[str], where: str) -> Box:
    x, y, width, height = (finite(row[name], name=name, where=where) for name in geometry)
    if "x2" in geometry:
        width, height = width - x, height - y
    box = Box(
        source=_checked_source(row[source], where=where),
        x=x,
        y=y,
        width=width,
        height=height,
        track=row.get("track") or None,
        frame=_optional_integer(row, "frame", where=where),
        person=row.get("person") or None,
        camera=_optional_integer(row, "camera", where=where),
    )
    return _checked_box(box, where=where)


def _optional_integer(row: Mapping[str, str], name: str, *, where: str) -> int | None:
    cell = row.get(name)
    return integer(cell, name=name, where=where, least=0) if cell else None
