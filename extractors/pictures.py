"""Where crops come from: folders, folders of Market-1501 or MARS and of tracklets, lists of files,
pictures with boxes.

A source lists pictures and what is known of the people in them; it opens none of them.
"""

import csv
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from reid_index.errors import BadItems, BadSource, UsageError
from reid_index.reading import PARQUET_ERRORS, ParquetTable
from reid_index.store.items import BOX, STANDARD, conform, sound_attributes

from .boxes import boxes_by_source, read_boxes
from .extractor import Crop
from .images import SUFFIXES
from .names import camera_of, last_number

_MARKET = re.compile(
    r"^(?P<person>-?\d+)_c(?P<camera>\d{1,9})(?:s(?P<sequence>\d{1,18}))?(?:_f?(?P<frame>\d{1,18}))?"
    r"(?:_\d+)*\."
)
"""`0002_c1s1_000451_03.jpg` (Market-1501), `0001_c2_f0046182.jpg` (DukeMTMC-reID): person, camera,
sequence, frame, box. Matched on the name alone, or folders such as `2020_c1` would match too; the
numbers fit the columns' types."""

_MARS = re.compile(r"^(?P<person>\d{4}|00-1)C(?P<camera>\d)T(?P<track>\d+)F(?P<frame>\d{1,18})\.")
"""`0001C1T0001F001.jpg` (MARS): person, camera, track, frame; junk is person 00-1."""

MARKET_COLUMNS = {"sequence": pa.int64(), "role": pa.string()}
"""What Market names tell beyond the standard columns. role: "distractor" for person 0000, who is
nobody in particular, "junk" for person -1, a bad box; null for labelled people."""

LISTS = frozenset({".csv", ".parquet"})

_CORNERS = ["x", "y", "w", "h"]
"""The columns of a list that are a box, where it has all four."""


@dataclass(frozen=True)
class Person:
    """One person in a picture: box (x, y, width, height) in pixels, None for the whole picture;
    columns: item columns that are known."""

    box: tuple[float, float, float, float] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Picture:
    """A picture file and the people in it. source: its path relative to the root, with "/".

    root: what its file may not be outside of, whatever `..` or link leads there; whoever opens the
    picture has that checked (`read_image`).

    Of a video's frame, path and source are the video's. frame: its number from 0. image: makes its
    pixels, uint8 (height, width, 3) RGB, or raises UnreadableImage; None: they are in the file.
    held: bytes that this picture keeps until its image is made and done with.
    """

    path: Path
    source: str
    people: tuple[Person, ...] = (Person(),)
    root: Path = field(kw_only=True)
    frame: int | None = None
    image: Callable[[], Crop] | None = None
    held: int = 0

    @property
    def name(self) -> str:
        """What messages call it."""
        return str(self.path) if self.frame is None else f"{self.path}, frame {self.frame}"


@dataclass(frozen=True)
class Source:
    """Pictures to extract from.

    root: the folder that `source` is relative to. count: of people. columns: name → type of the
    item columns that people may have beyond the standard ones. left_out: why → how many files.
    pictures: begins a walk, the same order each time. notes: what else is to be told.
    """

    root: Path
    count: int
    columns: Mapping[str, pa.DataType]
    left_out: Mapping[str, int]
    pictures: Callable[[], Iterator[Picture]]
    notes: tuple[str, ...] = ()


