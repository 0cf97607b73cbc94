"""Tracks out of raw videos: a detector finds people, ByteTrack joins them, a CSV keeps the boxes.

The tracker is that of the package trackers: Zhang et al., ByteTrack, ECCV 2022, arXiv:2110.06864.
"""

import csv
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reid_index import files
from reid_index.errors import MissingExtra, NothingToIndex, UnreadableVideo, UsageError

from .decode import probe_video, read_frames
from .detect import Detector, open_detector
from .sources import video_files
from .videos import read_facts

COLUMNS = ("video", "camera", "track", "frame", "x1", "y1", "x2", "y2", "score")
"""Of the CSV: see docs/video.md. `read_tracks` reads it."""

_CONTINUES = 0.1
"""Confidence of boxes that may go on with a track: ByteTrack's own."""

_LOST = 1.0
"""Seconds for which somebody who is not seen may be found again."""


@dataclass(frozen=True)
class Tracked:
    """What came of some videos: how many could be read, tracks, and boxes in them."""

    videos: int
    tracks: int
    boxes: int


def write_tracks(
    paths: Sequence[Path],
    *,
    detector: Path,
    out: Path,
    confidence: float = 0.5,
    every: int = 1,
    least: int = 5,
    videos: Path | None = None,
    strict: bool = False,
    tell: Callable[[UnreadableVideo], object] = lambda _fault: None,
    progress: Callable[[int], object] = lambda _frames: None,
) -> Tracked:
    """Find the people in videos and write their boxes, as a CSV of COLUMNS.

    paths: as `find_videos` takes them; `video` is the path relative to the same root, so that the
    same paths with the CSV as tracks give the same people. detector: see `open_detector`. out: the
    CSV, replaced in one step once it is whole. confidence: 0 to 1, that a box needs to begin a
    track, or to be looked for first; surer than 0.1 it may go on with one. every: look at every so
    manieth frame. least: frames in which somebody has to be found. videos: cameras, see
    `read_facts`. tell: told of videos that cannot be read, which are left out, or not wholly; with
    strict the first such is raised. progress: told of frames as they come.

    Tracks are counted from 1 in each video, frames from 0; x1, y1, x2, y2 are pixels of the upright
    frame, to a tenth. Somebody who is not seen for a second is a new track.

    Raises BadSource, BadWeights, MissingExtra, UsageError, and NothingToIndex where no video can
    be read; nothing is written then.
    """
    if not 0 < confidence <= 1 or every < 1 or least < 1:
        raise UsageError(
            f"confidence {confidence}, every {every}, least {least}: confidence is above 0 and at "
            "most 1, the others are 1 or more"
        )
    found, root = video_files(paths)
    names = [file.relative_to(root).as_posix() for file in found]
    facts, _ = read_facts(videos, names, root=root)
    tracker = _import_tracker()
    network = open_detector(detector)
    out = Path(os.path.abspath(out))
    temporary = out.with_name(f".{out.name}.tmp")
    files.remove(temporary)
    read = tracks = boxes = 0
    try:
        with files.create(temporary) as file:
            file.write(_lines([COLUMNS]))
            for path, name in zip(found, names, strict=True):
                try:
                    rows = _tracked(
                        path,
                        root,
                        tracker,
                        network,
                        confidence=confidence,
                        every=every,
                        tell=_teller(tell, strict),
                        progress=progress,
                    )
                except UnreadableVideo as error:
                    if strict:
                        raise
                    tell(error)
                    continue
                read += 1
                camera = facts[name].camera
                numbered = list(_long_enough(rows, least))
                tracks += len({row[0] for row in numbered})
                boxes += len(numbered)
                file.write(_lines((name, camera, *row) for row in numbered))
                file.check()
        if not read:
            raise NothingToIndex(f"{root}: not one of {len(found):,} videos can be read")
        files.rename(temporary, out)
    except BaseException:
        files.remove(temporary)
        raise
    return Tracked(read, tracks, boxes)


def _teller(
    tell: Callable[[UnreadableVideo], object], strict: bool
) -> Callable[[UnreadableVideo], None]:
    def told(fault: UnreadableVideo) -> None:
        if strict:
            raise fault
        tell(fault)

    return told


_Row = tuple[int, int, str, str, str, str, str]
"""Track, frame, x1, y1, x2, y2, score."""


def _tracked(
    path: Path,
    root: Path,
    make_tracker: Any,
    network: Detector,
    *,
    confidence: float,
    every: int,
    tell: Callable[[UnreadableVideo], None],
    progress: Callable[[int], object],
) -> list[_Row]:
    """The rows of one video, in the order of frames, its tracks numbered by the tracker."""
    from supervision import Detections

    rate = (probe_video(path, root=root).rate or 25) / every
    tracker = make_tracker(
        lost_track_buffer=round(30 * _LOST),  # it counts thirtieths of a second
        frame_rate=rate,
        track_activation_threshold=confidence,
        high_conf_det_threshold=confidence,
    )
    rows: list[_Row] = []
    for frame in read_frames(path, tell=tell):
        if frame.number % every == 0:
            boxes, sure = network.detect(frame.image(), least=min(_CONTINUES, confidence))
            seen = Detections(xyxy=boxes.astype(np.float32), confidence=sure.astype(np.float32))
            joined = tracker.update(seen, timestamp=frame.seconds)
            for track, box, score in zip(
                joined.tracker_id, joined.xyxy, joined.confidence, strict=True
            ):
                if track >= 0:  # the first sight of somebody has no track yet
                    x1, y1, x2, y2 = (f"{edge:.1f}" for edge in box)
                    rows.append((int(track), frame.number, x1, y1, x2, y2, f"{score:.3f}"))
        progress(1)
    return rows


def _long_enough(rows: Sequence[_Row], least: int) -> Iterator[_Row]:
    """The rows of tracks of so many boxes, which are counted anew from 1."""
    frames = Counter(row[0] for row in rows)
    numbers: dict[int, int] = {}
    for track, *rest in rows:
        if frames[track] >= least:
            number = numbers.setdefault(track, len(numbers) + 1)
            yield (number, *rest)  # type: ignore[misc]


def _lines(rows: Any) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _import_tracker() -> Any:
    try:
        from trackers import ByteTrackTracker
    except ImportError:
        raise MissingExtra(
            "trackers and supervision are not installed: pip install 'reid-index[video]'"
        ) from None
    return ByteTrackTracker
