"""Adding: one more shard in the next generation. What is there already is not looked at."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray

from ..errors import BadItems, BadShard, DimensionMismatch, ExtractorMismatch, UsageError
from ..fingerprint import Fingerprint
from ..matcher import told
from .commit import describe
from .frames import SegmentFrames, wrong_shapes
from .manifest import Event, Manifest, ShardEntry
from .shard import (
    FILES,
    Shard,
    check_alike,
    column_types,
    merge_shards,
    numbered,
    open_shard,
    write_shard,
)
from .vectors import ArrayStream
from .writer import Writer

NewShard: TypeAlias = Callable[[Path, Manifest], None]
"""Writes a shard to a folder, made for a gallery at that manifest."""


def checked_vectors(vectors: ArrayLike, *, dim: int) -> NDArray[np.generic]:
    """The vectors as an array (n, D). Raises UsageError, DimensionMismatch."""
    try:
        array = np.asarray(vectors)
    except ValueError as error:
        raise UsageError(f"vectors are a table of numbers, (n, {dim}): {error}") from None
    if array.ndim != 2 or array.shape[1] != dim:
        raise DimensionMismatch(
            f"vectors of the shape {array.shape} do not fit this gallery of {dim} dimensions: "
            f"(n, {dim}) is needed"
        )
    if array.dtype.kind not in "fiub":
        raise UsageError(f"vectors must be real numbers, got {array.dtype}")
    return array


def checked_parts(
    parts: ArrayLike | None, manifest: Manifest, *, rows: int
) -> NDArray[np.generic] | None:
    """The parts of so many rows as an array (n, P, Dp), None where the gallery has none.

    Raises UsageError where it has no matcher and they are given, or has one and they are not, and
    DimensionMismatch.
    """
    if manifest.matcher is None or manifest.matcher.of_frames:
        if parts is not None:
            by = "their vectors alone" if manifest.matcher is None else told(manifest.matcher)
            raise UsageError(
                f"this gallery compares items by {by}, so parts say nothing: leave them out, or "
                "make a gallery with a matcher of parts"
            )
        return None
    if parts is None:
        raise UsageError(
            f"this gallery compares items by {told(manifest.matcher)}, too: add vectors with their "
            "parts"
        )
    array = as_parts(parts)
    if array.ndim != 3 or len(array) != rows:
        raise DimensionMismatch(
            f"parts of the shape {array.shape} for {rows} vectors: ({rows}, P, Dp) is needed"
        )
    return array


def checked_visible(
    visible: ArrayLike | None, manifest: Manifest, *, parts: NDArray[np.generic] | None
) -> NDArray[np.generic] | None:
    """Which of those parts (n, P, Dp) are to be seen, as an array (n, P); None where the gallery
    does not ask, or all are.

    Raises UsageError where its matcher does not ask and it is given, DimensionMismatch.
    """
    if visible is None:
        return None
    if manifest.matcher is None or not manifest.matcher.has_visible or parts is None:
        raise UsageError(
            f"this gallery compares items by {told(manifest.matcher)}, so which parts are visible "
            "says nothing: leave it out, or make a gallery with the matcher visibility"
        )
    array = as_visible(visible)
    if array.shape != parts.shape[:2]:
        raise DimensionMismatch(
            f"visible of the shape {array.shape} for parts of the shape {parts.shape}: "
            f"{parts.shape[:2]} is needed"
        )
    return array


def checked_frames(
    frames: SegmentFrames | None, manifest: Manifest, *, rows: int
) -> SegmentFrames | None:
    """The frames of so many segments, None where the gallery has none.

    Raises UsageError where it compares no frames and they are given, or the other way round, or
    they are no real numbers; DimensionMismatch for shapes that do not go together.
    """
    if manifest.matcher is None or not manifest.matcher.of_frames:
        if frames is not None:
            raise UsageError(
                f"this gallery compares items by {told(manifest.matcher)}, so frames say nothing: "
                "leave them out, or make a gallery with the matcher coattention"
            )
        return None
    if frames is None:
        raise UsageError(
            f"this gallery compares items by {told(manifest.matcher)}, too: add vectors with their "
            "frames"
        )
    arrays = {name: np.asarray(one) for name, one in frames.arrays.items()}
    for name, array in arrays.items():
        if array.dtype.kind not in ("iu" if name == "frame_offset" else "fiub"):
            raise UsageError(f"{name} of the frames must be numbers, got {array.dtype}")
    wrong = wrong_shapes({name: array.shape for name, array in arrays.items()}, rows=rows)
    if wrong:
        raise DimensionMismatch(f"frames: {wrong}")
    return SegmentFrames.of(arrays)


def as_parts(parts: ArrayLike) -> NDArray[np.generic]:
    """Parts as an array of real numbers, of any shape. Raises UsageError."""
    try:
        array = np.asarray(parts)
    except ValueError as error:
        raise UsageError(f"parts are numbers, (P, Dp) of each item: {error}") from None
    if array.dtype.kind not in "fiub":
        raise UsageError(f"parts must be real numbers, got {array.dtype}")
    return array


def as_visible(visible: ArrayLike) -> NDArray[np.generic]:
    """What says which parts are to be seen, as an array of real numbers, of any shape. Raises
    UsageError."""
    try:
        array = np.asarray(visible)
    except ValueError as error:
        raise UsageError(f"visible is 0 or 1 for each part of each item: {error}") from None
    if array.dtype.kind not in "fiub":
        raise UsageError(f"visible must be 0 and 1, or False and True, got {array.dtype}")
    return array


def of_rows(
    vectors: NDArray[np.generic],
    items: pa.Table,
    *,
    parts: NDArray[np.generic] | None,
    visible: NDArray[np.generic] | None,
    frames: SegmentFrames | None,
    root: Path | str,
) -> NewShard:
    """A new shard of vectors (n, D), their parts (n, P, Dp), which of these are visible (n, P), or
    frames, if there are any, and their items. Raises BadItems for a root that no file can hold."""
    folder_of_sources = str(root)
    if not _is_utf8(folder_of_sources):
        raise BadItems(f"root {folder_of_sources!r} is not UTF-8, so no gallery can hold it")

    arrays = {"global": vectors}
    if parts is not None:
        arrays["parts"] = parts
    if visible is not None:
        arrays["visible"] = visible
    if frames is not None:
        arrays |= frames.arrays

    def write(folder: Path, manifest: Manifest) -> None:
        write_shard(
            folder,
            arrays={name: ArrayStream.of(array) for name, array in arrays.items()},
            items=numbered([items], manifest.next_item),
            fingerprint=manifest.fingerprint,
            metric=manifest.metric,
            dtype=manifest.dtype,
            root=folder_of_sources,
            matcher=manifest.matcher,
        )

    return write


def of_shards(shards: Sequence[Shard]) -> NewShard:
    """A new shard of the rows of others."""

    def write(folder: Path, manifest: Manifest) -> None:
        merge_shards(
            folder,
            shards=shards,
            first_item=manifest.next_item,
            metric=manifest.metric,
            dtype=manifest.dtype,
        )

    return write


def check_shard(shard: Shard, manifest: Manifest, *, of: Path) -> None:
    """Raise DimensionMismatch, BadShard or ExtractorMismatch unless a shard fits the gallery."""
    if shard.header.dim != manifest.dim:
        raise DimensionMismatch(
            f"{shard.folder} has {shard.header.dim} dimensions, the gallery {manifest.dim}"
        )
    if shard.header.metric is not manifest.metric:
        raise BadShard(
            f"{shard.folder} was written for {shard.header.metric}, the gallery compares by "
            f"{manifest.metric}: write it again for that"
        )
    if shard.header.matcher != manifest.matcher:
        raise BadShard(
            f"{shard.folder} is to be compared by {told(shard.header.matcher)}, the gallery by "
            f"{told(manifest.matcher)}: write it again for that, or build a gallery of its own"
        )
    check_fingerprint(shard.header.fingerprint, manifest, of=str(shard.folder), gallery=of)


def check_fingerprint(
    fingerprint: Fingerprint, manifest: Manifest, *, of: str, gallery: Path
) -> None:
    """Raise ExtractorMismatch, naming the fields, unless it is the gallery's."""
    differences = fingerprint.differences(manifest.fingerprint)
    if differences:
        raise ExtractorMismatch(
            f"{of} comes from another extractor than {gallery} ({'; '.join(differences)}): its "
            "vectors cannot be compared; use the gallery's"
        )


