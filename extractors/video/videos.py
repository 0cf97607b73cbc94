"""Which camera a video is of and when it began: from a CSV, or else from names."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from reid_index.errors import BadSource

from ..pictures import read_items
from .tracks import VideoNames

_CAMERA = re.compile(
    r"(?<![a-z])(?:camera[-_ ]?|cam[-_ ]?|c)0*(\d{1,9})(?![0-9a-z])", re.IGNORECASE
)
"""c3, cam3, cam_03, camera-3: not within another word."""

_TIME = re.compile(
    r"(?<!\d)(\d{4})-?(\d\d)-?(\d\d)[T_ -](\d\d)[-:.]?(\d\d)[-:.]?(\d\d)(?!\d)", re.IGNORECASE
)
"""20240501T120000, 2024-05-01_12-00-00."""


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
    names no zone. What it leaves empty is taken from the video's name, or else from its folder's
    (`facts_of_name`). names: relative to root, with "/".

    Raises BadSource, BadItems for a file that cannot be read so, or names a video twice.
    """
    given: dict[str, Mapping[str, Any]] = {}
    unknown: list[str] = []
    if path is not None:
        known = VideoNames(names)
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
        told = facts_of_name(PurePosixPath(name).stem)
        folder = facts_of_name((root / name).parent.name)
        row = given.get(name, {})
        camera, start = row.get("camera"), row.get("start")
        if camera is None:
            camera = folder.camera if told.camera is None else told.camera
        found[name] = VideoFacts(camera, start or told.start or folder.start)
    notes = []
    if unknown:
        more = f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else ""
        notes.append(f"{path}: {unknown[0]!r}{more} means none of the videos, or several")
    return found, tuple(notes)


def facts_of_name(name: str) -> VideoFacts:
    """What a file's or folder's name tells: `c3`, `cam3` or `camera-3` the camera, as a word of its
    own, the first of them; `20240501T120000` or `2024-05-01_12-00-00` the start, in UTC."""
    camera = _CAMERA.search(name)
    start = None
    for match in _TIME.finditer(name):
        year, month, day, hour, minute, second = map(int, match.groups())
        try:
            start = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
            break
        except ValueError:  # digits that are no date
            continue
    return VideoFacts(None if camera is None else int(camera[1]), start)
