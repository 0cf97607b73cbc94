"""Which pairs of items are of one person and which of two: by labels, by tracks, or by a list."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from ..errors import BadSource, UsageError
from ..reading import PARQUET_ERRORS, ParquetTable
from .protocol import NOBODY, UNKNOWN, label

POSITIVE, NEGATIVE = 1, 2
"""The kind of a pair of one person, and of one of two; 0 for a pair that does not count."""


class Relation(Protocol):
    """Which pairs of n items are of one person, and which of two."""

    @property
    def groups(self) -> NDArray[np.int64]:
        """int64 (n,): items of one group are to be drawn together."""

    def take(self, places: NDArray[np.int64]) -> "Relation":
        """That of the items at those places alone."""

    def kinds(self, a: slice, b: slice) -> NDArray[np.uint8]:
        """For items a against items b: POSITIVE, NEGATIVE, or 0 for a pair that does not count."""


@dataclass(frozen=True)
class Persons:
    """By labels: int64 (n,) each, person NOBODY for a distractor, camera UNKNOWN if not known.

    Two items of one person are positive where their cameras differ or one is not known, or
    same_camera is true. Two of different people are negative, a distractor and a person too; what
    two distractors are is not known.
    """

    person: NDArray[np.int64]
    camera: NDArray[np.int64]
    same_camera: bool

    @property
    def groups(self) -> NDArray[np.int64]:
        """The persons; every distractor alone."""
        alone = self.person.max(initial=0) + 1 + np.arange(len(self.person))
        return np.where(self.person == NOBODY, alone, self.person)

    def take(self, places: NDArray[np.int64]) -> "Persons":
        """See Relation."""
        return Persons(self.person[places], self.camera[places], self.same_camera)

    def kinds(self, a: slice, b: slice) -> NDArray[np.uint8]:
        """See Relation."""
        one, other = self.person[a, None], self.person[None, b]
        same = (one == other) & (one != NOBODY)
        different = ~same & ((one != NOBODY) | (other != NOBODY))
        if not self.same_camera:
            camera = self.camera[a, None]
            same &= (camera != self.camera[None, b]) | (camera == UNKNOWN)
        return _kinds(same, different)


@dataclass(frozen=True)
class Tracks:
    """By tracks: two items of one are positive; two of tracks that are in one scene at once are
    negative, as nobody is two tracks at once; whether others are one person is not known.

    track, scene: int64 (n,) codes, a scene being one camera of one video (or folder), timed in one
    way. first, last: float64 (n,), when the item's track is first and last seen; ∞ and −∞ where
    that is not known, which overlaps with nothing.
    """

    track: NDArray[np.int64]
    scene: NDArray[np.int64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]

    @property
    def groups(self) -> NDArray[np.int64]:
        """The scenes."""
        return self.scene

    def take(self, places: NDArray[np.int64]) -> "Tracks":
        """See Relation."""
        return Tracks(self.track[places], self.scene[places], self.first[places], self.last[places])

    def kinds(self, a: slice, b: slice) -> NDArray[np.uint8]:
        """See Relation."""
        together = self.scene[a, None] == self.scene[None, b]
        same = self.track[a, None] == self.track[None, b]
        together &= self.first[a, None] <= self.last[None, b]
        together &= self.first[None, b] <= self.last[a, None]
        return _kinds(same, together & ~same)


def _kinds(same: NDArray[np.bool_], different: NDArray[np.bool_]) -> NDArray[np.uint8]:
    kinds: NDArray[np.uint8] = same * np.uint8(POSITIVE) + different * np.uint8(NEGATIVE)
    return kinds


def labelled_pairs(items: pa.Table, *, same_camera: bool) -> tuple[NDArray[np.int64], Persons]:
    """The rows that are labelled, as persons or distractors, and what they are to each other.

    Junk and items without a label are left out. Raises UsageError where nobody is labelled.
    """
    if items["person"].null_count == items.num_rows:
        raise UsageError(
            "no item has a person label: give a list of pairs (--pairs), or use the tracks (--weak)"
        )
    known = label(items, items, unlabelled="drop")
    return known.gallery_rows, Persons(known.gallery.person, known.gallery.camera, same_camera)


def track_pairs(items: pa.Table) -> tuple[NDArray[np.int64], Tracks]:
    """The rows that have a track, scene after scene, and what they are to each other.

    A track is told by its name, camera, and video, or where that is null, the folder of `source`.
    It lasts from the first to the last that is known of its items, in frames, or else in seconds
    of the video, or else in points in time; tracks timed in different ways are not compared.

    Raises UsageError where no item has a track.
    """
    rows = np.flatnonzero(items["track"].is_valid().to_numpy())
    if len(rows) == 0:
        raise UsageError("no item has a track: give a list of pairs (--pairs), or label persons")
    items = items.take(rows)
    clock, first, last = _spans(items)
    folder = pc.replace_substring_regex(items["source"], pattern=r"[^/]*$", replacement="")
    folder = pc.if_else(items["video"].is_valid(), pa.scalar(None, pa.string()), folder)
    place = [_codes(items["video"]), _codes(folder), _codes(items["camera"])]
    track = _joined(*place, _codes(items["track"]))
    scene = _joined(*place, clock)
    span = _joined(track, clock)
    begins = np.full(span.max() + 1, np.inf)
    ends = -begins
    timed = clock >= 0
    np.minimum.at(begins, span[timed], first[timed])
    np.maximum.at(ends, span[timed], last[timed])
    found = Tracks(track=track, scene=scene, first=begins[span], last=ends[span])
    order = np.argsort(scene, kind="stable")
    return rows[order], found.take(order)


_CLOCKS = (("frame_first", "frame_last"), ("start_s", "end_s"), ("start", "end"))


def _spans(
    items: pa.Table,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Per item the clock it is timed by, -1 for none, and its first and last in that."""
    clock = np.full(items.num_rows, -1)
    first, last = np.full((2, items.num_rows), np.nan)
    for number, names in enumerate(_CLOCKS):
        begin, end = (_numbers(items[name]) for name in names)
        here = (clock < 0) & ~np.isnan(begin)
        clock[here] = number
        first[here] = begin[here]
        last[here] = np.fmax(begin, end)[here]
    return clock, first, last


