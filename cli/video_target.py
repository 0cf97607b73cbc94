"""What is looked for, segment by segment: a video or a track in it, a tracklet's pictures, one
picture, vectors, or a segment of the gallery."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from extractors.attributes import voted
from extractors.boxes import crop_box
from extractors.embeddings import read_vectors
from extractors.extractor import Crop, Embedding, Extractor, joined
from extractors.frames import Frame
from extractors.images import read_image, silence_pillow_warnings
from extractors.pictures import Source, find_pictures
from extractors.segmenting import Cut
from extractors.segments import segments_of
from extractors.video.sources import find_videos, is_video
from extractors.video.tracks import read_tracks
from reid_index import Gallery
from reid_index.attributes import PREFIX
from reid_index.errors import BadSource, NothingToIndex, UnreadableImage, UsageError
from reid_index.matcher import told
from reid_index.search.coattention import own_codes

from .sources import gallery_extractor
from .strips import Shot, item_shots, picture_shot, video_shot
from .target import Box, holds_target_vectors, is_many, read_person
from .video_formats import span
from .video_sheet import TargetSegment, TargetShown

Value = TypeVar("Value")

_BATCH = 32
_TRACKS_TOLD = 20


@dataclass(frozen=True, kw_only=True)
class VideoTarget:
    """vectors: (n, D) of the n segments; of a gallery of co-attention their codes, as its encoder
    yields them. index: (n, Dk) there, else None. shown: the segments' frames, none for bare
    vectors. camera: where known. faults: what could not be used, a line each. attributes: columns
    `attr.<name>`, `.confidence` and `.origin` with n values each, as the gallery has them of an
    item, or the frames of a segment vote; None where nothing is known."""

    vectors: NDArray[np.floating]
    index: NDArray[np.floating] | None
    shown: TargetShown
    camera: int | None
    faults: tuple[str, ...] = ()
    attributes: Mapping[str, Sequence[Any]] | None = None


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A crop of who is looked for, where it is from, and its item columns."""

    crop: Crop
    shot: Shot
    columns: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Time:
    start: datetime | None
    end: datetime | None
    start_s: float | None
    end_s: float | None


def item_segment(gallery: Gallery, item: int) -> VideoTarget:
    """One segment of the gallery, or one item of a gallery of crops."""
    row = gallery.row_of(item)
    record = gallery.items.slice(row, 1).to_pylist()[0]
    box = record["box"]
    shots = item_shots(
        record.get("frames"),
        source=record["source"] or "",
        video=record["video"],
        box=None if box is None else (box[0], box[1], box[2], box[3]),
        root=gallery.root_of(row),
    )
    time = _Time(**{name: record[name] for name in ("start", "end", "start_s", "end_s")})
    frames = gallery.frames([row]) if _of_frames(gallery) else None
    return VideoTarget(
        vectors=gallery.vectors([row]) if frames is None else own_codes(frames),
        index=None if frames is None else frames.index.astype(np.float32),
        shown=TargetShown(
            label=f"item {item}",
            person=record["person"],
            segments=[TargetSegment(shots=shots, span=span(time))],
        ),
        camera=record["camera"],
        attributes={name: [record[name]] for name in record if name.startswith(PREFIX)} or None,
    )


def file_segments(
    gallery: Gallery,
    path: Path,
    *,
    tracks: Path | None,
    track: str | None,
    box: Box | None,
    boxes: Path | None,
    position: int | None,
    cut: Cut,
    weights: Path | None,
    device: str,
    attributes: Path | None = None,
    predict: bool = True,
) -> VideoTarget:
    """A file or folder, embedded by the gallery's extractor and cut into segments.

    tracks: the boxes of a video's people; without them each whole frame is taken. track: which of
    them, or of the tracks that pictures' names tell; needed where there are several. box, or boxes
    with position (from 1): the person in one full picture. weights, attributes: where the model
    files are now. predict: False where nobody asks for attributes.

    A frame of a video that cannot be used is left out, and told; a picture of a folder is an error,
    as the answer would silently be another one. Raises UsageError, BadSource, UnreadableImage,
    NothingToIndex, ExtractorMismatch, BadWeights, MissingExtra.
    """
    if not path.exists():
        raise BadSource(f"{path}: there is no such file or folder to look for")
    if not is_video(path) and tracks is not None:
        raise UsageError(f"{path} is no video: --tracks has the boxes of a video's people")
    if holds_target_vectors(path):
        return _vectors(gallery, path)
    silence_pillow_warnings()
    faults: list[str] = []
    label, seen = _crops(
        path,
        tracks=tracks,
        track=track,
        box=box,
        boxes=boxes,
        position=position,
        faults=faults,
    )
    _refuse_other_scale(gallery)
    extractor = gallery_extractor(
        gallery,
        weights=weights,
        device=device,
        of="the query",
        attributes=attributes,
        predict=predict,
    )
    try:
        target = _encoded(seen, extractor, cut=cut, label=label, path=path)
    except NothingToIndex as error:
        if not faults:
            raise
        raise NothingToIndex(f"{error}: {faults[0]}") from None
    return replace(target, faults=tuple(faults))