def find_pictures(
    paths: Iterable[Path],
    *,
    layout: str = "auto",
    boxes: Path | None = None,
    keep_junk: bool = False,
) -> Source:
    """The source that the paths name: folders (searched recursively), picture files, or lists
    (`.csv`, `.parquet`).

    layout: "folder" takes nothing from names, "market" takes person, camera and frame and leaves
    junk (person -1) out unless keep_junk, "mars" the same and the track; "auto" is market or mars
    when every picture's name fits. "tracklets": every folder is a track called as the folder, the
    last number in a file's name its frame; the file's name, or the nearest folder's that tells one,
    says the camera (`extractors.names.camera_of`); the folder above a track's is looked at even
    where it is above all paths.
    boxes: a file of person boxes (see boxes.py) in the pictures of one folder; pictures without a
    box are then not used.

    Raises BadSource, BadItems; UsageError for an unknown layout or no path at all.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"there is no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    paths = [Path(os.path.abspath(path)) for path in paths]
    if not paths:
        raise UsageError("name a folder, picture files or a list to take pictures from")
    for path in paths:
        if not path.exists():
            raise BadSource(f"{path}: there is no such file or folder")
    lists = [path for path in paths if path.suffix.lower() in LISTS]
    if boxes is not None:
        if len(paths) != 1 or not paths[0].is_dir():
            raise BadSource("boxes belong to the pictures of one folder: name that folder")
        return _boxed(paths[0], boxes)
    if lists and len(paths) > 1:
        raise BadSource(f"{lists[0]}: a list is taken alone; build from one list or from folders")
    if lists:
        return _listed(lists[0])
    return _folders(paths, layout=layout, keep_junk=keep_junk)


def parse_market(name: str) -> dict[str, Any] | None:
    """The item columns that a Market-style file name tells, or None for another name."""
    match = _MARKET.match(name)
    if match is None:
        return None
    person = match["person"]
    role = {-1: "junk", 0: "distractor"}.get(int(person))
    frame = None if match["frame"] is None else int(match["frame"])
    return {
        "person": None if role else person,
        "camera": int(match["camera"]),
        "frame_first": frame,
        "frame_last": frame,
        "sequence": None if match["sequence"] is None else int(match["sequence"]),
        "role": role,
    }


def parse_mars(name: str) -> dict[str, Any] | None:
    """The item columns that a MARS-style file name tells, or None for another name."""
    match = _MARS.match(name)
    if match is None:
        return None
    person = match["person"]
    role = {"00-1": "junk", "0000": "distractor"}.get(person)
    return {
        "person": None if role else person,
        "camera": int(match["camera"]),
        "track": match["track"],
        "frame_first": int(match["frame"]),
        "frame_last": int(match["frame"]),
        "sequence": None,
        "role": role,
    }


_NAMED = {"market": parse_market, "mars": parse_mars}
"""Layouts whose names tell who it is."""

_LIKE = {"market": "0002_c1s1_000451_03.jpg", "mars": "0001C1T0001F001.jpg"}

LAYOUTS = ("auto", "folder", *_NAMED, "tracklets")
"""Of folders of pictures: see `find_pictures`."""


def _folders(paths: list[Path], *, layout: str, keep_junk: bool) -> Source:
    given = set(paths)
    paths = [path for path in dict.fromkeys(paths) if given.isdisjoint(path.parents)]
    folders = [path if path.is_dir() else path.parent for path in paths]
    root = Path(os.path.commonpath(folders))
    if layout == "auto":
        layout = _recognised(paths)
    parse = _NAMED.get(layout, lambda _name: None)
    seen: Counter[str] = Counter()
    for path in _walk(paths):
        columns = parse(path.name)
        is_picture = path.suffix.lower() in SUFFIXES
        kind = "other" if not is_picture else "plain" if columns is None else "named"
        seen["junk" if kind == "named" and columns and columns["role"] == "junk" else kind] += 1
    if layout in _NAMED and seen["plain"]:
        raise BadSource(
            f"{root}: {seen['plain']} names are not {layout.capitalize()}-style ({_LIKE[layout]}); "
            "use the layout 'folder' or move them away"
        )
    left_out = {"no picture by its name": seen["other"]} if seen["other"] else {}
    if seen["junk"] and not keep_junk:
        left_out["junk (person -1)"] = seen["junk"]

    def pictures() -> Iterator[Picture]:
        for path in _walk(paths):
            if path.suffix.lower() not in SUFFIXES:
                continue
            columns = parse(path.name) or {}
            if layout == "tracklets":
                columns = _tracklet_columns(path, root)
            if keep_junk or columns.get("role") != "junk":
                source = path.relative_to(root).as_posix()
                yield Picture(path, source, (Person(columns=columns),), root=root)

    return Source(
        root=root,
        count=seen["named"] + seen["plain"] + (seen["junk"] if keep_junk else 0),
        columns=MARKET_COLUMNS if layout in _NAMED else {},
        left_out=left_out,
        pictures=pictures,
    )


def _recognised(paths: Sequence[Path]) -> str:
    """The layout that every picture's name fits, or "folder"."""
    fits = dict(_NAMED)
    empty = True
    for path in _walk(paths):
        if path.suffix.lower() in SUFFIXES:
            empty = False
            fits = {layout: parse for layout, parse in fits.items() if parse(path.name)}
            if not fits:
                break
    return "folder" if empty else next(iter(fits), "folder")


def _tracklet_columns(path: Path, root: Path) -> dict[str, Any]:
    # A camera's folder has its tracks', and says so when one of these alone is asked for, too.
    within = [at for at in path.parents if at.is_relative_to(root) or at == path.parent.parent]
    folders = [folder.name for folder in within]
    frame = last_number(path.stem)
    return {
        "track": path.parent.name,
        "camera": camera_of([path.stem, *folders]),
        "frame_first": frame,
        "frame_last": frame,
    }


