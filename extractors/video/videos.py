"""Which camera a video is of and when it began: from a CSV, or else from names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from reid_index.errors import BadSource

from ..names import camera_of, time_of
from ..pictures import read_items
from .tracks import VideoNames


@dataclass(frozen=True)
class VideoFacts:
    """camera: number. start: when the first frame was seen. None = unknown."""

    camera: int | None = None
    start: datetime | None = None


def read_facts(
    path: Path | None, names: Sequence[str], *, root: Path
) -> tuple[dict[str, VideoFacts], tuple[str, ...]]:
    """What is known of each video, and notes on what was not used.

    path: a CSV or Parquet file with a column `video` (a path relative to root, the end of one, or
    either without suffix), and perhaps `camera`, a number, and `start`, ISO 8601, UTC where it
    names no zone. What it leaves empty is taken from the video's name, or else from its
    folder's (`camera_of`, `time_of`). names: relative to root, with "/".

    Raises BadSource, BadItems for a file that cannot be read so, or names a video twice.
    """
    given: dict[str, Mapping[str, Any]] = {}
    unknown: list[str] = []
    if path is not None:
        known = VideoNames(names, root=root)
        for row in read_items(path).select(["video", "camera", "start"]).to_pylist():
            if not row["video"]:
                raise BadSource(f"{path}: a row names no video; fill the column `video`")
            name = known.find(row["video"])
            if name is None:
                unknown.append(row["video"])
            elif name in given:
                raise BadSource(f"{path}: {name} is in it twice; leave one row")
            else:
                given[name] = row
    found = {}
    for name in names:
        words = (PurePosixPath(name).stem, (root / name).parent.name)
        row = given.get(name, {})
        camera = row.get("camera")
        found[name] = VideoFacts(
            camera_of(words) if camera is None else camera, row.get("start") or time_of(words)
        )
    notes = []
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        notes.append(f"{path}: {unknown[0]!r}{more} means none of the videos, or several")
    return found, tuple(notes)
