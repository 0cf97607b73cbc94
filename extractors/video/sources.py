"""The people in video files as a `Source`: tracks with boxes, or each whole video as one person.

Frames are decoded in order while the source is walked; who walks it makes crops of them elsewhere.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from reid_index.errors import BadSource, UnreadableVideo, UsageError

from ..extractor import Crop
from ..pictures import Person, Picture, Source
from .decode import Frame, Video, probe_video, read_frames
from .tracks import TrackBoxes, Tracks, read_tracks
from .videos import VideoFacts, read_facts

SUFFIXES = frozenset(
    {
        *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg"),
        *(".wmv", ".asf", ".flv", ".3gp", ".ogv", ".mxf", ".h264", ".264", ".h265", ".hevc"),
        *(".mjpg", ".mjpeg", ".ivf", ".dav"),
    }
)
"""What video files end with, in lower case."""

WHOLE = "whole"
"""The track of a whole video that is taken as one candidate."""


Known = Callable[[Path, str | None, int, tuple[float, float, float, float] | None], bool]
"""Whether a box is in a gallery already: file, track, frame and box; of a whole video its first
frame, without one."""

IN_GALLERY = "in the gallery already"


def is_video(path: Path) -> bool:
    """Whether a path is a video's, by its suffix alone."""
    return path.suffix.lower() in SUFFIXES


def find_videos(
    paths: Sequence[Path],
    *,
    tracks: Path | None,
    whole: bool,
    every: int = 1,
    videos: Path | None,
    known: Known = lambda *_crop: False,
) -> Source:
    """The people in videos: a picture for each frame that has any, a person for each of its boxes.

    paths: video files, and folders, of which every video in them or below is taken (hidden ones
    and linked folders are not). tracks: a file or folder of boxes, see `read_tracks`. whole:
    instead, each frame is one crop of the track "whole". every: take the first, and then every so
    manieth box of a track, or frame. videos: cameras and start times, see `read_facts`. known: what
    is left out, and counted; videos of which all is are not opened.

    Item columns of a person: video, track, camera, person, frame_first = frame_last = the number
    from 0, start_s = end_s = seconds in the video and, where the video's start is known, start =
    end. A box's own camera goes before its video's.

    Whatever cannot be used is a picture whose image raises UnreadableVideo: once for a video that
    cannot be opened or is damaged, for boxes of frames that it does not have, for several boxes of
    one track in a frame, and for a track that two files have.

    Raises BadSource where a path is not there or no video and for lists that cannot be read,
    UsageError where neither tracks nor whole are asked for, or both; MissingExtra without PyAV.
    """
    if (tracks is None) == (not whole):
        raise UsageError("people in videos come from tracks, or each whole video is one")
    if every < 1:
        raise UsageError(f"every is {every}: take every frame (1), every second (2), …")
    files, root = video_files(paths)
    names = [file.relative_to(root).as_posix() for file in files]
    facts, notes = read_facts(videos, names, root=root)
    found = None if tracks is None else read_tracks(tracks, videos=names, root=root)
    walks = [
        _Walk(
            path=file,
            source=name,
            root=root,
            facts=facts[name],
            boxes=None if found is None else _boxes(found, name, every),
            every=every,
        )
        for file, name in zip(files, names, strict=True)
    ]
    if found is not None:
        walks = [walk for walk in walks if walk.boxes is not None]
    new = [one for one in (walk.without(known) for walk in walks) if one is not None]
    left_out = {} if found is None else dict(found.left_out)
    again = sum(walk.count() for walk in walks) - sum(walk.count() for walk in new)
    if again:
        left_out[IN_GALLERY] = again
        walks = new

    def pictures() -> Iterator[Picture]:
        for reason in () if found is None else found.faults:
            yield fault(UnreadableVideo(reason), path=root, source="", root=root)
        for walk in walks:
            yield from walk.pictures()

    return Source(
        root=root,
        count=sum(walk.count() for walk in walks),
        columns={},
        left_out=left_out,
        pictures=pictures,
        notes=(*notes, *(() if found is None else found.notes)),
    )


def _boxes(found: Tracks, name: str, every: int) -> TrackBoxes | None:
    boxes = found.boxes.get(name)
    return boxes if boxes is None or every == 1 else boxes.thinned(every)


def video_files(paths: Iterable[Path]) -> tuple[list[Path], Path]:
    """The video files that the paths name, each once, and the folder that has them all.

    Raises BadSource for a path that is not there, a file that is no video, and where there is none.
    """
    found: dict[Path, None] = {}
    folders = []
    for path in (Path(os.path.abspath(path)) for path in paths):
        if path.is_dir():
            folders.append(path)
            found.update(dict.fromkeys(filter(is_video, _walk(path))))
        elif not path.exists():
            raise BadSource(f"{path}: there is no such file or folder")
        elif not is_video(path):
            raise BadSource(f"{path}: no video by its name; {', '.join(sorted(SUFFIXES))} are")
        else:
            folders.append(path.parent)
            found[path] = None
    if not found:
        named = ", ".join(map(str, folders)) or "no path"
        raise BadSource(f"{named}: there are no videos; name video files, or a folder of them")
    return list(found), Path(os.path.commonpath(folders))


