"""Which rows of items are of one track: the candidates that a video is compared with."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

COLUMNS = ("video", "source", "camera", "track", "person")
"""What decides it."""


def tracks_of(items: pa.Table) -> NDArray[np.int64]:
    """Each row's track, counted by first appearance: int64 (n,).

    items: n rows with COLUMNS, of the standard types. Rows with a track are of one where video (or,
    without one, the folder of source), camera, track and person are the same, wherever they are; a
    row without a track is one by itself.
    """
    rows = items.num_rows
    together, count = _places(items)
    for name in ("camera", "track", "person"):
        codes, different = _codes(items[name])
        if count * (different + 1) >= 2**62:
            together, count = _codes(pa.array(together))
        together = together * (different + 1) + codes + 1  # null is a value, too
        count *= different + 1
    alone = items["track"].is_null().to_numpy()
    if alone.any():
        together, count = _codes(pa.array(together))
        together[alone] = count + np.flatnonzero(alone)
    tracks, _ = _codes(pa.array(together))
    assert len(tracks) == rows
    return tracks


def _places(items: pa.Table) -> tuple[NDArray[np.int64], int]:
    """Each row's video, or the folder of its source, by number, and how many numbers there are."""
    videos, different = _codes(items["video"])
    folders = np.zeros(items.num_rows, np.int64)
    count = different + 1
    without = np.flatnonzero((videos < 0) & items["track"].is_valid().to_numpy())
    if len(without):
        sources = items["source"].take(pa.array(without))
        codes, more = _codes(_folders(sources))
        folders[without] = codes
        count += more
    return np.where(videos < 0, different + folders, videos), count


def _folders(sources: pa.ChunkedArray) -> pa.ChunkedArray:
    """As posixpath.dirname has them; "" of what is null."""
    sources = pc.fill_null(sources, "")
    folders = pc.replace_substring_regex(sources, r"/*[^/]*$", "")
    # Of what lies in the root itself, all slashes stay.
    slashes = pc.replace_substring_regex(sources, r"(?s)[^/].*$", "")
    return pc.if_else(pc.equal(folders, ""), slashes, folders)


def _codes(column: pa.ChunkedArray | pa.Array) -> tuple[NDArray[np.int64], int]:
    """Each value by number, in the order of their first appearance, −1 for null, and how many
    there are."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    coded = column.dictionary_encode()
    numbers = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64), len(coded.dictionary)
