"""Saying attributes of items: an overlay in the next generation; and taking them back."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..attributes import PREFIX, names_in
from ..errors import UsageError
from ..store.append import columns_of_gallery, shard_at
from ..store.deletions import read_deleted
from ..store.manifest import CLEARED, Event, Manifest, OverlayEntry, ShardEntry
from ..store.overlays import (
    cells_in,
    check_types,
    joined,
    read_overlays,
    refuse_others,
    without,
    write_overlay,
)
from ..store.shard import column_types
from ..store.writer import Writer


def set_attributes(writer: Writer, overlay: pa.Table) -> int:
    """Commit a generation with one more overlay, as `said_of` has made it; how many cells it has.
    Nothing is committed without any. Raises BadItems."""
    gallery, present = writer.gallery, writer.present
    cells = cells_in(overlay)
    if cells == 0:
        return 0
    refuse_others(overlay["item"].to_numpy(), live_items(gallery, present), of=gallery)
    columns = check_types(overlay, columns_of_gallery(writer), of=gallery)
    with ExitStack() as made:
        entry = _write(writer, overlay, made)
        writer.commit(
            Event(what="attributes", rows=entry.rows),
            overlays=(*present.overlays, entry),
            columns=columns,
        )
    return cells


def clear_attributes(writer: Writer, names: Collection[str] | None, *, origin: str | None) -> int:
    """Commit a generation whose overlays say nothing of some attributes any more, or of any, where
    an origin is given only what that has said; how many cells are gone. Raises UsageError."""
    gallery, present = writer.gallery, writer.present
    said = {name for entry in present.overlays for name in entry.attributes}
    for name in names or ():
        if name not in said:
            raise UsageError(
                f"{gallery}: nothing was said of an attribute {name!r} since items were added"
                + (f", but of {', '.join(sorted(said))}" if said else "")
            )
    before = read_overlays(gallery, present)
    after = [without(overlay, names, origin) for overlay in before]
    cells = sum(map(cells_in, before)) - sum(map(cells_in, after))
    if cells == 0:
        return 0
    touched = [old["item"].to_numpy() for old, new in zip(before, after, strict=True) if old != new]
    rest = joined(after, live_items(gallery, present), of=gallery)
    with ExitStack() as made:
        overlays = (_write(writer, rest, made),) if rest.num_rows else ()
        writer.commit(
            Event(what="attributes", rows=len(np.unique(np.concatenate(touched))), kind=CLEARED),
            overlays=overlays,
            columns=columns_with(gallery, present.shards, overlays, columns_of_gallery(writer)),
        )
    return cells


def live_items(gallery: Path, manifest: Manifest) -> NDArray[np.int64]:
    """The ids of the items that are not deleted, in the order of the rows."""
    found = [np.empty(0, np.int64)]
    for entry in manifest.shards:
        ids = _stored_items(gallery, entry)
        deleted = read_deleted(gallery, entry)
        found.append(ids if deleted is None else ids[~deleted])
    return np.concatenate(found)


def _stored_items(gallery: Path, entry: ShardEntry) -> NDArray[np.int64]:
    if entry.first_item is not None:
        return np.arange(entry.first_item, entry.first_item + entry.rows)
    ids: NDArray[np.int64] = shard_at(gallery, entry).read_columns(["item"])["item"].to_numpy()
    return ids


class Rest:
    """What a generation's overlays say of those items that stay: to be written again as one where
    there are several, or where one of them speaks of others.

    is_clean: whether they can stay as they are.
    """

    def __init__(self, gallery: Path, manifest: Manifest, items: NDArray[np.int64]) -> None:
        self._gallery = gallery
        self._entries = manifest.overlays
        self._items = items
        self._overlays = read_overlays(gallery, manifest)
        self.is_clean = len(self._overlays) < 2 and all(
            bool(np.isin(overlay["item"].to_numpy(), items).all()) for overlay in self._overlays
        )

    @classmethod
    def of_live(cls, gallery: Path, manifest: Manifest) -> "Rest":
        """Of the items that are not deleted."""
        items = live_items(gallery, manifest) if manifest.overlays else np.empty(0, np.int64)
        return cls(gallery, manifest, items)

    def write(self, writer: Writer, made: ExitStack) -> tuple[OverlayEntry, ...]:
        """The overlays of the next generation; made: undone where that fails."""
        if self.is_clean:
            return self._entries
        rest = joined(self._overlays, self._items, of=self._gallery)
        return (_write(writer, rest, made),) if rest.num_rows else ()


def _write(writer: Writer, overlay: pa.Table, made: ExitStack) -> OverlayEntry:
    name = f"overlays/{writer.generation:06d}.parquet"
    made.enter_context(writer.making(name))
    # An attribute of which nothing is left is none of it.
    empty = [name for name in names_in(overlay.column_names) if _is_unknown(overlay, name)]
    return write_overlay(writer.gallery, name, without(overlay, empty, None))


def _is_unknown(overlay: pa.Table, name: str) -> bool:
    return bool(overlay[PREFIX + name].null_count == overlay.num_rows)


def columns_with(
    gallery: Path,
    shards: Sequence[ShardEntry],
    overlays: Sequence[OverlayEntry],
    known: Mapping[str, str],
) -> dict[str, str]:
    """The columns of shards and overlays together, and their types as text. known: of all columns
    that the overlays may have."""
    columns: dict[str, str] = {}
    for entry in shards:
        columns |= column_types(shard_at(gallery, entry))
    return columns | {name: known[name] for entry in overlays for name in entry.columns}