def check_same_extractor(present: Manifest, known: Manifest, *, of: Path) -> None:
    """Raise ExtractorMismatch where the gallery was rebuilt since it was opened."""
    of_present, of_known = (
        (one.fingerprint, one.dim, one.metric, one.matcher) for one in (present, known)
    )
    if of_present != of_known:
        raise ExtractorMismatch(
            f"{of} was rebuilt with another extractor since it was opened: refresh it, and add "
            "vectors of that one"
        )


def append(writer: Writer, write: NewShard, *, key: str | None = None) -> None:
    """Commit a generation with one more shard. Raises BadItems, BadShard, what `write` raises."""
    present = writer.present
    name = f"shards/{writer.generation:06d}"
    with writer.making(name) as folder:
        write(folder, present)
        shard = open_shard(folder)
        columns = check_alike(
            shard,
            columns=columns_of_gallery(writer),
            beside=open_shard(writer.gallery / present.folders[-1]) if present.shards else None,
            of=writer.gallery,
        )
        ids = shard.read_columns(["item"])["item"]
        writer.commit(
            Event(what="add", rows=shard.header.rows),
            next_item=int(pc.max(ids).as_py()) + 1,
            shards=(*present.shards, describe_shard(writer.gallery, name, ids=ids)),
            columns=columns,
            keys=present.keys if key is None else (*present.keys, _digest(key)),
        )


def columns_of_gallery(writer: Writer) -> dict[str, str]:
    """The columns of the present generation and their types as text; galleries of older formats do
    not list them."""
    if writer.present.columns is not None:
        return dict(writer.present.columns)
    columns: dict[str, str] = {}
    for folder in writer.present.folders:
        columns |= column_types(open_shard(writer.gallery / folder))
    return columns


def describe_shard(gallery: Path, folder: str, *, ids: pa.ChunkedArray) -> ShardEntry:
    """The manifest's entry of a shard that was just written, with those item ids: reads all of its
    bytes."""
    numbers = ids.to_numpy()
    first = int(numbers[0]) if len(numbers) else None
    if first is not None and not np.array_equal(numbers, np.arange(first, first + len(numbers))):
        first = None
    return ShardEntry(
        folder=folder,
        rows=len(numbers),
        files=describe(gallery / folder, FILES),
        first_item=first,
    )


def has_added(manifest: Manifest, key: str) -> bool:
    """Whether something was added by that key before. Raises UsageError for what is no key."""
    return _digest(key) in manifest.keys


def _digest(key: str) -> str:
    """What is kept of a key: it may name somebody, and outlives erasure."""
    if not isinstance(key, str) or not 1 <= len(key) <= 200 or not _is_utf8(key):
        raise UsageError(f"a key is text of 1 to 200 characters, got {key!r:.80}")
    return hashlib.sha256(key.encode()).hexdigest()


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shard_at(gallery: Path, entry: ShardEntry) -> Shard:
    """A listed shard, opened; what is read of it is compared with the manifest."""
    return open_shard(gallery / entry.folder, sha256=entry.sha256)
