"""MARS (Zheng et al., MARS: A Video Benchmark, ECCV 2016), in its two protocols."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import BadSource

from .matlab import read_mat
from .pictures import MARKET_COLUMNS
from .records import JUNK, Listing, Part, Record, check_pictures, read_lines

_LAYOUT = "mars is a folder with bbox_train, bbox_test and info, the folder of MARS-evaluation"


def read_mars(folder: Path, *, queries_in_gallery: bool) -> Listing:
    """MARS: info/test_name.txt, info/tracks_test_info.mat (track_test_info (T, 4): first and last
    line of test_name.txt, from 1, inclusive; person; camera) and info/query_IDX.mat (query_IDX:
    rows of the former, from 1); the same for train, if info/tracks_train_info.mat is there.
    Frames lie in bbox_test/PERSON/0001C1T0001F001.jpg.

    queries_in_gallery: the official protocol, where the gallery is every test tracklet: a query
    finds itself there, and the rule of same person and camera removes it. Otherwise the common
    one, where the gallery is the others: a query whose other tracklets are all queries has no
    match then. Junk (person -1) is left out of both, and person 0 stays, with the role
    "distractor" and no label. `track` is the tracklet's row, from 1.

    counts: "test tracklets" and "junk tracklets"; "train frames" and "test frames", with junk.
    Raises BadSource.
    """
    info = folder / "info"
    queries_at = info / "query_IDX.mat"
    tracks = _tracks(info, "test")
    (rows,) = read_mat(queries_at, "query_IDX", layout=_LAYOUT)
    queries = rows.ravel().astype(np.int64) - 1
    if not len(queries) or queries.min() < 0 or queries.max() >= len(tracks):
        raise BadSource(
            f"{queries_at}: its rows are not within the {len(tracks)} of tracks_test_info.mat; "
            "get both anew"
        )
    names = read_lines(info / "test_name.txt", layout=_LAYOUT)
    every = np.arange(len(tracks))
    others = every if queries_in_gallery else np.setdiff1d(every, queries)
    query = _part(folder, "test", tracks, rows=queries, names=names)
    gallery = _part(folder, "test", tracks, rows=others, names=names)
    counts = {
        "test tracklets": len(tracks),
        "junk tracklets": int((tracks[:, 2] == -1).sum()),
        "test frames": _frames(tracks),
    }
    train = None
    if (info / "tracks_train_info.mat").exists():
        trained = _tracks(info, "train")
        names = read_lines(info / "train_name.txt", layout=_LAYOUT)
        train = _part(folder, "train", trained, rows=np.arange(len(trained)), names=names)
        counts["train frames"] = _frames(trained)
    return Listing(folder, query, gallery, train, columns=MARKET_COLUMNS, counts=counts)


def _tracks(info: Path, part: str) -> NDArray[np.int64]:
    path = info / f"tracks_{part}_info.mat"
    (table,) = read_mat(path, f"track_{part}_info", layout=_LAYOUT)
    if table.ndim != 2 or table.shape[1] != 4 or table.dtype.kind not in "fiu":
        raise BadSource(f"{path}: four numbers for each tracklet are expected, not {table.shape}")
    return table.astype(np.int64)


def _frames(tracks: NDArray[np.int64]) -> int:
    return int((tracks[:, 1] - tracks[:, 0] + 1).sum())


def _part(
    folder: Path,
    part: str,
    tracks: NDArray[np.int64],
    *,
    rows: NDArray[np.int64],
    names: Sequence[str],
) -> Part:
    records = []
    junk = 0
    table = folder / "info" / f"tracks_{part}_info.mat"
    for row in rows.tolist():
        first, last, person, camera = tracks[row].tolist()
        frames = names[first - 1 : last]
        # The first six characters are person and camera: 0001C1, or 00-1C1.
        if not 1 <= first <= last <= len(names) or frames[0][:6] != frames[-1][:6]:
            raise BadSource(
                f"{table}, row {row + 1}: lines {first} to {last} of {part}_name.txt are not one "
                "tracklet; get both anew"
            )
        if person == -1:
            junk += len(frames)
            continue
        files = [f"bbox_{part}/{name[:4]}/{name}" for name in frames]
        records.append(Record(files, _columns(row + 1, person=person, camera=camera)))
    found = Part(records, {JUNK: junk} if junk else {})
    check_pictures(folder, found, listed_in=folder / "info" / f"{part}_name.txt")
    return found


def _columns(track: int, *, person: int, camera: int) -> dict[str, Any]:
    return {
        "person": f"{person:04d}" if person else None,
        "camera": camera,
        "track": str(track),
        "role": None if person else "distractor",
    }
