"""Which rows of items are of one track: the candidates that a video is compared with."""

import posixpath
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

COLUMNS = ("video", "source", "camera", "track", "person")
"""What decides it."""


def tracks_of(items: pa.Table, roots: pa.DictionaryArray | None = None) -> NDArray[np.int64]:
    """Each row's track, counted by first appearance: int64 (n,).

    items: n rows with COLUMNS, of the standard types. roots: for each row the folder that its paths
    are relative to, see `roots_by_row`; None where it is the same for all. Rows with a track are of
    one where video (or, without one, the folder of source), below its root, camera, track and
    person are the same, wherever they are; a row without a track is one by itself.
    """
    rows = items.num_rows
    together, count = _places(items, roots)
    for name in ("camera", "track", "person"):
        codes, values = _codes(items[name])
        different = len(values)
        if count * (different + 1) >= 2**62:
            together, count = _again(together)
        together = together * (different + 1) + codes + 1  # null is a value, too
        count *= different + 1
    alone = items["track"].is_null().to_numpy()
    if alone.any():
        together, count = _again(together)
        together[alone] = count + np.flatnonzero(alone)
    tracks, _ = _again(together)
    assert len(tracks) == rows
    return tracks


def _again(numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Numbers by number, and how many different ones there are."""
    codes, values = _codes(pa.array(numbers))
    return codes, len(values)


def roots_by_row(roots: Sequence[str], rows: Sequence[int]) -> pa.DictionaryArray:
    """The root of each row, where so many rows in succession have each of the roots."""
    numbers: dict[str, int] = {}
    codes = np.array([numbers.setdefault(root, len(numbers)) for root in roots], np.int32)
    texts = pa.array(list(numbers), pa.string())
    return pa.DictionaryArray.from_arrays(pa.array(np.repeat(codes, rows), pa.int32()), texts)


def _places(items: pa.Table, roots: pa.DictionaryArray | None) -> tuple[NDArray[np.int64], int]:
    """Each row's video, or the folder of its source, by number, and how many numbers there are."""
    videos, names = _codes(items["video"])
    folders, folder_names = np.zeros(items.num_rows, np.int64), pa.array([""])
    without = np.flatnonzero((videos < 0) & items["track"].is_valid().to_numpy())
    if len(without):
        sources = items["source"].take(pa.array(without))
        folders[without], folder_names = _codes(_folders(sources))
    places = np.where(videos < 0, len(names) + folders, videos)
    if roots is None or len(roots.dictionary) < 2:
        return places, len(names) + len(folder_names)
    return _below(roots, places, names.to_pylist(), folder_names.to_pylist())


def _below(
    roots: pa.DictionaryArray,
    places: NDArray[np.int64],
    videos: Sequence[str],
    folders: Sequence[str],
) -> tuple[NDArray[np.int64], int]:
    """The places told apart by the roots that they are below. However a path is parted into root
    and the rest, it is one place."""
    texts = [(True, name) for name in videos] + [(False, name) for name in folders]
    folder_of = roots.dictionary.to_pylist()
    both = places * len(folder_of) + roots.indices.to_numpy()
    codes, pairs = _codes(pa.array(both))
    numbers: dict[tuple[bool, str], int] = {}
    found = []
    for pair in pairs.to_pylist():
        place, root = divmod(pair, len(folder_of))
        of_video, text = texts[place]
        path = posixpath.join(folder_of[root], text).rstrip("/")
        found.append(numbers.setdefault((of_video, path), len(numbers)))
    return np.array(found, np.int64)[codes], len(numbers)


def _folders(sources: pa.ChunkedArray) -> pa.ChunkedArray:
    """As posixpath.dirname has them; "" of what is null."""
    sources = pc.fill_null(sources, "")
    folders = pc.replace_substring_regex(sources, r"/*[^/]*$", "")
    # Of what lies in the root itself, all slashes stay.
    slashes = pc.replace_substring_regex(sources, r"(?s)[^/].*$", "")
    return pc.if_else(pc.equal(folders, ""), slashes, folders)


def _codes(column: pa.ChunkedArray | pa.Array) -> tuple[NDArray[np.int64], pa.Array]:
    """Each value by number, in the order of their first appearance, −1 for null, and the values in
    that order."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    coded = column.dictionary_encode()
    numbers = pc.fill_null(coded.indices, -1).to_numpy(zero_copy_only=False)
    return numbers.astype(np.int64), coded.dictionary