def _crops(
    path: Path,
    *,
    tracks: Path | None,
    track: str | None,
    box: Box | None,
    boxes: Path | None,
    position: int | None,
    faults: list[str],
) -> tuple[str, Iterator[_Seen]]:
    """What to call the target, and its crops, read as they are asked for."""
    video = is_video(path)
    if not video and not is_many(path):
        if track is not None:
            raise UsageError(f"{path} is one picture: --track belongs to several")
        return path.name, iter([_one(path, box=box, boxes=boxes, position=position)])
    if box is not None or position is not None:
        what = "a video" if video else "a folder" if path.is_dir() else "a list"
        raise UsageError(f"{path} is {what}: a box or position belongs to one picture")
    label = path.name if track is None else f"{path.name}, track {track}"
    if not video:
        source = _tracklet(path, boxes)
        _picture_track(source, path, track)
        return label, _of_pictures(source, track)
    if boxes is not None:
        raise UsageError(f"{path} is a video: --tracks has its people's boxes, not --boxes")
    if tracks is None and track is not None:
        raise UsageError(f"--track {track} belongs to --tracks FILE, which has the boxes")
    if tracks is None:
        return label, _of_video(find_videos([path], tracks=None, whole=True, videos=None), faults)
    chosen = _video_track(tracks, path, track)
    if chosen is not None:
        label = f"{path.name}, track {chosen}"
    # Of the others nothing is cut, and what follows the last box is not decoded.
    source = find_videos(
        [path],
        tracks=tracks,
        whole=False,
        videos=None,
        known=lambda _file, name, _frame, _box: name != chosen,
    )
    return label, _of_video(source, faults)


def _of_frames(gallery: Gallery) -> bool:
    return gallery.matcher is not None and gallery.matcher.of_frames


def _refuse_other_scale(gallery: Gallery) -> None:
    """A segment's vector is the mean of unit vectors; a crop's is as long as the model makes it."""
    if gallery.metric.value != "cosine" and "segments" not in gallery.manifest.recipe:
        raise UsageError(
            f"{gallery.path} compares crops by {gallery.metric.value}, and segments can be "
            "compared with crops by cosine only: build it with --segment, or with --metric cosine"
        )


def _vectors(gallery: Gallery, path: Path) -> VideoTarget:
    if _of_frames(gallery):
        raise UsageError(
            f"{path}: a file of vectors has no frames, and this gallery compares segments by "
            f"{told(gallery.matcher)}: give a video or pictures, or --item N"
        )
    vectors, _ = read_vectors(path)
    shown = TargetShown(label=path.name, person=None, segments=())
    return VideoTarget(vectors=vectors, index=None, shown=shown, camera=None)


def _one(path: Path, *, box: Box | None, boxes: Path | None, position: int | None) -> _Seen:
    crop, box, person, camera = read_person(path, box=box, boxes=boxes, position=position)
    shot = picture_shot(path.name, root=str(path.absolute().parent), box=box)
    return _Seen(crop=crop, shot=shot, columns={"person": person, "camera": camera})


def _video_track(tracks: Path, video: Path, track: str | None) -> str | None:
    """The track that is meant, None for a box without one. Raises UsageError where it is not there,
    or another could be."""
    read = read_tracks(tracks, videos=[video.name], root=video.absolute().parent)
    found = read.boxes.get(video.name)
    if found is None or not len(found.frame):
        raise UsageError(f"{tracks}: it has no box in {video.name}")
    count = Counter(found.track)
    if track is not None:
        if track not in count:
            raise UsageError(
                f"{tracks}: no track {track} in {video.name}; there {_list(set(count))}"
            )
        return track
    if len(count) > 1 or (None in count and count[None] > 1):
        raise UsageError(
            f"{tracks}: whom to look for in {video.name}? Say it with --track: there "
            f"{_list(set(count))}"
        )
    return next(iter(count))


