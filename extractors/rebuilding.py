"""The crops of a gallery as a source to extract from again, and what has been extracted of them."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reid_index import files
from reid_index.errors import ReidIndexError, UnreadableVideo
from reid_index.store.shard import open_shard

from .pictures import Person, Picture, Source

STATE = {"picture_bytes": pa.int64(), "picture_modified": pa.int64()}
"""Columns of what is extracted: the picture file's size, and its time in nanoseconds since 1970, so
that a picture that changes afterwards is noticed."""

_PLACE = "frame_first"

_GONE: dict[str, int | None] = dict.fromkeys(STATE)


def located(crops: pa.Table, roots: Mapping[str, str]) -> pa.Table:
    """Crops as `reid_index.upkeep.rebuild.read_crops` gives them, with one more column: `folder`,
    the absolute path that `source` is in now; null where no pictures exist.

    roots: where those of a root are now, see `moved_roots`; the others are where they were.
    """
    coded = crops["root"].combine_chunks()
    now = [roots.get(root, root) for root in coded.dictionary.to_pylist()]
    folders = [os.path.abspath(folder) if folder else None for folder in now]
    codes = coded.indices.to_numpy()
    nowhere = np.array([folder is None for folder in folders], np.bool_)[codes]
    places = pa.array(codes, mask=nowhere)
    texts = pa.array([folder or "" for folder in folders], pa.string())
    return crops.append_column("folder", pa.DictionaryArray.from_arrays(places, texts))


def moved_roots(crops: pa.Table, root: Path) -> dict[str, str]:
    """For each root of the crops the absolute path that its pictures are in now.

    root: what the roots have in common is there now: just their root, where they have one.
    """
    roots = crops["root"].combine_chunks().dictionary.to_pylist()
    known = [os.path.abspath(old) for old in roots if old]
    common = os.path.commonpath(known) if known else ""
    places = {old: os.path.relpath(os.path.abspath(old), common) if old else "" for old in roots}
    return {old: os.path.normpath(root.absolute() / place) for old, place in places.items()}


def with_pictures(crops: pa.Table) -> pa.Table:
    """Those crops that name a picture."""
    named = pc.greater(pc.utf8_length(crops["source"]), 0)
    return crops.filter(pc.fill_null(pc.and_(named, crops["folder"].is_valid()), False))


def without(crops: pa.Table, items: NDArray[np.int64]) -> pa.Table:
    """Those crops that are not of these items."""
    return crops.filter(pa.array(~np.isin(crops["item"].to_numpy(), items)))


def as_source(crops: pa.Table) -> Source:
    """Crops with pictures as a source, in their order; people that follow each other in one picture
    share it.

    Crops with a column `frame_first` that is not null are of that frame, from 0, of a video, and
    those of one video follow each other in order: it is decoded once. Faults are told as
    `extractors.video.sources.find_videos` does.
    """
    names = ["folder", "source", "item", "box", *crops.column_names]
    crops = crops.select([name for name in dict.fromkeys(names) if name in (*names[:4], _PLACE)])

    def pictures() -> Iterator[Picture]:
        rows = (row for batch in crops.to_batches(1024) for row in batch.to_pylist())
        for (folder, name), group in groupby(rows, key=lambda row: (row["folder"], row["source"])):
            path = Path(folder, name)
            state = _state(path)
            people = (
                (row.get(_PLACE), Person(_box(row["box"]), {"item": row["item"], **state}))
                for row in group
            )
            source = str(path.relative_to(path.anchor))
            for of_video, some in groupby(people, key=lambda one: one[0] is not None):
                if of_video:
                    yield from _of_video(path, source, Path(folder), some)
                else:
                    everybody = tuple(person for _, person in some)
                    yield Picture(path, source, everybody, root=Path(folder))

    return Source(
        root=Path(os.sep), count=crops.num_rows, columns=STATE, left_out={}, pictures=pictures
    )


def _of_video(
    path: Path, source: str, root: Path, people: Iterable[tuple[int, Person]]
) -> Iterator[Picture]:
    """The frames of a video that have people, who come in order with the frame's number each."""
    from .video.decode import probe_video, read_frames
    from .video.sources import fault

    wanted = groupby(people, key=lambda one: one[0])
    told: list[UnreadableVideo] = []
    decoded = 0
    number, group = next(wanted)
    try:
        video = probe_video(path, root=root)
        for frame in read_frames(path, tell=told.append):
            decoded = frame.number + 1
            if frame.number == number:
                yield Picture(
                    path,
                    source,
                    tuple(person for _, person in group),
                    root=root,
                    frame=number,
                    image=frame.image,
                    held=3 * video.width * video.height,
                )
                number, group = next(wanted, (-1, iter(())))
                if number < 0:
                    return  # what follows is nobody's
        error = UnreadableVideo(
            f"{path}: frames {number} and later ones are not there: it has {decoded:,}, from 0 on"
        )
    except UnreadableVideo as broken:
        error = broken
    for one in told:
        yield fault(one, path=path, source=source, root=root)
    rest = sum(1 for _ in group) + sum(1 for _, others in wanted for _ in others)
    yield fault(error, path=path, source=source, root=root, count=rest)


def _box(stored: Sequence[float] | None) -> tuple[float, float, float, float] | None:
    """A stored box as it was before it was stored, in most cases: galleries have boxes in single
    precision, and the shortest decimal that means such a number is what people and tools write."""
    if stored is None:
        return None
    x, y, width, height = (float(str(np.float32(one))) for one in stored)
    return x, y, width, height


def _state(path: Path) -> dict[str, int | None]:
    try:
        stat = path.stat()
        size, modified = stat.st_size, stat.st_mtime_ns
    except (OSError, ValueError):  # gone, or no name that a file can have
        return _GONE
    return dict(zip(STATE, (size, modified), strict=True))


def extracted_items(parts: Sequence[Path]) -> NDArray[np.int64]:
    """The items of shards that an extraction of `as_source` has written."""
    ids = [open_shard(part).read_columns(["item"])["item"].to_numpy() for part in parts]
    return np.concatenate([np.empty(0, np.int64), *ids])


def remove_changed(parts: Sequence[Path], crops: pa.Table) -> list[Path]:
    """Remove the parts that can be used no more: that cannot be read, or of which a picture has
    changed since, as far as its items are among the crops. The others are returned. A picture that
    is gone does not count, or a mistaken root would cost hours of work."""
    order = np.argsort(crops["item"].to_numpy())
    kept = []
    for part in parts:
        if _is_unchanged(part, crops, order):
            kept.append(part)
        else:
            files.remove(part)
    return kept


def _is_unchanged(part: Path, crops: pa.Table, order: NDArray[np.int64]) -> bool:
    try:
        then = open_shard(part).read_columns(["item", *STATE])
    except (ReidIndexError, KeyError, OSError):
        return False
    ids, items = crops["item"].to_numpy(), then["item"].to_numpy()
    left = np.searchsorted(ids, items, side="left", sorter=order)
    is_there = left < np.searchsorted(ids, items, side="right", sorter=order)
    there = crops.take(pa.array(order[left[is_there]]))
    now: dict[Path, dict[str, int | None]] = {}
    for row, state in zip(
        there.select(["folder", "source"]).to_pylist(),
        then.filter(pa.array(is_there)).select(list(STATE)).to_pylist(),
        strict=True,
    ):
        path = Path(row["folder"] or "", row["source"] or "")
        if path not in now:
            now[path] = _state(path)
        if now[path] not in (state, _GONE):
            return False
    return True
