"""Boxes of tracks in videos, read from MOTChallenge text, CSV or Parquet, put in order and checked.

Nothing here opens a video: what reaches beyond a frame, or a video's end, is noticed where it is
decoded.
"""

import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import BadSource
from reid_index.reading import PARQUET_ERRORS, ParquetTable

from ..boxes import CSV_GEOMETRY, is_mot_person
from ..cells import finite, integer, is_number, read_text, split_lines

_VIDEO = ("video", "file", "source")
_CAMERA = ("camera", "cam")
_SCORE = ("score", "confidence")
_OPTIONAL = (*_VIDEO, *_CAMERA, *_SCORE, "person")

SUFFIXES = frozenset({".csv", ".txt", ".parquet"})
"""What files of tracks end with."""


@dataclass(frozen=True)
class TrackBoxes:
    """The n boxes of one video, ordered by frame, those of a frame as they were in the file.

    frame: int64 (n), from 0. box: float64 (n, 4): x, y, width, height in pixels of the upright
    frame, from 0. track, person, camera: of each box, None where unknown. refused: lines on boxes
    that were left out, each with how many.
    """

    frame: NDArray[np.int64]
    box: NDArray[np.float64]
    track: Sequence[str | None]
    person: Sequence[str | None]
    camera: Sequence[int | None]
    refused: Sequence[tuple[str, int]] = ()

    def frames(self) -> Iterator[tuple[int, range]]:
        """Each frame that has boxes, with their places."""
        starts = np.flatnonzero(np.diff(self.frame, prepend=-1))
        ends = np.append(starts[1:], len(self.frame))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            yield int(self.frame[start]), range(start, end)

    def thinned(self, every: int) -> "TrackBoxes":
        """The first box of each track, and every so manieth after it; all that have no track."""
        seen: Counter[str | None] = Counter()
        chosen = []
        for at, track in enumerate(self.track):
            if track is None or seen[track] % every == 0:
                chosen.append(at)
            seen[track] += 1
        return self.chosen(chosen)

    def chosen(self, chosen: Sequence[int]) -> "TrackBoxes":
        """Some of the boxes, by their places, ascending."""
        return TrackBoxes(
            frame=self.frame[list(chosen)],
            box=self.box[list(chosen)],
            track=[self.track[at] for at in chosen],
            person=[self.person[at] for at in chosen],
            camera=[self.camera[at] for at in chosen],
            refused=self.refused,
        )


@dataclass(frozen=True)
class Tracks:
    """What a file, or a folder of files, has for some videos. boxes: video → its boxes. left_out:
    why → how many boxes. notes: what else is to be told. faults: of files that could not be read.
    """

    boxes: dict[str, TrackBoxes]
    left_out: dict[str, int]
    notes: tuple[str, ...]
    faults: tuple[str, ...] = ()


def read_tracks(path: Path, *, videos: Sequence[str], root: Path) -> Tracks:
    """The boxes that a file of tracks, or a folder of such files, has for the videos.

    videos: paths relative to root, with "/". A box's video is named by its path, by the end of it,
    or by that without its suffix, as far as only one is meant; the folders above root may be in it.

    MOTChallenge text, read as `extractors.boxes.read_boxes` does (frames and coordinates count from
    1 there), and files without a column `video` belong to the video of their own name: in a folder
    to VIDEO-STEM.csv, .txt or .parquet (or VIDEO-STEM.tracks.csv, …), elsewhere to the only one.

    CSV with a header, or Parquet: `frame`, from 0; x, y, w, h, or x, y, width, height, or x1, y1,
    x2, y2; and perhaps `track`, `video` (or `file`), `camera` (or `cam`), `person`, `score`. Other
    columns are not read. A box without a track is a track of its own.

    Of two boxes of one track in one frame the one of the higher score, or the first, is kept; of
    two files that have the same track of one video, the first by name has it. Raises BadSource for
    a file that cannot be read as said, a number that is none or not finite; of several files in a
    folder such a one is left out.
    """
    reading = _Reading(videos, root)
    if path.is_dir():
        files = [
            Path(folder, name)
            for folder, _, names in sorted(os.walk(path))
            for name in sorted(names)
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
        ]
        if not files:
            raise BadSource(f"{path}: there is no file of tracks in it, .csv, .txt or .parquet")
        for number, file in enumerate(files):
            name = file.relative_to(path).with_suffix("").as_posix()
            try:
                reading.read(file, number, name.removesuffix(".tracks"))
            except BadSource as error:
                if len(files) == 1:
                    raise
                reading.leave_out(number, str(error))
    else:
        reading.read(path, 0, None)
    return reading.finish()