def _walk(paths: Iterable[Path]) -> Iterator[Path]:
    """Every file below the paths, in an order that depends on names alone. Hidden files and
    folders are not looked at, linked folders not followed."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path, onerror=_refuse):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if not name.startswith("."):
                    yield Path(folder, name)


def _refuse(error: OSError) -> None:
    raise BadSource(f"{error.filename}: the folder cannot be listed: {error.strerror}") from None


def _boxed(folder: Path, path: Path) -> Source:
    found = boxes_by_source(read_boxes(path, pictures=folder))

    def pictures() -> Iterator[Picture]:
        for source, boxes in found.items():
            people = tuple(
                Person(
                    (box.x, box.y, box.width, box.height),
                    {
                        "track": box.track,
                        "frame_first": box.frame,
                        "frame_last": box.frame,
                        "person": box.person,
                        "camera": box.camera,
                    },
                )
                for box in boxes
            )
            yield Picture(folder / source, source, people, root=folder)

    count = sum(len(boxes) for boxes in found.values())
    return Source(root=folder, count=count, columns={}, left_out={}, pictures=pictures)


def read_items(path: Path) -> pa.Table:
    """A CSV (UTF-8, with a header) or Parquet file of item columns, in the columns' types.

    In CSV, an empty cell is null, and columns that are not standard get the type that all their
    cells fit, `attr.*` always text. Raises BadItems, BadSource.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return sound_attributes(conform(ParquetTable(path).read()))
        return sound_attributes(conform(_read_csv(path)))
    except BadItems as error:
        raise BadItems(f"{path}: {error}") from None
    except (*PARQUET_ERRORS, csv.Error, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise BadSource(f"{path}: cannot be read as a table: {reason}") from None


def _read_csv(path: Path) -> pa.Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        names = next(csv.reader(file), [])
    types = {name: kind for name, kind in STANDARD.items() if name not in ("start", "end", "box")}
    # As text, or a label such as 0002 would become a number; times are parsed by conform.
    types |= {"start": pa.string(), "end": pa.string(), "file": pa.string()}
    if set(_CORNERS) <= set(names):
        # A column without a single value has no type otherwise, and would be left out.
        types |= dict.fromkeys(_CORNERS, pa.float64())
    for name in names:
        if name.startswith("attr."):
            types[name] = pa.float32() if name.endswith(".confidence") else pa.string()
    return pa.csv.read_csv(
        path,
        convert_options=pa.csv.ConvertOptions(
            column_types=types, strings_can_be_null=True, null_values=[""]
        ),
    )


def _listed(path: Path) -> Source:
    """Files named by a table: `file` or `source`, item columns, and boxes as `x, y, w, h`.

    The root is the folder that has the list and every picture below it, so that absolute paths
    and paths with ".." become sources below the root, too.
    """
    table = read_items(path)
    if "file" in table.column_names:
        at = table.column_names.index("source")
        files = _cast(table, "file", STANDARD["source"], path)
        table = table.set_column(at, "source", files).drop_columns(["file"])
    unnamed = pc.sum(pc.equal(pc.fill_null(table["source"], ""), "")).as_py()
    if unnamed:
        raise BadSource(
            f"{path}: every row names its picture, absolute or relative to {path.parent}, in a "
            f"column `file`; {unnamed} of {table.num_rows} do not"
        )
    if set(_CORNERS) <= set(table.column_names):
        cells = [_cast(table, name, BOX.value_type, path).to_pylist() for name in _CORNERS]
        rows = zip(*cells, strict=True)
        at = table.column_names.index("box")
        boxes = pa.array([list(row) for row in rows], BOX)
        table = table.set_column(at, "box", boxes).drop_columns(_CORNERS)
    if pc.list_flatten(table["box"]).null_count:
        raise BadSource(f"{path}: a box has an empty x, y, w or h")
    extra = {name: kind for name, kind in _types(table) if name not in STANDARD}
    root = _listed_root(pc.unique(table["source"]).to_pylist(), path)

    def pictures() -> Iterator[Picture]:
        rows = (row for batch in table.to_batches(1024) for row in batch.to_pylist())
        for name, group in groupby(rows, key=lambda row: row["source"]):
            file = _absolute(name, path.parent)
            people = tuple(_listed_person(row) for row in group)
            yield Picture(Path(file), os.path.relpath(file, root), people, root=root)

    return Source(root, table.num_rows, extra, {}, pictures)


def _listed_root(names: Iterable[str], path: Path) -> Path:
    folders = {str(path.parent)}
    for name in names:
        if "://" in name:
            raise BadSource(f"{path}: {name!r} is a URI; name a file, fetched beforehand")
        folders.add(os.path.dirname(_absolute(name, path.parent)))
    return Path(os.path.commonpath(folders))


def _absolute(name: str, folder: Path) -> str:
    return os.path.normpath(os.path.join(folder, name))


def _cast(table: pa.Table, name: str, kind: pa.DataType, path: Path) -> pa.ChunkedArray:
    try:
        return table[name].cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BadSource(f"{path}: column {name!r} is not {kind}: {reason}") from None


def _types(table: pa.Table) -> list[tuple[str, pa.DataType]]:
    return [(column.name, column.type) for column in table.schema]


def _listed_person(row: dict[str, Any]) -> Person:
    box = row.pop("box")
    del row["source"]  # the picture has it, relative to the root
    return Person(None if box is None else (box[0], box[1], box[2], box[3]), row)