def _tracklet(path: Path, boxes: Path | None) -> Source:
    """The pictures of a folder or list. Where names do not tell more, each folder is a track."""
    source = find_pictures([path], boxes=boxes)
    if path.is_dir() and boxes is None and not source.columns:
        return find_pictures([path], layout="tracklets")
    return source


def _picture_track(source: Source, path: Path, track: str | None) -> None:
    """Raise UsageError unless the pictures are of one track, or some of the one that is asked."""
    people = (person for picture in source.pictures() for person in picture.people)
    names = {person.columns.get("track") for person in people}
    if track is not None and track not in names:
        raise UsageError(f"{path}: no pictures of a track {track}; there {_list(names)}")
    if track is None and len(names - {None}) > 1:
        raise UsageError(f"{path}: whom to look for? Say it with --track: there {_list(names)}")


def _list(names: set[str | None]) -> str:
    """ "are 1, 2 and 10": the tracks, numbers in their order."""
    known = sorted(
        (name for name in names if name is not None),
        key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name),
    )
    if not known:
        return "is no track, only boxes without one"
    if len(known) > _TRACKS_TOLD:
        return f"are {', '.join(known[:_TRACKS_TOLD])} and {len(known) - _TRACKS_TOLD:,} more"
    return f"{'is' if len(known) == 1 else 'are'} {', '.join(known)}"


def _of_video(source: Source, faults: list[str]) -> Iterator[_Seen]:
    """Those that can be cut out, in order of time."""
    for picture in source.pictures():
        try:
            assert picture.image is not None  # as of all frames of videos
            image = picture.image()
        except UnreadableImage as error:
            faults.append(str(error))
            continue
        for person in picture.people:
            try:
                crop = image if person.box is None else crop_box(image, person.box)
            except UnreadableImage as error:
                faults.append(f"{picture.name}: {error}")
                continue
            frame = Frame(
                number=picture.frame, seconds=person.columns.get("start_s"), box=person.box
            )
            shot = video_shot(picture.source, root=str(picture.root), frame=frame)
            yield _Seen(crop=crop, shot=shot, columns=person.columns)


def _of_pictures(source: Source, track: str | None) -> Iterator[_Seen]:
    for picture in source.pictures():
        people = picture.people
        if track is not None:
            people = tuple(one for one in people if one.columns.get("track") == track)
        if not people:
            continue
        image = read_image(picture.path, root=picture.root)
        for person in people:
            crop = image if person.box is None else crop_box(image, person.box)
            shot = picture_shot(picture.source, root=str(picture.root), box=person.box)
            yield _Seen(crop=crop, shot=shot, columns=person.columns)


def _encoded(
    seen: Iterator[_Seen], extractor: Extractor, *, cut: Cut, label: str, path: Path
) -> VideoTarget:
    """The crops as segments; a batch of crops is held at a time."""
    made: list[Embedding] = []
    shots: list[Shot] = []
    columns: list[Mapping[str, Any]] = []
    while batch := list(islice(seen, _BATCH)):
        made.append(extractor.extract([one.crop for one in batch]))
        shots += [one.shot for one in batch]
        columns += [one.columns for one in batch]
    if not made:
        raise NothingToIndex(f"{path}: there is nobody in it to look for")
    frames = joined(made)
    numbers = [one.get("frame_first") for one in columns]
    segments, order, spans = segments_of(
        frames.global_,
        None if None in numbers else np.array(numbers, np.int64),
        length=cut.length,
        stride=cut.stride,
        encoder=extractor.segments,
    )
    rows = [order[first:stop].tolist() for first, stop in spans.tolist()]
    return VideoTarget(
        vectors=segments.global_,
        index=segments.index,
        shown=TargetShown(
            label=label,
            person=_only(one.get("person") for one in columns),
            segments=[
                TargetSegment(
                    shots=tuple(shots[row] for row in some),
                    span=span(_time(columns[some[0]], columns[some[-1]])),
                )
                for some in rows
            ],
        ),
        camera=_only(one.get("camera") for one in columns),
        attributes=None
        if frames.attributes is None
        else {
            name: column.to_pylist()
            for name, column in voted(pa.table(dict(frames.attributes)), rows).items()
        },
    )


def _time(first: Mapping[str, Any], last: Mapping[str, Any]) -> _Time:
    return _Time(
        start=first.get("start"),
        end=last.get("end"),
        start_s=first.get("start_s"),
        end_s=last.get("end_s"),
    )


def _only(values: Iterable[Value | None]) -> Value | None:
    """What all of the values are, None where they differ."""
    found = set(values)
    return found.pop() if len(found) == 1 else None
