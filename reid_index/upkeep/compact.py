"""Compaction: shards are written again without their deleted rows, and small ones as one.

What is left of the former generations is then removed, so nothing of a deleted item remains.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import BadShard, GalleryLocked, ReidIndexError
from ..files import sha256_file
from ..store.append import describe_shard, shard_at
from ..store.deletions import read_deleted
from ..store.frames import mask_of_frames, offsets_of
from ..store.items import stack
from ..store.lease import Held
from ..store.manifest import Event, Manifest, ShardEntry
from ..store.retire import retire
from ..store.shard import Shard, write_shard
from ..store.vectors import ArrayStream
from ..store.writer import Writer, writing
from .attributes import Rest, columns_with
from .remake import Recipe, make_again, owed_without, recipes_of

if TYPE_CHECKING:
    from ..gallery import Gallery

_BATCH = 65536
"""Items that are written at a time."""


@dataclass(frozen=True, kw_only=True)
class Compacted:
    """What a compaction did.

    rows: items in the gallery. removed: deleted ones that are gone for good. shards_before,
    shards_after: how many. freed_bytes: how much smaller the folder is; below 0 where it grew, as
    it does while readers hold what was there. pending: generations that
    readers hold, whose files are still there, oldest first: compact again once they have ended.
    remade: kinds of attachments that were made again. dropped: those that were not, and why.
    """

    rows: int
    removed: int
    shards_before: int
    shards_after: int
    freed_bytes: int
    pending: tuple[Held, ...]
    remade: tuple[str, ...] = ()
    dropped: tuple[tuple[str, str], ...] = ()


def compact(gallery: "Gallery", *, remake: bool, progress: Callable[[int], object]) -> Compacted:
    """See `Gallery.compact`. Erasure comes first; then, step by step, what makes search fast."""
    path = gallery.path
    size = bytes_in(path)
    with gallery.writing() as writer:
        before = writer.present
        recipes = recipes_of(path, before)
        rewrite(writer, recipes, progress=progress)
        gallery.refresh()
        pending = retire(path, writer.present)
    remade, dropped = remake_all(gallery, recipes, remake=remake)
    # Another writer may have come: then what was found first is told.
    with suppress(GalleryLocked), writing(path) as writer:
        pending = retire(path, writer.present)
    return Compacted(
        rows=len(gallery),
        removed=before.deleted,
        shards_before=len(before.shards),
        shards_after=len(gallery.manifest.shards),
        freed_bytes=size - bytes_in(path),
        pending=pending,
        remade=remade,
        dropped=dropped,
    )


def remake_all(
    gallery: "Gallery", recipes: Mapping[str, Recipe | str], *, remake: bool
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Make attachments again that are gone or stale, by kind; the kinds that were, and those that
    were not, each with why."""
    remade, dropped = [], []
    for kind, recipe in recipes.items():
        entry = gallery.manifest.attachment(kind)
        if entry is not None and (not remake or gallery.manifest.is_fresh(entry)):
            continue
        why = _made_again(gallery, recipe) if remake else "it was not to be made again"
        if why is None:
            remade.append(kind)
        else:
            dropped.append((kind, why))
    return tuple(remade), tuple(dropped)


def _made_again(gallery: "Gallery", recipe: Recipe | str) -> str | None:
    """Make an attachment again; in a line why that cannot be, if so."""
    if isinstance(recipe, str):
        return recipe
    try:
        make_again(gallery, recipe)
    except (ReidIndexError, OSError, MemoryError) as error:
        return str(error) or "there is not enough memory"
    return None


@dataclass(frozen=True)
class Part:
    """A shard, as the manifest lists it and opened, and which of its rows are not deleted: bool
    (rows,), None for all."""

    entry: ShardEntry
    shard: Shard
    kept: NDArray[np.bool_] | None

    @property
    def rows(self) -> int:
        """How many stay."""
        return self.shard.header.rows if self.kept is None else int(np.count_nonzero(self.kept))

    @property
    def is_clean(self) -> bool:
        """Whether it has nothing that its rows do not need."""
        return self.kept is None and not self.shard.has_unused_texts


def rewrite(
    writer: Writer,
    recipes: Mapping[str, Recipe | str],
    *,
    progress: Callable[[int], object] = lambda _rows: None,
) -> None:
    """Commit a generation without deleted rows, with fewer shards and one overlay at most, unless
    there is nothing to do. Attachments that cover a shard which is written again are left out, and
    owed.

    progress is told of rows as they are written. Memory does not grow with their number, but for
    item ids, deletions, overlays, and which frames are whose.
    """
    present = writer.present
    groups = _groups(writer.gallery, present)
    rest = Rest.of_live(writer.gallery, present)
    if not groups and rest.is_clean:
        return
    again = {part.entry.folder for parts in groups for part in parts}
    kept = [entry for entry in present.shards if entry.folder not in again]
    shards = list(kept)
    with ExitStack() as made:
        staying = [parts for parts in groups if any(part.rows for part in parts)]
        for number, parts in enumerate(staying):
            name = f"shards/{writer.generation:06d}-{number}"
            folder = made.enter_context(writer.making(name))
            ids = _write(folder, parts, present, progress)
            shards.append(describe_shard(writer.gallery, name, ids=ids))
        overlays = rest.write(writer, made)
        columns = columns_with(writer.gallery, shards, overlays, present.columns or {})
        folders = {entry.folder for entry in kept}
        attached = tuple(entry for entry in present.attached if set(entry.covers) <= folders)
        writer.commit(
            Event(what="compact", rows=present.deleted),
            forget=True,
            shards=tuple(shards),
            columns=columns,
            overlays=overlays,
            attached=attached,
            owed=owed_without(recipes, attached),
        )


