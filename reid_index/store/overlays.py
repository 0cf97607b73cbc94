"""Overlays: what was said of items' attributes after they were added, by labels, people or models.

Shards never change, so each is a Parquet file of its own, written once: `item`, ascending, and the
three columns of every attribute in it (attributes.py); a cell without a value says nothing. Laid
over the shards' items, cell by cell, a higher origin stays (`rank_of`), and of equal ones the later
counts; a value goes with its confidence and its origin.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ..attributes import (
    CONFIDENCE,
    LABEL,
    MODEL,
    ORIGIN,
    PERSON,
    PREFIX,
    check_name,
    columns_of,
    names_in,
    rank_of,
)
from ..errors import BadItems, CorruptGallery
from ..files import create, make_folder, sync_folder
from ..reading import PARQUET_ERRORS, ParquetTable
from .commit import describe_file, read_listed
from .items import check_confidences, item_table, sorted_sets, type_text
from .manifest import Manifest, OverlayEntry
from .shard import without_unused_texts

# A pyarrow array, chunked or not; pyarrow publishes no types.
_Array: TypeAlias = Any

_WORD = pa.dictionary(pa.int32(), pa.string())
_SET = pa.list_(pa.string())

_ROW_GROUP = 65_536
"""Most items that are compressed together."""

_NAMED = 3
"""Items that a message names; the others are counted."""


# What somebody says


def said_of(
    table: pa.Table | Sequence[Mapping[str, Any]], *, origin: str | None = None
) -> pa.Table:
    """A table of `item` and `attr.*` columns as an overlay has it: items ascending, three columns
    for each attribute that has a value, sets sorted, nothing beside an unknown value. Items of
    which nothing is said are left out.

    origin: of values that have none of their own; "label" unless given.

    Raises BadItems for other columns, for an item without an id or with two rows, for values that
    are no words or sets of words, confidences that are not from 0 to 1, and origins that there are
    none of; UsageError for what an attribute cannot be called.
    """
    if len(table) == 0:
        return pa.table({"item": pa.array([], pa.int64())})
    if not isinstance(table, pa.Table):
        table = item_table(table, rows=len(table))
    _refuse_columns(table.column_names)
    ids = _ids_of(table)
    order = np.argsort(ids, kind="stable")
    twice = ids[order][1:] == ids[order][:-1]
    if twice.any():
        raise BadItems(f"attributes: item {ids[order][1:][twice][0]} has two rows: one, please")
    columns: dict[str, _Array] = {"item": pa.array(ids, pa.int64())}
    for name in names_in(table.column_names):
        columns |= _cells_of(table, name, LABEL if origin is None else origin)
    return _spoken_of(pa.table(columns).take(pa.array(order)))


def _refuse_columns(names: Sequence[str]) -> None:
    if len(set(names)) != len(names):
        raise BadItems(f"attributes: two columns have the same name: {', '.join(names)}")
    if "item" not in names:
        raise BadItems("attributes: there is no column `item`, which says whom they are of")
    there = names_in(names)
    for name in there:
        check_name(name)
    known = {"item", *(column for name in there for column in columns_of(name))}
    for name in names:
        if name not in known:
            hint = "name them attr.NAME, attr.NAME.confidence, attr.NAME.origin"
            if name.startswith(PREFIX):
                hint = "a confidence or an origin goes with a value, attr.NAME"
            raise BadItems(f"attributes: column {name!r} is none of an attribute: {hint}")


def _ids_of(table: pa.Table) -> NDArray[np.int64]:
    column = table["item"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise BadItems("attributes: `item` has the id of each item, a whole number, please")
    try:
        ids: NDArray[np.int64] = column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise BadItems(f"attributes: `item` has what is no id: {error}") from None
    return ids


def _cells_of(table: pa.Table, name: str, origin: str) -> dict[str, _Array]:
    """The three columns of an attribute; none where nothing is known of it."""
    of_value, of_confidence, of_origin = columns_of(name)
    value = _values_of(of_value, table[of_value])
    if value.null_count == len(value):
        return {}
    known = value.is_valid()
    confidence = pa.nulls(len(value), pa.float32())
    origins = pa.nulls(len(value), pa.string())
    if of_confidence in table.column_names:
        confidence = _cast(of_confidence, table[of_confidence], pa.float32()).combine_chunks()
        check_confidences(of_confidence, confidence)
        confidence = pc.if_else(known, confidence, pa.scalar(None, pa.float32()))
    if of_origin in table.column_names:
        origins = _cast(of_origin, table[of_origin], pa.string()).combine_chunks()
    origins = pc.if_else(known, pc.fill_null(origins, origin), pa.scalar(None, pa.string()))
    for one in pc.unique(origins.drop_null()).to_pylist():
        _check_origin(one)
    return {of_value: value, of_confidence: confidence, of_origin: origins.dictionary_encode()}


def _check_origin(origin: str) -> None:
    if origin not in (LABEL, PERSON) and not origin.startswith(f"{MODEL} "):
        raise BadItems(
            f"attributes: {origin!r} is no origin: label, person, or model NAME VERSION SHA256"
        )


def _values_of(name: str, column: pa.ChunkedArray) -> _Array:
    """Words or sets of words, in the types that are stored."""
    kind = column.type
    is_set = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if is_set:
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (is_text or pa.types.is_string_view(kind) or pa.types.is_null(kind)):
        raise BadItems(
            f"attributes: column {name!r} holds {column.type}: values are words, or sets (lists) "
            "of words"
        )
    if is_set:
        return sorted_sets(_cast(name, column, _SET))
    words = _cast(name, column, pa.string()).combine_chunks().dictionary_encode()
    if pc.any(pc.equal(words.dictionary, ""), min_count=0).as_py():
        raise BadItems(f"attributes: column {name!r} has an empty word: what is unknown is null")
    return words


def _cast(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    try:
        cast = column.cast(kind)
        cast.validate(full=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise BadItems(
            f"attributes: column {name!r} holds {column.type}, which is not {kind}: {reason}"
        ) from None
    return cast


def _spoken_of(table: pa.Table) -> pa.Table:
    """The rows with any value."""
    said = np.zeros(table.num_rows, np.bool_)
    for name in names_in(table.column_names):
        said |= table[PREFIX + name].is_valid().to_numpy()
    return table if said.all() else table.filter(pa.array(said))


def cells_in(overlay: pa.Table) -> int:
    """How many values an overlay has."""
    names = names_in(overlay.column_names)
    return sum(len(overlay) - int(overlay[PREFIX + name].null_count) for name in names)


def check_types(overlay: pa.Table, columns: Mapping[str, str], *, of: Path) -> dict[str, str]:
    """The columns of the gallery `of` with those of an overlay, and their types as text. columns:
    those it has. Raises BadItems where one column would have two types."""
    types = {one.name: type_text(one.type) for one in overlay.schema}
    for name, kind in types.items():
        had = columns.get(name, kind)
        if had != kind:
            raise BadItems(
                f"attributes: column {name!r} holds {_in_words(kind)}, that of {of} "
                f"{_in_words(had)}: a column can have one type"
            )
    return {**columns, **types}


def _in_words(kind: str) -> str:
    return {type_text(_WORD): "words", type_text(_SET): "sets of words"}.get(kind, kind)


def refuse_others(items: NDArray[np.int64], there: NDArray[np.int64], *, of: Path) -> None:
    """Raise BadItems for items that are not among those of the gallery `of`."""
    others = items[~np.isin(items, there)]
    if len(others):
        named = ", ".join(map(str, others[:_NAMED])) + (", …" if len(others) > _NAMED else "")
        raise BadItems(
            f"attributes: {of} has no item {named} ({len(others):,} of the {len(items):,} that "
            "something is said of); nothing was changed"
        )


# Files


def write_overlay(gallery: Path, name: str, overlay: pa.Table) -> OverlayEntry:
    """Write what `said_of` or `joined` has made, which has rows, and describe it."""
    path = gallery / name
    make_folder(path.parent)
    with create(path) as file:
        pq.write_table(
            without_unused_texts(overlay), file, compression="zstd", row_group_size=_ROW_GROUP
        )
    sync_folder(path.parent)
    return OverlayEntry(
        file=name,
        rows=overlay.num_rows,
        attributes=tuple(names_in(overlay.column_names)),
        entry=describe_file(path),
    )


def read_overlay(
    gallery: Path, entry: OverlayEntry, *, attributes: Collection[str] | None = None
) -> pa.Table:
    """What a listed overlay says, of all its attributes or some. Every byte is checked before Arrow
    sees it. Raises CorruptGallery."""
    path = gallery / entry.file
    try:
        file = ParquetTable(read_listed(path, entry.entry), rows=entry.rows)
        if file.schema.names != ["item", *entry.columns]:
            raise ValueError(f"it has the columns {', '.join(file.schema.names)}")
        wanted = [one for one in entry.attributes if attributes is None or one in attributes]
        names = ["item", *(column for name in wanted for column in columns_of(name))]
        return _as_stored(file.read(columns=names))
    except OSError as error:
        why = error.strerror or str(error)
        raise CorruptGallery(f"{path}: cannot be read: {why}; restore it from a copy") from None
    except PARQUET_ERRORS as error:
        reason = str(error).splitlines()[0]
        raise CorruptGallery(f"{path}: {reason}; restore it from a copy") from None


def read_overlays(
    gallery: Path, manifest: Manifest, *, attributes: Collection[str] | None = None
) -> tuple[pa.Table, ...]:
    """All overlays of a generation, oldest first, or those that say something of some attributes.
    Raises CorruptGallery."""
    return tuple(
        read_overlay(gallery, entry, attributes=attributes)
        for entry in manifest.overlays
        if attributes is None or not set(attributes).isdisjoint(entry.attributes)
    )


def empty_overlay(manifest: Manifest) -> pa.Table:
    """The columns that the overlays of a generation have together."""
    told = manifest.columns or {}
    types = {"item": pa.int64()}
    for name in dict.fromkeys(name for entry in manifest.overlays for name in entry.attributes):
        of_value, of_confidence, of_origin = columns_of(name)
        types[of_value] = _SET if told.get(of_value) == type_text(_SET) else _WORD
        types |= {of_confidence: pa.float32(), of_origin: _WORD}
    return pa.schema(types).empty_table()


def _as_stored(table: pa.Table) -> pa.Table:
    """A table read from a file, if its columns have the types and items that they should. Raises
    ValueError."""
    for at, field in enumerate(table.schema):
        if field.name == "item":
            good = field.type == pa.int64() and table["item"].null_count == 0
        elif field.name.endswith(CONFIDENCE):
            good = field.type == pa.float32()
        elif field.name.endswith(ORIGIN):
            good = field.type == _WORD
        else:
            good = field.type == _WORD or type_text(field.type) == type_text(_SET)
            if good and field.type != _WORD:
                table = table.set_column(at, field.name, table[field.name].cast(_SET))
        if not good:
            raise ValueError(f"column {field.name!r} holds {field.type}")
        if field.name.endswith(CONFIDENCE):
            check_confidences(field.name, table[field.name])
    ids = table["item"].to_numpy()
    if (np.diff(ids) <= 0).any() or ids.min(initial=0) < 0:
        raise ValueError("its items are not ascending")
    return table


def wrong_cells(overlay: pa.Table) -> str | None:
    """What is wrong in an overlay that was read, beside its types; None where nothing is."""
    if len(_spoken_of(overlay)) < len(overlay):
        return "it has items of which it says nothing"
    for name in names_in(overlay.column_names):
        value, confidence, origin = (overlay[column] for column in columns_of(name))
        known = value.is_valid()
        if not pc.all(pc.or_(known, confidence.is_null()), min_count=0).as_py():
            return f"it has a confidence of an unknown {name}"
        if not pc.equal(known, origin.is_valid()).equals(pa.chunked_array([[True] * len(known)])):
            return f"it has a {name} of no origin, or an origin of an unknown one"
        try:
            for one in pc.unique(origin.cast(pa.string()).drop_null()).to_pylist():
                _check_origin(one)
            if value.type == _SET and not sorted_sets(value).equals(value.combine_chunks()):
                return f"its sets of {name} are not sorted"
        except BadItems as error:
            return str(error)
    return None


# Laid over


def lay_over(items: pa.Table, overlays: Sequence[pa.Table], *, of: Path) -> pa.Table:
    """The items of the gallery `of`, any rows of them, as its overlays (oldest first) have their
    attributes; such as the items lack come behind their columns. What overlays say of other items
    is passed over.

    Raises CorruptGallery where an attribute has other types in both.
    """
    names = dict.fromkeys(name for one in overlays for name in names_in(one.column_names))
    if not names:
        return items
    places = _places(items["item"].to_numpy(), [one["item"].to_numpy() for one in overlays])
    for name in names:
        some = [
            (overlay, *place)
            for overlay, place in zip(overlays, places, strict=True)
            if PREFIX + name in overlay.column_names
        ]
        items = _with_attribute(items, name, some, of=of)
    return items


def joined(overlays: Sequence[pa.Table], items: NDArray[np.int64], *, of: Path) -> pa.Table:
    """What several overlays say of those items, as one overlay; its rows may be none."""
    alone = pa.table({"item": pa.array(np.sort(items), pa.int64())})
    return _spoken_of(lay_over(alone, overlays, of=of))


_Rows = NDArray[np.int64]


def _places(items: _Rows, said: Iterable[_Rows]) -> list[tuple[_Rows, _Rows]]:
    """For each overlay the rows of items that it speaks of, and the rows in it that do so."""
    order = None if (np.diff(items) > 0).all() else np.argsort(items, kind="stable")
    ascending = items if order is None else items[order]
    found = []
    for ids in said:
        at = np.searchsorted(ascending, ids)
        there = np.zeros(len(ids), np.bool_)
        inside = at < len(ascending)
        there[inside] = ascending[at[inside]] == ids[inside]
        rows = at[there]
        found.append((rows if order is None else order[rows], np.flatnonzero(there)))
    return found


def _with_attribute(
    items: pa.Table, name: str, overlays: Sequence[tuple[pa.Table, _Rows, _Rows]], *, of: Path
) -> pa.Table:
    """Items with the three columns of an attribute, which every one of the overlays has."""
    columns = columns_of(name)
    types = [overlays[0][0][column].type for column in columns]
    layers = [
        _column(table, column, kind, of=of)
        for table in (items, *(overlay for overlay, _, _ in overlays))
        for column, kind in zip(columns, types, strict=True)
    ]
    chosen = np.arange(items.num_rows)
    best = _ranks(layers[0], layers[2])
    first = items.num_rows
    for number, (overlay, rows, own) in enumerate(overlays, start=1):
        rank = _ranks(layers[3 * number], layers[3 * number + 2])[own]
        wins = rank >= best[rows]
        chosen[rows[wins]] = first + own[wins]
        best[rows[wins]] = rank[wins]
        first += overlay.num_rows
    for at, column in enumerate(columns):
        merged = _taken(layers[at::3], chosen)
        if column in items.column_names:
            items = items.set_column(items.column_names.index(column), column, merged)
        else:
            items = items.append_column(column, merged)
    return items


def _taken(layers: Sequence[pa.ChunkedArray], chosen: _Rows) -> pa.ChunkedArray:
    """Some rows of columns of one type, which are counted through, in that order."""
    first = 0
    for layer in layers:
        if np.array_equal(chosen, np.arange(first, first + len(layer))):
            return layer  # mostly all is said by one
        first += len(layer)
    stacked = pa.chunked_array([chunk for layer in layers for chunk in layer.chunks])
    if pa.types.is_dictionary(stacked.type):
        stacked = stacked.unify_dictionaries()
    return pa.chunked_array([stacked.combine_chunks().take(pa.array(chosen))])


def _column(table: pa.Table, name: str, kind: pa.DataType, *, of: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        return pa.chunked_array([pa.nulls(table.num_rows, kind)])
    column = table[name]
    if type_text(column.type) != type_text(kind):
        raise CorruptGallery(
            f"{of}: {name} is {column.type} here and {kind} there, in shards and overlays: restore "
            "them from a copy"
        )
    return column.cast(kind)


def _ranks(value: pa.ChunkedArray, origin: pa.ChunkedArray) -> NDArray[np.int8]:
    """How much each cell counts, −1 where it has no value: (rows,)."""
    codes = origin.unify_dictionaries().combine_chunks()
    texts = codes.dictionary.to_pylist()
    by_code = np.array([*map(rank_of, texts), rank_of(None)], np.int8)
    at = pc.fill_null(codes.indices, len(texts)).to_numpy(zero_copy_only=False)
    known = value.is_valid().to_numpy()
    return np.where(known, by_code[at], np.int8(-1))


def without(overlay: pa.Table, names: Collection[str] | None, origin: str | None) -> pa.Table:
    """An overlay without the cells of some attributes, or all, by some origin, or any."""
    for name in names_in(overlay.column_names):
        if names is not None and name not in names:
            continue
        columns = columns_of(name)
        if origin is None:
            overlay = overlay.drop_columns(list(columns))
            continue
        stays = pc.not_equal(overlay[columns[2]].cast(pa.string()), origin)
        for column in columns:
            kind = overlay[column].type
            kept = pc.if_else(stays, overlay[column], pa.scalar(None, kind))
            overlay = overlay.set_column(overlay.column_names.index(column), column, kept)
    return overlay
