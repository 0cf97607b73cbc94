"""Rebuilding: the same items with vectors of another extractor, in a generation of its own.

What is known of the items stays; the vectors come from shards that name the items they are of.
Whoever reads the former generation keeps it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ..errors import BadShard, GalleryLocked, NothingToIndex, UsageError
from ..store.append import describe_shard, shard_at
from ..store.commit import open_present
from ..store.deletions import read_deleted
from ..store.frames import frames_of, offsets_of
from ..store.items import STANDARD
from ..store.lease import Held
from ..store.manifest import Event, Manifest, Owed, ShardEntry
from ..store.retire import retire
from ..store.shard import Shard, open_shard, write_shard
from ..store.vectors import OF_FRAMES, ArrayStream
from ..store.writer import Writer, writing
from .attributes import Rest, columns_with
from .compact import Compacted, Part, bytes_in, check_vectors, items_of, remake_all
from .remake import owed_without, recipes_of

if TYPE_CHECKING:
    from ..gallery import Gallery

_PIECE = 4096
"""Rows that are gathered at a time: 8 MiB at 512 float32."""

_NAMED = 3
"""Items that a message names; the others are counted."""

Drop = bool | Collection[int]
"""Which items may be left out where they have no vector: all, none, or those of these ids."""


@dataclass(frozen=True, kw_only=True)
class Rebuilt(Compacted):
    """What a rebuild did: see Compacted. missing: items that were left out, as they had no vector;
    removed: deleted items that are gone for good, without these."""

    missing: int


def read_crops(gallery: Path, more: Sequence[str] = ()) -> pa.Table:
    """What a gallery's items were cut from, a row for each in order: `item`, `source`, `box`, and
    `root` (a dictionary), "" where no pictures exist. No generation is held afterwards.

    more: further columns, as far as there are any.

    Raises GalleryNotFound, CorruptGallery, BadShard, FormatTooNew.
    """
    tables = [_NO_CROPS]
    opened = open_present(gallery)
    try:
        for entry in opened.manifest.shards:
            shard, deleted = shard_at(gallery, entry), read_deleted(gallery, entry)
            table = shard.read_columns(["item", "source", "box", *more])
            if deleted is not None:
                table = table.filter(pa.array(~deleted))
            codes = pa.array(np.zeros(table.num_rows, np.int32))
            root = pa.DictionaryArray.from_arrays(codes, pa.array([shard.header.root]))
            tables.append(table.append_column("root", root))
    finally:
        opened.lease.end()
    return pa.concat_tables(tables, promote_options="default").unify_dictionaries()


_NO_CROPS = pa.table(
    {
        **{name: pa.array([], STANDARD[name]) for name in ("item", "source", "box")},
        "root": pa.array([], pa.dictionary(pa.int32(), pa.string())),
    }
)


def rebuild(
    gallery: "Gallery",
    shards: Sequence[Path],
    *,
    recipe: Mapping[str, Any],
    remake: bool,
    drop_missing: Drop,
    roots: Mapping[str, str],
    progress: Callable[[int], object],
) -> Rebuilt:
    """See `Gallery.rebuild`. The new generation comes first; then what makes search fast."""
    path = gallery.path
    made = Made(shards)
    size = bytes_in(path)
    with gallery.writing() as writer:
        before = writer.present
        recipes = recipes_of(path, before)
        stored = _with_vectors(path, before, made, drop_missing, roots)
        owed = owed_without(recipes, ())
        _rewrite(writer, made, stored, owed=owed, recipe=recipe, progress=progress)
        after = writer.present
        gallery.refresh()
        pending = retire(path, after)
    remade, dropped = remake_all(gallery, recipes, remake=remake)
    # It is done, whoever else writes now; they remove what is left.
    with suppress(GalleryLocked):
        pending = retire_former(path)
    return Rebuilt(
        rows=after.rows,
        removed=before.deleted,
        missing=before.rows - after.rows,
        shards_before=len(before.shards),
        shards_after=len(after.shards),
        freed_bytes=size - bytes_in(path),
        pending=pending,
        remade=remade,
        dropped=dropped,
    )


def move(
    gallery: "Gallery",
    roots: Mapping[str, str],
    *,
    remake: bool,
    progress: Callable[[int], object],
) -> Rebuilt:
    """Tell a gallery where its pictures are now: root → the folder that they have moved to. Its own
    vectors stay; else as `Gallery.rebuild`."""
    for entry in gallery.manifest.shards:
        check_vectors(shard_at(gallery.path, entry))
    return gallery.rebuild(
        [gallery.path / folder for folder in gallery.manifest.folders],
        recipe=gallery.manifest.recipe,
        remake=remake,
        roots=roots,
        progress=progress,
    )


def retire_former(gallery: Path) -> tuple[Held, ...]:
    """Remove what a rebuild left of former generations when it was cut short behind its commit;
    those that readers hold. Raises GalleryLocked."""
    with writing(gallery) as writer:
        return retire(gallery, writer.present)


class Made:
    """Vectors of one extractor in some shards, found by their items.

    Nothing of them stays mapped, and memory grows with the number of items by 16 bytes each, by
    some more where they have frames.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        """Raises UsageError for no shard or an item that is there twice, BadShard for shards that
        do not go together or do not name their items."""
        if not shards:
            raise UsageError("a rebuild needs shards with the new vectors, and got none")
        self._shards = [open_shard(folder) for folder in shards]
        self.header = self._shards[0].header
        first = self._shards[0]
        self.arrays = _shapes(first)
        for shard in self._shards:
            if _properties(shard) != _properties(first) or _shapes(shard) != self.arrays:
                raise BadShard(
                    f"{shard.folder} and {first.folder} are not of one extractor, metric, type "
                    "and shape, or of one matcher: a gallery has vectors of one kind"
                )
        ids = np.concatenate([_ids_named(shard) for shard in self._shards])
        self._rows = np.argsort(ids, kind="stable")
        self._ids = ids[self._rows]
        self._ends = np.cumsum([shard.header.rows for shard in self._shards])
        self._lengths = np.empty(0, np.int64)
        if "frame_offset" in self.arrays:
            offsets = [replace(shard).arrays["frame_offset"] for shard in self._shards]
            self._lengths = np.concatenate([np.diff(one) for one in offsets])
        twice = self._ids[1:][self._ids[1:] == self._ids[:-1]]
        if len(twice):
            raise UsageError(f"{first.folder.parent}: item {twice[0]} is in the shards twice")

    def holds(self, items: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the items have a vector."""
        if len(self._ids) == 0:
            return np.zeros(len(items), np.bool_)
        places = np.minimum(np.searchsorted(self._ids, items), len(self._ids) - 1)
        held: NDArray[np.bool_] = self._ids[places] == items
        return held

    def stream(self, name: str, items: NDArray[np.int64]) -> ArrayStream:
        """The rows of those items, all of them held, of one array, in the order of the items."""
        width, dtype = self.arrays[name]
        if name != "frame_offset" and name not in OF_FRAMES:
            return ArrayStream((len(items), *width), dtype, self._pieces(name, items))
        lengths = self._lengths[self._rows_of(items)]
        if name == "frame_offset":
            return ArrayStream.of(offsets_of(lengths))
        return ArrayStream((int(lengths.sum()), *width), dtype, self._pieces(name, items))

    def _rows_of(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = self._rows[np.searchsorted(self._ids, items)]
        return rows

    def _pieces(self, name: str, items: NDArray[np.int64]) -> Iterator[NDArray[np.generic]]:
        width, dtype = self.arrays[name]
        of_frames = name in OF_FRAMES
        for start in range(0, len(items), _PIECE):
            rows = self._rows_of(items[start : start + _PIECE])
            places = np.searchsorted(self._ends, rows, side="right")
            lengths = self._lengths[rows] if of_frames else np.ones(len(rows), np.int64)
            piece = np.empty((int(lengths.sum()), *width), dtype)
            for place in np.unique(places):
                here, shard = places == place, self._shards[place]
                wanted = rows[here] - (self._ends[place] - shard.header.rows)
                # A shard keeps its arrays mapped, so another one is asked.
                arrays = replace(shard).arrays
                if of_frames:
                    wanted, _ = frames_of(arrays["frame_offset"], wanted)
                piece[np.repeat(here, lengths)] = arrays[name][wanted]
            yield piece


def _properties(shard: Shard) -> tuple[object, ...]:
    header = shard.header
    return header.fingerprint, header.metric, header.dtype, header.dim, header.matcher


def _shapes(shard: Shard) -> dict[str, tuple[tuple[int, ...], str]]:
    """Name → shape of a row, and type, of each array; nothing stays mapped."""
    arrays = replace(shard).arrays
    return {name: (array.shape[1:], str(array.dtype)) for name, array in arrays.items()}


def _ids_named(shard: Shard) -> NDArray[np.int64]:
    column = shard.read_columns(["item"])["item"]
    if column.null_count:
        raise BadShard(
            f"{shard.folder}: {column.null_count} of its rows do not say which item they are of: "
            "they need the column `item`"
        )
    ids: NDArray[np.int64] = column.to_numpy()
    return ids


@dataclass(frozen=True)
class _Stored:
    """A shard of the gallery, its rows that get a vector, their items, and their root now."""

    part: Part
    items: NDArray[np.int64]
    root: str


def _rewrite(
    writer: Writer,
    made: Made,
    stored: Sequence[_Stored],
    *,
    owed: tuple[Owed, ...],
    recipe: Mapping[str, Any],
    progress: Callable[[int], object],
) -> None:
    """Commit the generation with the new vectors, without deleted rows and without attachments,
    which it owes."""
    present = writer.present
    shards: list[ShardEntry] = []
    staying = [one.items for one in stored]
    rest = Rest(writer.gallery, present, np.concatenate([np.empty(0, np.int64), *staying]))
    with ExitStack() as making:
        # Sources are relative to one folder in each shard; the order of the items stays.
        for number, (root, group) in enumerate(groupby(stored, key=lambda one: one.root)):
            name = f"shards/{writer.generation:06d}-{number}"
            folder = making.enter_context(writer.making(name))
            items = _write(folder, list(group), made, root=root, progress=progress)
            shards.append(describe_shard(writer.gallery, name, ids=items))
        overlays = rest.write(writer, making)
        writer.commit(
            Event(what="rebuild", rows=present.stored - sum(shard.rows for shard in shards)),
            forget=True,
            metric=made.header.metric,
            dim=made.header.dim,
            dtype=made.header.dtype,
            fingerprint=made.header.fingerprint,
            matcher=made.header.matcher,
            recipe=dict(recipe),
            shards=tuple(shards),
            columns=columns_with(writer.gallery, shards, overlays, present.columns or {}),
            overlays=overlays,
            attached=(),
            owed=owed,
        )


def _with_vectors(
    gallery: Path, present: Manifest, made: Made, drop_missing: Drop, roots: Mapping[str, str]
) -> list[_Stored]:
    """The items that stay, by shard; shards without any are left out.

    Raises UsageError where items have no vector and may not be left out, NothingToIndex where none
    has one.
    """
    stored, missing = [], [np.empty(0, np.int64)]
    for entry in present.shards:
        shard, deleted = shard_at(gallery, entry), read_deleted(gallery, entry)
        ids: NDArray[np.int64] = shard.read_columns(["item"])["item"].to_numpy()
        live = np.ones(len(ids), np.bool_) if deleted is None else ~deleted
        kept = live & made.holds(ids)
        missing.append(ids[live & ~kept])
        if kept.any():
            part, root = Part(entry, shard, None if kept.all() else kept), shard.header.root
            stored.append(_Stored(part, ids[kept], roots.get(root, root)))
    _refuse_missing(gallery, np.concatenate(missing), drop_missing, rows=present.rows)
    if present.rows and not stored:
        raise NothingToIndex(f"{gallery}: the shards hold a vector of none of its items")
    return stored


def _refuse_missing(
    gallery: Path, missing: NDArray[np.int64], drop_missing: Drop, *, rows: int
) -> None:
    if drop_missing is True:
        return
    allowed = [] if drop_missing is False else list(drop_missing)
    missing = np.setdiff1d(missing, np.array(allowed, np.int64))
    if len(missing):
        named = ", ".join(map(str, missing[:_NAMED])) + (", …" if len(missing) > _NAMED else "")
        raise UsageError(
            f"{gallery}: the shards hold no vector of {len(missing)} of its {rows} items "
            f"({named}): extract those, too, or have them left out (drop_missing)"
        )


def _write(
    folder: Path,
    stored: Sequence[_Stored],
    made: Made,
    *,
    root: str,
    progress: Callable[[int], object],
) -> pa.ChunkedArray:
    """Write some shards as one, with the new vectors; its item ids."""
    ids = np.concatenate([one.items for one in stored])

    def told() -> Iterator[pa.Table]:
        for table in items_of([one.part for one in stored]):
            progress(table.num_rows)
            yield table

    write_shard(
        folder,
        arrays={name: made.stream(name, ids) for name in made.arrays},
        items=told(),
        fingerprint=made.header.fingerprint,
        metric=made.header.metric,
        dtype=made.header.dtype,
        root=root,
        matcher=made.header.matcher,
    )
    return pa.chunked_array([pa.array(ids, pa.int64())])
