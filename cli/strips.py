"""The frames of segments, fetched to be shown: pictures of a tracklet, or places in a video."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from PIL import Image

from extractors.boxes import crop_box
from extractors.frames import Box, Frame, read_frame
from extractors.images import inside
from extractors.video.decode import read_frames_at
from reid_index.errors import BadItems, UnreadableImage
from reid_index.search.result import Match

from .sheet import data_uri
from .target import load_crop
from .video_formats import seconds_text

_AT_ONCE = 64
"""Frames of a video that are held as whole pictures at a time."""


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A frame to be shown. root: the folder that its file is below, "" where there is none. video:
    the file that it is in, relative to root, None where it is a picture. frame: None for a text
    that names no frame; text: what it is, in words."""

    root: str
    video: str | None
    frame: Frame | None
    text: str


def shots_of(match: Match) -> tuple[Shot, ...]:
    """The frames of a match, in order."""
    return item_shots(
        match.extra.get("frames"),
        source=match.source,
        video=match.video,
        box=match.box,
        root=match.root,
    )


def item_shots(
    frames: Sequence[str] | None, *, source: str, video: str | None, box: Box | None, root: str
) -> tuple[Shot, ...]:
    """The frames of an item, in order: those that it lists, else its one picture."""
    if not frames:
        return (picture_shot(source, root=root, box=box),)
    of = video if source == video else None
    return tuple(_shot(text, root=root, video=of) for text in frames)


def _shot(text: str, *, root: str, video: str | None) -> Shot:
    """A text that says nothing, in a gallery that somebody else wrote, cannot be shown."""
    try:
        frame = read_frame(text, of_video=video is not None)
    except BadItems:
        return Shot(root=root, video=video, frame=None, text=text)
    if video is None:
        return picture_shot(frame.source or "", root=root, box=frame.box)
    return video_shot(video, root=root, frame=frame)


def picture_shot(source: str, *, root: str, box: Box | None) -> Shot:
    """A picture, or the box in it."""
    return Shot(root=root, video=None, frame=Frame(source=source, box=box), text=source)


def video_shot(video: str, *, root: str, frame: Frame) -> Shot:
    """A frame of a video, or the box in it."""
    when = f" at {seconds_text(frame.seconds)}" if frame.seconds is not None else ""
    return Shot(root=root, video=video, frame=frame, text=f"{video}, frame {frame.number}{when}")


def thumbnails(shots: Iterable[Shot], *, other_root: Path | None = None) -> dict[Shot, str | None]:
    """Each shot's crop as a data: URI, None where `fetched` has none."""
    return {
        shot: None if image is None else data_uri(image)
        for shot, image in fetched(shots, other_root=other_root)
    }


def fetched(
    shots: Iterable[Shot], *, other_root: Path | None = None
) -> Iterator[tuple[Shot, Image.Image | None]]:
    """Each shot once, in any order, with its crop; None for what is gone, broken or outside its
    root, be that by its name or by a link. other_root: where the files of all of them are now.

    A video is opened once for every 64 frames of it.
    """
    of_videos: dict[tuple[str, str], list[Shot]] = {}
    for shot in dict.fromkeys(shots):
        if shot.video is not None:
            of_videos.setdefault((shot.root, shot.video), []).append(shot)
        elif shot.frame is not None:
            source = shot.frame.source or ""
            yield shot, load_crop(source, shot.root, shot.frame.box, other_root=other_root)
        else:
            yield shot, None
    for (root, video), some in of_videos.items():
        some.sort(key=lambda shot: -1 if shot.frame is None else shot.frame.number or 0)
        for at in range(0, len(some), _AT_ONCE):
            few = some[at : at + _AT_ONCE]
            yield from zip(few, _of_video(video, root, few, other_root=other_root), strict=True)


def _of_video(
    video: str, root: str, shots: Sequence[Shot], *, other_root: Path | None
) -> list[Image.Image | None]:
    folder = other_root or (Path(root) if root else None)
    name = PurePosixPath(video)
    # A shard that somebody else wrote may name any path; only videos below the root are shown.
    if folder is None or not video or name.is_absolute() or ".." in name.parts:
        return [None] * len(shots)
    frames = [shot.frame for shot in shots]
    wanted = [(one.number or 0, one.seconds or 0.0) for one in frames if one is not None]
    try:
        images = iter(read_frames_at(inside(folder / name, folder), wanted))
    except UnreadableImage:
        return [None] * len(shots)
    crops: list[Image.Image | None] = []
    for frame in frames:
        image = None if frame is None else next(images)
        try:
            if image is None or frame is None:
                crops.append(None)
            else:
                crop = image if frame.box is None else crop_box(image, frame.box)
                crops.append(Image.fromarray(crop))
        except UnreadableImage:  # a box outside the frame
            crops.append(None)
    return crops