def _groups(gallery: Path, manifest: Manifest) -> list[list[Part]]:
    """What is to become one shard each: the sources of one are relative to one folder.

    Of the shards of a folder those stay, from the first on, that have only what their rows need and
    are at least as large as all that follow together. So a row is written again a few times only,
    however many additions there are.
    """
    by_root: dict[str, list[Part]] = {}
    for entry in manifest.shards:
        shard, deleted = shard_at(gallery, entry), read_deleted(gallery, entry)
        part = Part(entry, shard, None if deleted is None else ~deleted)
        by_root.setdefault(shard.header.root, []).append(part)
    groups = []
    for parts in by_root.values():
        following = sum(part.rows for part in parts)
        rest = list(parts)
        while rest and rest[0].is_clean:
            following -= rest[0].rows
            if rest[0].rows < following:
                break
            del rest[0]
        if rest:
            groups.append(rest)
    return groups


def _write(
    folder: Path, parts: Sequence[Part], manifest: Manifest, progress: Callable[[int], object]
) -> pa.ChunkedArray:
    """Write what stays of some shards as one; its item ids."""
    for part in parts:
        check_vectors(part.shard)
    first = parts[0].shard
    ids: list[pa.ChunkedArray] = []
    arrays = {name: _stream(name, parts) for name in first.arrays}

    def noted() -> Iterator[pa.Table]:
        for table in items_of(parts):
            ids.append(table["item"])
            progress(table.num_rows)
            yield table

    write_shard(
        folder,
        arrays=arrays,
        items=noted(),
        fingerprint=manifest.fingerprint,
        metric=manifest.metric,
        dtype=manifest.dtype,
        root=first.header.root,
        normalise=False,
        matcher=manifest.matcher,
    )
    return pa.chunked_array([chunk for column in ids for chunk in column.chunks], pa.int64())


def check_vectors(shard: Shard) -> None:
    """Raise BadShard where they have changed: what is written again gets a checksum of its own, by
    which damage would be taken for what was meant."""
    path = shard.folder / "vectors.h5"
    if sha256_file(path) != shard.sha256[path.name]:
        raise BadShard(f"{path}: its bytes have changed since it was written: restore it")


def _stream(name: str, parts: Sequence[Part]) -> ArrayStream:
    """What stays of one array of some shards."""
    first = parts[0].shard.arrays[name]
    if name == "frame_offset":
        lengths = [np.diff(part.shard.arrays[name]) for part in parts]
        kept = [
            some if part.kept is None else some[part.kept]
            for part, some in zip(parts, lengths, strict=True)
        ]
        return ArrayStream.of(offsets_of(np.concatenate(kept)))
    masks = [
        None if part.kept is None else mask_of_frames(part.kept, part.shard.arrays, name)
        for part in parts
    ]
    rows = sum(
        len(part.shard.arrays[name]) if mask is None else int(np.count_nonzero(mask))
        for part, mask in zip(parts, masks, strict=True)
    )
    return ArrayStream((rows, *first.shape[1:]), first.dtype, _vectors(name, parts, masks))


def _vectors(
    name: str, parts: Iterable[Part], masks: Iterable[NDArray[np.bool_] | None]
) -> Iterator[NDArray[np.generic]]:
    for part, mask in zip(parts, masks, strict=True):
        at = 0
        for piece in part.shard.pieces(name):
            yield piece if mask is None else piece[mask[at : at + len(piece)]]
            at += len(piece)


def items_of(parts: Sequence[Part]) -> Iterator[pa.Table]:
    """The items that stay, all with the same columns, some tens of thousands at a time."""
    schema = stack([part.shard.columns.empty_table() for part in parts]).schema
    waiting: list[pa.Table] = []
    for part in parts:
        at = 0
        for batch in part.shard.item_batches():
            if part.kept is not None:
                kept = part.kept[at : at + batch.num_rows]
                at += batch.num_rows
                batch = batch.filter(pa.array(kept))
            waiting.append(stack([schema.empty_table(), batch]))
            if sum(table.num_rows for table in waiting) >= _BATCH:
                yield pa.concat_tables(waiting)
                waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def bytes_in(gallery: Path) -> int:
    """Of all files of a gallery's folder; others may remove some meanwhile."""
    size = 0
    for folder, _, names in os.walk(gallery):
        for name in names:
            with suppress(FileNotFoundError):
                size += os.stat(os.path.join(folder, name)).st_size
    return size