def _numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    # Microseconds and frame numbers stay below 2⁵³, but no cast may fail on a strange one.
    numbers = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    found: NDArray[np.float64] = numbers.to_numpy()
    return found


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number for each value, -1 for null."""
    indices = pc.index_in(column, value_set=pc.unique(column).drop_null())
    codes: NDArray[np.int64] = pc.fill_null(indices, -1).to_numpy().astype(np.int64)
    return codes


def _joined(*codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """A number for each combination of codes."""
    _, joined = np.unique(np.stack(codes, axis=1), axis=0, return_inverse=True)
    return joined.reshape(-1).astype(np.int64)


def sample(groups: NDArray[np.int64], limit: int, *, seed: int) -> NDArray[np.int64]:
    """Places in groups (n,), ascending: all if they are limit or fewer, else limit of them: of
    groups in random order all their places, of the last one as many as fit, at random."""
    if len(groups) <= limit:
        return np.arange(len(groups))
    rng = np.random.default_rng(seed)
    _, group = np.unique(groups, return_inverse=True)
    turn = rng.permutation(group.max() + 1)[group]
    return np.sort(np.lexsort((rng.random(len(groups)), turn))[:limit]).astype(np.int64)


@dataclass(frozen=True)
class ListedPairs:
    """Pairs in a list. rows: int64, ascending, the rows of all items that are named. a, b: int64
    (n,), places in rows. same: bool (n,), whether it is one person."""

    rows: NDArray[np.int64]
    a: NDArray[np.int64]
    b: NDArray[np.int64]
    same: NDArray[np.bool_]


def read_pairs(path: Path, items: pa.Table) -> ListedPairs:
    """The pairs of a CSV (UTF-8, with a header) or Parquet file of the columns a, b and same.

    a, b: item ids where both columns hold whole numbers alone, else sources. same: 1 for one
    person, 0 for two. Raises BadSource, with the file and the line.
    """
    table = _table(path)
    columns = [table[name].combine_chunks() for name in ("a", "b")]
    if all(_is_whole(column) for column in columns):
        names, columns = "item", [column.cast(pa.int64()) for column in columns]
    else:
        names, columns = "source", [column.cast(pa.string()) for column in columns]
    a, b = (_rows(path, column, items[names], what=names) for column in columns)
    itself = np.flatnonzero(a == b)
    if len(itself):
        raise BadSource(f"{path}: pair {itself[0] + 1} is an item and itself; leave it out")
    rows, places = np.unique(np.concatenate([a, b]), return_inverse=True)
    return ListedPairs(rows, places[: len(a)], places[len(a) :], _same(path, table["same"]))


def _table(path: Path) -> pa.Table:
    needed = ("a", "b", "same")
    try:
        if path.suffix.lower() == ".parquet":
            table = ParquetTable(path).read()
        else:
            # As text, or a source such as 0002 would become a number.
            texts = dict.fromkeys(needed, pa.string())
            options = pa.csv.ConvertOptions(
                column_types=texts, strings_can_be_null=True, null_values=[""]
            )
            table = pa.csv.read_csv(path, convert_options=options)
        names = table.column_names
    except PARQUET_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise BadSource(f"{path}: cannot be read as a list of pairs: {reason}") from None
    for name in needed:
        if name not in names:
            raise BadSource(f"{path}: a list of pairs has the columns a, b and same, not {name!r}")
        if table[name].null_count:
            raise BadSource(f"{path}: column {name!r} has an empty cell; fill it or drop the line")
    return table.select(needed)


def _is_whole(column: pa.Array) -> bool:
    if pa.types.is_integer(column.type):
        return True
    # 18 digits fit int64.
    return bool(pc.all(pc.match_substring_regex(column.cast(pa.string()), r"^\d{1,18}$")).as_py())


def _rows(path: Path, named: pa.Array, known: pa.ChunkedArray, *, what: str) -> NDArray[np.int64]:
    found = pc.index_in(named, value_set=known)
    missing = np.flatnonzero(found.is_null())
    if len(missing):
        which = named[int(missing[0])].as_py()
        raise BadSource(f"{path}: pair {missing[0] + 1} names {which!r}, no {what} of the gallery")
    rows: NDArray[np.int64] = found.to_numpy().astype(np.int64)
    counts = pc.value_counts(known.filter(pc.is_in(known, value_set=named)))
    for entry in counts:
        if entry["counts"].as_py() > 1:
            raise BadSource(
                f"{path}: several items have the {what} {entry['values'].as_py()!r}; name items "
                "by their ids instead"
            )
    return rows


def _same(path: Path, column: pa.ChunkedArray) -> NDArray[np.bool_]:
    words = pc.utf8_lower(column.cast(pa.string()))
    wrong = pc.invert(pc.is_in(words, value_set=pa.array(["0", "1", "true", "false"])))
    places = np.flatnonzero(wrong.to_numpy())
    if len(places):
        which = words[int(places[0])].as_py()
        raise BadSource(f"{path}: pair {places[0] + 1}: same is {which!r}, not 1 or 0")
    same: NDArray[np.bool_] = pc.is_in(words, value_set=pa.array(["1", "true"])).to_numpy()
    return same
