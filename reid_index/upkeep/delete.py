"""Deleting: bitmaps of the shards that are touched, in the next generation."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..attributes import attribute_of
from ..errors import UsageError
from ..files import json_bytes, remove
from ..filters.where import compile_where
from ..store.append import shard_at
from ..store.commit import write_deleted
from ..store.deletions import pack, read_deleted
from ..store.items import conform, stack
from ..store.manifest import Event, Manifest, ShardEntry, to_json
from ..store.overlays import empty_overlay, lay_over, read_overlays
from ..store.writer import Writer

if TYPE_CHECKING:
    from ..erasure.receipt import Receipt

Gone = Mapping[int, NDArray[np.int64]]
"""Place of a shard in the manifest → its rows that are to be deleted, ascending."""

_NONE = conform(pa.table({}))


def rows_of(
    gallery: Path, manifest: Manifest, *, where: str | None, items: Sequence[int] | None
) -> Gone:
    """What is to be deleted; see `Gallery.delete`."""
    if where is None and items is None:
        raise UsageError("say what to delete: where (an expression), or items (their ids)")
    named = {} if items is None else _rows_of_items(gallery, manifest, items)
    asked = {} if where is None else _rows_of_where(gallery, manifest, where)
    none = np.empty(0, np.int64)
    return {
        place: np.union1d(named.get(place, none), asked.get(place, none))
        for place in sorted({*named, *asked})
    }


def _rows_of_items(gallery: Path, manifest: Manifest, items: Sequence[int]) -> Gone:
    """Where items are stored. Raises UsageError where there is no such item, CorruptGallery."""
    wanted = np.unique(np.array([_item(item) for item in items], np.int64))
    missing = wanted
    gone: dict[int, NDArray[np.int64]] = {}
    for place, entry in enumerate(manifest.shards):
        rows = _rows_in(gallery, entry, missing)
        if len(rows) == 0:
            continue
        deleted = read_deleted(gallery, entry)
        ids = _ids(gallery, entry)[rows] if entry.first_item is None else entry.first_item + rows
        there = np.ones(len(rows), np.bool_) if deleted is None else ~deleted[rows]
        if there.any():
            gone[place] = rows[there]
            missing = np.setdiff1d(missing, ids[there])
    if len(missing):
        more = "" if len(missing) == 1 else f" (nor {len(missing) - 1} others that were named)"
        raise UsageError(f"{gallery}: there is no item {missing[0]}{more}; nothing was deleted")
    return gone


def _item(item: object) -> int:
    if isinstance(item, bool) or not isinstance(item, int | np.integer) or not 0 <= item < 2**62:
        raise UsageError(f"items are named by their ids, whole numbers from 0 up; got {item!r}")
    return int(item)


def _rows_in(gallery: Path, entry: ShardEntry, items: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows of a shard that hold some of the items."""
    if entry.first_item is None:
        return np.flatnonzero(np.isin(_ids(gallery, entry), items))
    rows = items - entry.first_item
    return rows[(rows >= 0) & (rows < entry.rows)]


def _ids(gallery: Path, entry: ShardEntry) -> NDArray[np.int64]:
    ids: NDArray[np.int64] = shard_at(gallery, entry).read_columns(["item"])["item"].to_numpy()
    return ids


def _rows_of_where(gallery: Path, manifest: Manifest, text: str) -> Gone:
    """The rows, not deleted yet, for which an expression holds. Only the columns that it asks are
    read. Raises WhereError, CorruptGallery."""
    if not isinstance(text, str):
        raise UsageError(f"a filter is text such as 'camera = 3', got {text!r}")
    where = compile_where(text)
    shards = [shard_at(gallery, entry) for entry in manifest.shards]
    none = stack([_NONE, *(shard.columns.empty_table() for shard in shards)])
    schema = lay_over(none, [empty_overlay(manifest)], of=gallery).schema
    names = where.columns(schema)
    attributes = {name for name in map(attribute_of, names) if name is not None}
    overlays = read_overlays(gallery, manifest, attributes=attributes)
    # What counts of an attribute is seen by its origin, whatever is asked of it.
    laid = ["item", *(name for name in schema.names if attribute_of(name) in attributes)]
    needed = [*dict.fromkeys([*names, *(laid if overlays else ())])]
    gone = {}
    for place, (entry, shard) in enumerate(zip(manifest.shards, shards, strict=True)):
        asked = stack([schema.empty_table().select(needed), shard.read_columns(needed)])
        mask = where.mask(lay_over(asked, overlays, of=gallery))
        deleted = read_deleted(gallery, entry)
        rows = np.flatnonzero(mask if deleted is None else mask & ~deleted)
        if len(rows):
            gone[place] = rows
    return gone


def delete_rows(writer: Writer, gone: Gone, *, receipt: Path | None = None) -> None:
    """Commit a generation in which those rows are deleted.

    receipt: a new file outside the gallery that says what must be gone after compaction; it is
    there before anything is deleted. Raises UsageError, CorruptGallery.
    """
    gallery, present = writer.gallery, writer.present
    after = {place: _deleted_after(gallery, present.shards[place], gone[place]) for place in gone}
    with ExitStack() as undo:
        if receipt is not None:
            from ..erasure.receipt import check_receipt_path, write_receipt

            check_receipt_path(receipt, gallery=gallery)  # before all is read
            said = _receipt(gallery, present, gone, after)
            write_receipt(receipt, said, gallery=gallery)
            undo.enter_context(_unless_it_fails(receipt, writer))
        shards = list(present.shards)
        for place, deleted in after.items():
            name = f"deleted/{writer.generation:06d}-{place:06d}.bits"
            undo.enter_context(writer.making(name))
            rows = int(np.count_nonzero(deleted))
            entry = write_deleted(gallery, name, pack(deleted), rows=rows)
            shards[place] = replace(shards[place], deleted=entry)
        event = Event(what="delete", rows=sum(map(len, gone.values())))
        writer.commit(event, shards=tuple(shards))


@contextmanager
def _unless_it_fails(receipt: Path, writer: Writer) -> Iterator[None]:
    """Keep a receipt unless nothing was deleted; where only the very last step failed, it was."""
    generation = writer.generation
    try:
        yield
    except BaseException:
        if not writer.has_committed(generation):
            remove(receipt)
        raise


def _deleted_after(gallery: Path, entry: ShardEntry, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    before = read_deleted(gallery, entry)
    deleted = np.zeros(entry.rows, np.bool_) if before is None else before.copy()
    deleted[rows] = True
    return deleted


def _receipt(
    gallery: Path, present: Manifest, gone: Gone, after: Mapping[int, NDArray[np.bool_]]
) -> "Receipt":
    from ..erasure.receipt import make_receipt

    masks, kept = [], []
    for place, entry in enumerate(present.shards):
        mask = np.zeros(entry.rows, np.bool_)
        mask[gone.get(place, np.empty(0, np.int64))] = True
        masks.append(mask)
        deleted = after[place] if place in after else read_deleted(gallery, entry)
        kept.append(np.ones(entry.rows, np.bool_) if deleted is None else ~deleted)
    shards = [shard_at(gallery, entry) for entry in present.shards]
    columns = sorted({name for shard in shards for name in shard.columns.names})
    return make_receipt(
        shards,
        overlays=read_overlays(gallery, present),
        gone=masks,
        kept=kept,
        gallery=present.identity or "",
        generation=present.generation,
        # Extractor, recipe, names of files and columns: they stay whoever goes.
        beside=json_bytes(to_json(present)) + "\0".join(columns).encode(),
    )