def claimed_frames(paths: Iterable[Path]) -> int:
    """How many frames the videos say that they have, together; what says nothing counts as none."""
    frames = 0
    for path in video_files(paths)[0]:
        with suppress(UnreadableVideo):
            frames += _claimed(probe_video(path))
    return frames


def _claimed(video: Video) -> int:
    return video.frames or round((video.seconds or 0) * (video.rate or 0))


def _walk(folder: Path) -> Iterator[Path]:
    for at, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(at, name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise BadSource(f"{error.filename}: the folder cannot be listed: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """One video, walked from its first frame to its last. boxes: None for the whole of it, of which
    every so manieth frame is taken."""

    path: Path
    source: str
    root: Path
    facts: VideoFacts
    boxes: TrackBoxes | None
    every: int

    def count(self) -> int:
        """People in it; of a whole video about as many, as it says itself."""
        if self.boxes is not None:
            return len(self.boxes.frame) + sum(count for _, count in self.boxes.refused)
        try:
            video = probe_video(self.path, root=self.root)
        except UnreadableVideo:
            return 1
        return max(1, math.ceil(_claimed(video) / self.every))

    def without(self, known: Known) -> "_Walk | None":
        """What is not known of it; None where all is."""
        if self.boxes is None:
            return None if known(self.path, WHOLE, 0, None) else self
        rows = zip(
            self.boxes.track, self.boxes.frame.tolist(), self.boxes.box.tolist(), strict=True
        )
        new = [
            at
            for at, (track, frame, (x, y, width, height)) in enumerate(rows)
            if not known(self.path, track, frame, (x, y, width, height))
        ]
        if len(new) == len(self.boxes.frame):
            return self
        return replace(self, boxes=self.boxes.chosen(new)) if new else None

    def pictures(self) -> Iterator[Picture]:
        for reason, count in () if self.boxes is None else self.boxes.refused:
            yield self._fault(UnreadableVideo(reason), count)
        try:
            video = probe_video(self.path, root=self.root)
        except UnreadableVideo as error:
            yield self._fault(error, 1 if self.boxes is None else len(self.boxes.frame))
            return
        if self.boxes is None:
            yield from self._whole(video)
        else:
            yield from self._tracked(video, self.boxes)

    def _whole(self, video: Video) -> Iterator[Picture]:
        faults: list[UnreadableVideo] = []
        for frame in read_frames(self.path, tell=faults.append):
            if frame.number % self.every == 0:
                columns = self._columns(video, frame, track=WHOLE)
                yield self._picture(video, frame, (Person(columns=columns),))
        for fault in faults:
            yield self._fault(fault, 0)

    def _tracked(self, video: Video, boxes: TrackBoxes) -> Iterator[Picture]:
        wanted = boxes.frames()
        number, places = next(wanted, (-1, range(0)))
        faults: list[UnreadableVideo] = []
        frames = 0
        decoded = read_frames(self.path, tell=faults.append)
        for frame in decoded:
            if frame.number == number:
                people = tuple(self._person(video, frame, boxes, at) for at in places)
                yield self._picture(video, frame, people)
                number, places = next(wanted, (-1, range(0)))
            frames = frame.number + 1
            if number < 0:
                decoded.close()  # what follows is nobody's
        for fault in faults:
            yield self._fault(fault, 0)
        if number < 0:
            return
        rest = len(boxes.frame) - places.start
        are = "1 box is" if rest == 1 else f"{rest:,} boxes are"
        yield self._fault(
            UnreadableVideo(
                f"{self.path}: {are} of frame {number} or later, but it has "
                f"{frames:,} frames, from 0 on"
            ),
            rest,
        )

    def _person(self, video: Video, frame: Frame, boxes: TrackBoxes, at: int) -> Person:
        x, y, width, height = boxes.box[at].tolist()
        columns = self._columns(video, frame, track=boxes.track[at])
        columns["person"] = boxes.person[at]
        if boxes.camera[at] is not None:
            columns["camera"] = boxes.camera[at]
        return Person((x, y, width, height), columns)

    def _columns(self, video: Video, frame: Frame, *, track: str | None) -> dict[str, Any]:
        begin = self.facts.start or video.made
        time = None if begin is None else begin + timedelta(seconds=frame.seconds)
        return {
            "video": self.source,
            "track": track,
            "camera": self.facts.camera,
            "frame_first": frame.number,
            "frame_last": frame.number,
            "start_s": frame.seconds,
            "end_s": frame.seconds,
            "start": time,
            "end": time,
        }

    def _picture(self, video: Video, frame: Frame, people: tuple[Person, ...]) -> Picture:
        return Picture(
            self.path,
            self.source,
            people,
            root=self.root,
            frame=frame.number,
            image=frame.image,
            held=3 * video.width * video.height,
        )

    def _fault(self, error: UnreadableVideo, count: int) -> Picture:
        """A picture of so many people that only tells what is amiss."""
        return fault(error, path=self.path, source=self.source, root=self.root, count=count)


def fault(
    error: UnreadableVideo, *, path: Path, source: str, root: Path, count: int = 0
) -> Picture:
    """A picture without pixels, by which whoever walks a source learns of an error, and of how many
    people it costs."""

    def fail() -> Crop:
        raise error

    return Picture(path, source, (Person(),) * count, root=root, image=fail)