@dataclass
class _Gathered:
    """Boxes of one video as they come."""

    frame: "array[int]" = field(default_factory=lambda: array("q"))
    box: "array[float]" = field(default_factory=lambda: array("d"))
    score: "array[float]" = field(default_factory=lambda: array("d"))
    file: "array[int]" = field(default_factory=lambda: array("l"))
    track: list[str | None] = field(default_factory=list)
    person: list[str | None] = field(default_factory=list)
    camera: list[int | None] = field(default_factory=list)


class _Reading:
    """What has been read so far of one or several files."""

    def __init__(self, videos: Sequence[str], root: Path) -> None:
        self._names = VideoNames(videos, root=root)
        self._videos = videos
        self._gathered: dict[str, _Gathered] = {}
        self._left_out: Counter[str] = Counter()
        self._notes: list[str] = []
        self._files: list[Path] = []
        self._texts: dict[str, str] = {}
        self._faults: dict[int, str] = {}

    def leave_out(self, number: int, reason: str) -> None:
        """Leave out the file of that number, whatever has been read of it already."""
        self._faults[number] = reason

    def read(self, path: Path, number: int, name: str | None) -> None:
        """name: of the video that the file belongs to by its own name, None outside a folder."""
        self._files.append(path)
        if path.suffix.lower() == ".parquet":
            self._rows(path, number, name, _parquet_rows(path))
            return
        lines = split_lines(read_text(path), path=path)
        line, first = next(lines, (1, [""]))
        if is_number(first[0]):
            self._mot(path, number, name, line, first, lines)
        else:
            self._rows(path, number, name, _csv_rows(path, line, first, lines))

    def _own(self, path: Path, name: str | None, count: int = 1) -> str | None:
        """The video that a file without a column of videos belongs to."""
        if name is not None:
            return self._names.find(name)
        if len(self._videos) != 1:
            raise BadSource(
                f"{path}: it does not say of which of {len(self._videos)} videos its boxes are; "
                "add a column `video`, or give a folder of files called as the videos"
            )
        return self._videos[0]

    def _mot(
        self,
        path: Path,
        number: int,
        name: str | None,
        line: int,
        first: Sequence[str],
        lines: Iterable[tuple[int, list[str]]],
    ) -> None:
        if len(first) < 6:
            raise BadSource(
                f"{path}, line {line}: {len(first)} columns; give frame, id, x, y, width, height "
                "as MOTChallenge does, or a header"
            )
        video = self._own(path, name)
        for at, cells in chain([(line, list(first))], lines):
            where = f"{path}, line {at}"
            if len(cells) != len(first):
                raise BadSource(f"{where}: {len(cells)} columns, not {len(first)}; correct it")
            values = [
                finite(cell, name=f"column {column}", where=where)
                for column, cell in enumerate(cells, start=1)
            ]
            if not is_mot_person(values):
                continue
            track = integer(cells[1], name="id", where=where, least=-1)
            self._add(
                video,
                said=name or path.name,
                path=path,
                number=number,
                frame=integer(cells[0], name="frame", where=where, least=1) - 1,
                box=(values[2] - 1, values[3] - 1, values[4], values[5]),
                track=None if track == -1 else str(track),
                score=values[6] if len(values) > 6 else 0.0,
            )

    def _rows(
        self, path: Path, number: int, name: str | None, rows: Iterator[tuple[str, dict[str, Any]]]
    ) -> None:
        found: dict[str, str | None] = {}
        own: str | None = None
        asked = False
        for where, row in rows:
            said = next((row[key] for key in _VIDEO if row.get(key)), None)
            if said is None:
                if not asked:
                    own, asked = self._own(path, name), True
                video, said = own, name or path.name
            else:
                if said not in found:
                    found[said] = self._names.find(said)
                video = found[said]
            geometry = next(keys for keys in CSV_GEOMETRY if row.keys() >= set(keys))
            x, y, width, height = (_finite(row[key], name=key, where=where) for key in geometry)
            if geometry[2] == "x2":
                width, height = width - x, height - y
            camera = next((row[key] for key in _CAMERA if row.get(key) not in (None, "")), None)
            score = next((row[key] for key in _SCORE if row.get(key) not in (None, "")), None)
            self._add(
                video,
                said=said,
                path=path,
                number=number,
                frame=_integer(row["frame"], name="frame", where=where),
                box=(x, y, width, height),
                track=_text(row.get("track")),
                person=_text(row.get("person")),
                camera=None if camera is None else _integer(camera, name="camera", where=where),
                score=0.0 if score is None else _finite(score, name="score", where=where),
            )

    def _add(
        self,
        video: str | None,
        *,
        said: str,
        path: Path,
        number: int,
        frame: int,
        box: tuple[float, float, float, float],
        track: str | None,
        person: str | None = None,
        camera: int | None = None,
        score: float = 0.0,
    ) -> None:
        if video is None:
            why = "which means none of the videos, or several"
            self._left_out[f"boxes of {said!r} in {path}, {why}"] += 1
            return
        one = self._gathered.setdefault(video, _Gathered())
        one.frame.append(frame)
        one.box.extend(box)
        one.score.append(score)
        one.file.append(number)
        one.track.append(None if track is None else self._texts.setdefault(track, track))
        one.person.append(None if person is None else self._texts.setdefault(person, person))
        one.camera.append(camera)

    def finish(self) -> Tracks:
        boxes = {
            video: self._finished(video, self._gathered[video])
            for video in self._videos
            if video in self._gathered
        }
        without = [video for video in self._videos if video not in self._gathered]
        if without:
            more = f" and {len(without) - 1:,} more" if len(without) > 1 else ""
            self._notes.append(f"{without[0]}{more}: there are no boxes of it")
        faults = tuple(self._faults.values())
        return Tracks(boxes, dict(self._left_out), tuple(self._notes), faults)

    def _finished(self, video: str, one: _Gathered) -> TrackBoxes:
        frame = np.array(one.frame, np.int64)
        file = np.array(one.file, np.int64)
        names: dict[str, int] = {}
        code = np.array(
            [-1 if name is None else names.setdefault(name, len(names)) for name in one.track],
            np.int64,
        )
        keep = ~np.isin(file, list(self._faults))
        refused: Counter[str] = Counter()
        named = keep & (code >= 0)
        first = np.full(len(names), len(self._files), np.int64)
        np.minimum.at(first, code[named], file[named])
        for at in np.flatnonzero(named)[file[named] != first[code[named]]].tolist():
            keep[at] = False
            refused[
                f"track {one.track[at]} is in {self._files[first[code[at]]]} and in "
                f"{self._files[file[at]]}; the former is used"
            ] += 1
        self._note_order(video, frame[keep], code[keep], list(names))
        self._drop_doubles(frame, code, np.array(one.score), keep, one.track, refused)
        order = np.argsort(frame, kind="stable")
        order = order[keep[order]]
        return TrackBoxes(
            frame=frame[order],
            box=np.array(one.box).reshape(-1, 4)[order],
            track=[one.track[at] for at in order],
            person=[one.person[at] for at in order],
            camera=[one.camera[at] for at in order],
            refused=tuple((f"{video}: {reason}", count) for reason, count in refused.items()),
        )

    def _note_order(
        self,
        video: str,
        frame: NDArray[np.int64],
        code: NDArray[np.int64],
        names: Sequence[str],
    ) -> None:
        by_track = np.argsort(code, kind="stable")
        back = (np.diff(frame[by_track]) < 0) & (np.diff(code[by_track]) == 0)
        wrong = sorted(set(code[by_track][1:][back].tolist()) - {-1})
        if wrong:
            rest = len(wrong) - 1
            more = f" and of {rest:,} more {'track' if rest == 1 else 'tracks'}" if rest else ""
            self._notes.append(
                f"{video}: the frames of track {names[wrong[0]]}{more} were out of order; they are "
                "sorted"
            )

    @staticmethod
    def _drop_doubles(
        frame: NDArray[np.int64],
        code: NDArray[np.int64],
        score: NDArray[np.float64],
        keep: NDArray[np.bool_],
        track: Sequence[str | None],
        refused: "Counter[str]",
    ) -> None:
        """Keep one box of each track in each frame: the surest, of equally sure ones the first."""
        rows = np.flatnonzero(keep & (code >= 0))
        rows = rows[np.lexsort((rows, -score[rows], code[rows], frame[rows]))]
        again = (np.diff(frame[rows]) == 0) & (np.diff(code[rows]) == 0)
        doubles: Counter[str | None] = Counter()
        places: dict[str | None, int] = {}
        for at in rows[1:][again].tolist():
            keep[at] = False
            doubles[track[at]] += 1
            places.setdefault(track[at], int(frame[at]))
        for name, count in doubles.items():
            refused[
                f"track {name} has several boxes in frame {places[name]}; the surest, or the "
                "first, is used"
            ] += count


class VideoNames:
    """Videos by their paths, by the ends of these, and by both without suffix.

    videos: relative to root, whose own folders may be in a name: boxes of all cameras do for one of
    them.
    """

    def __init__(self, videos: Sequence[str], *, root: Path) -> None:
        self._known: dict[str, str | None] = {}
        exact = dict.fromkeys(videos)
        above = PurePosixPath(root.absolute().as_posix())
        for video in videos:
            path = above / video
            for start in range(len(path.parts)):
                end = PurePosixPath(*path.parts[start:])
                for name in (str(end), str(end.with_suffix(""))):
                    known = self._known.setdefault(name, video)
                    if known != video:
                        self._known[name] = None  # two of them
        for video in exact:
            self._known[video] = video

    def find(self, name: str) -> str | None:
        """The video that a name means; None where it means none, or several."""
        clean = PurePosixPath(name.replace("\\", "/")).as_posix()
        return self._known.get(clean)


def _csv_rows(
    path: Path, line: int, header: Sequence[str], lines: Iterable[tuple[int, list[str]]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    names = [name.lower() for name in header]
    _check_columns(names, f"{path}, line {line}")
    for at, cells in lines:
        where = f"{path}, line {at}"
        if len(cells) != len(names):
            raise BadSource(f"{where}: {len(cells)} cells, not {len(names)}; correct the line")
        yield where, dict(zip(names, cells, strict=True))


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        file = ParquetTable(path)
        given = {name.lower(): name for name in file.schema.names}
        _check_columns([name.lower() for name in file.schema.names], str(path))
        wanted = {"track", "frame", *_OPTIONAL, *chain(*CSV_GEOMETRY)} & given.keys()
        row = 0
        for batch in file.batches(16384):
            table = batch.select([given[name] for name in sorted(wanted)])
            for values in table.rename_columns(sorted(wanted)).to_pylist():
                row += 1
                yield f"{path}, row {row}", values
    except PARQUET_ERRORS as error:
        if isinstance(error, BadSource):
            raise
        reason = str(error).splitlines()[0]
        raise BadSource(f"{path}: cannot be read as Parquet: {reason}") from None


def _check_columns(names: Sequence[str], where: str) -> None:
    if len(set(names)) < len(names):
        raise BadSource(f"{where}: the header has a column twice; rename one")
    if "frame" not in names or not any(set(keys) <= set(names) for keys in CSV_GEOMETRY):
        raise BadSource(
            f"{where}: {', '.join(names)[:80]!r} is no header of tracks; give MOTChallenge text, "
            "or CSV or Parquet with track, frame and x, y, w, h or x1, y1, x2, y2"
        )


def _finite(value: Any, *, name: str, where: str) -> float:
    return finite("" if value is None else str(value), name=name, where=where)


def _integer(value: Any, *, name: str, where: str) -> int:
    return integer("" if value is None else str(value), name=name, where=where, least=0)


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value)
