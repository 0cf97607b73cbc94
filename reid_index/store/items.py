"""The table of items: one row for each vector, what is known of it, in fixed types.

The standard columns are always there (null where unknown); further columns are kept as they come
if they are of a type that can be filtered on.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..attributes import CONFIDENCE, PREFIX, attribute_of
from ..errors import BadItems

TIME = pa.timestamp("us", tz="UTC")
BOX = pa.list_(pa.float32(), 4)

_YEAR_1 = -62_135_596_800 * 10**6
_YEAR_10000 = 253_402_300_800 * 10**6
"""Microseconds since 1970: what Python's datetime can say lies between."""

STANDARD: dict[str, pa.DataType] = {
    "item": pa.int64(),
    "source": pa.string(),
    "video": pa.string(),
    "camera": pa.int32(),
    "person": pa.string(),
    "track": pa.string(),
    "start": TIME,
    "end": TIME,
    "start_s": pa.float64(),
    "end_s": pa.float64(),
    "frame_first": pa.int64(),
    "frame_last": pa.int64(),
    "box": BOX,
}
"""Column → type. `item` is unique in a gallery and never reused; `source` is a path or URI
relative to the build root; `person` is a label, for evaluation; `start` and `end` are points in
time, `start_s` and `end_s` seconds in the video; `box` is x, y, width, height in pixels."""


def conform(table: pa.Table) -> pa.Table:
    """The table with every standard column, first and in order, cast to its type.

    Text becomes numbers or times where the column wants them (ISO 8601, UTC when it names no
    zone). Columns `attr.<name>` become dictionary strings, lists of strings stay sets, dates become
    times, clock times text, 32-bit types widen. A further column without a single value has no
    type and is left out, an attribute with its confidence and origin. Raises BadItems, with the
    column, when a value does not fit.
    """
    if len(set(table.column_names)) != len(table.column_names):
        raise BadItems(f"items: two columns have the same name: {', '.join(table.column_names)}")
    columns: dict[str, pa.ChunkedArray | pa.Array] = {}
    for name, kind in STANDARD.items():
        if name in table.column_names:
            columns[name] = _cast(name, table[name], kind)
        else:
            columns[name] = pa.nulls(table.num_rows, kind)
    for name in table.column_names:
        if name not in STANDARD and not _is_untyped(name, table):
            columns[name] = _cast(name, table[name], _extra_type(name, table[name].type))
    return pa.table(columns)


def _cast(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        column = column.cast(pa.string())
    try:
        if kind == TIME:
            return _as_times(column)
        if kind == BOX:
            return _as_boxes(column)
        if column.type == kind:
            return column
        if pa.types.is_dictionary(kind):
            return column.cast(pa.string()).dictionary_encode()
        return column.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadItems(
            f"items: column {name!r} holds {column.type}, which is not {kind}: {reason}"
        ) from None


def _as_boxes(column: pa.ChunkedArray) -> pa.ChunkedArray:
    boxes = column.cast(BOX)
    numbers = pc.list_flatten(boxes)
    if numbers.null_count or not pc.all(pc.is_finite(numbers), min_count=0).as_py():
        raise ValueError("a box is four finite numbers, x, y, width, height")
    return boxes


def _as_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_string(kind):
        times = _parse_times(column)
    elif pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_null(kind):
        times = column.cast(TIME)
    else:
        # Seconds, milliseconds, microseconds? A number does not say.
        raise ValueError("write times as ISO 8601 text or as timestamps")
    years = pc.min_max(times)
    for end in ("min", "max"):
        microseconds = years[end].cast(pa.int64()).as_py()
        if microseconds is not None and not _YEAR_1 <= microseconds < _YEAR_10000:
            raise ValueError("a time is outside the years 1 to 9999")
    return times


def _parse_times(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # Arrow's own cast refuses to mix texts with and without a zone; ISO texts in the wild do.
    has_zone = pc.match_substring_regex(column, r"[Tt ].*(Z|z|[+-]\d\d:?\d\d)$")
    with_zone = pc.if_else(has_zone, column, pa.scalar(None, pa.string())).cast(TIME)
    without = pc.if_else(has_zone, pa.scalar(None, pa.string()), column).cast(pa.timestamp("us"))
    return pc.coalesce(with_zone, without.cast(TIME))


def _is_untyped(name: str, table: pa.Table) -> bool:
    """Whether it has no value, so that nobody knows what type they would have: of an attribute,
    words or sets. An attribute's confidence and origin go with its value."""
    attribute = attribute_of(name)
    value = name if attribute is None else PREFIX + attribute
    return value in table.column_names and bool(pa.types.is_null(table[value].type))


def _extra_type(name: str, kind: pa.DataType) -> pa.DataType:
    """The type a further column is stored in."""
    is_text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    text = any(check(kind) for check in (*is_text, pa.types.is_time))
    if pa.types.is_dictionary(kind):
        return _extra_type(name, kind.value_type)
    if name.endswith(".confidence"):
        return pa.float32()
    if name.startswith("attr.") and (text or pa.types.is_null(kind)):
        return pa.dictionary(pa.int32(), pa.string())
    if text:
        return pa.string()
    if pa.types.is_boolean(kind):
        return pa.bool_()
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return TIME
    if pa.types.is_list(kind) and pa.types.is_string(kind.value_type):
        return kind
    raise BadItems(
        f"items: column {name!r} holds {kind}; columns can hold text, numbers, true/false, times "
        "or lists of text: convert or drop it"
    )


def sound_attributes(table: pa.Table) -> pa.Table:
    """A conformed table whose sets of an attribute's words are sorted, have each once, and are null
    where they were empty. Raises BadItems for a confidence that is not from 0 to 1."""
    for at, name in enumerate(table.column_names):
        column = table[name]
        if not name.startswith(PREFIX):
            continue
        if name.endswith(CONFIDENCE):
            check_confidences(name, column)
        elif pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
            table = table.set_column(at, name, sorted_sets(column))
    return table


def check_confidences(name: str, column: pa.ChunkedArray) -> None:
    """Raise BadItems unless all numbers of a column are from 0 to 1, those that are known."""
    inside = pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, 1))  # NaN is neither
    if not pc.all(inside, min_count=0).as_py():
        row = pc.index(inside, False).as_py()
        raise BadItems(
            f"items: column {name!r} holds {column[row].as_py():g} in row {row} (from 0): a "
            "confidence is a number from 0 to 1"
        )


def sorted_sets(column: pa.ChunkedArray) -> pa.Array:
    """Sets of words (a list of string for each row), sorted, each word once; null for empty ones,
    as that is unknown. Raises BadItems for a set with an unknown or an empty word in it."""
    lists = column.combine_chunks()
    words = pc.list_flatten(lists).dictionary_encode()
    texts = words.dictionary
    if words.null_count or pc.any(pc.equal(texts, ""), min_count=0).as_py():
        raise BadItems("items: a set of words has an empty one: leave it out")
    order = pc.array_sort_indices(texts).to_numpy()
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    rows = pc.list_parent_indices(lists).to_numpy().astype(np.int64)
    keys = np.sort(rows * len(order) + rank[words.indices.to_numpy()])
    keys = keys[np.diff(keys, prepend=-1) > 0]  # np.unique takes ten times as long
    lengths = np.bincount(keys // max(1, len(order)), minlength=len(lists))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(
        pa.array(offsets),
        texts.take(pa.array(order[keys % max(1, len(order))])),
        type=pa.list_(pa.string()),
        mask=pa.array(lengths == 0),
    )


def type_text(kind: pa.DataType) -> str:
    """A column's type in words. Versions of Arrow call what a list holds by other names, which are
    no part of its type."""
    return str(pa.list_(kind.value_type)) if pa.types.is_list(kind) else str(kind)


def stack(tables: Iterable[pa.Table]) -> pa.Table:
    """Conformed tables one below the other; a column that one lacks is null there.

    Raises BadItems where one extra column has two types.
    """
    tables = list(tables)
    if len(tables) == 1:
        return tables[0]
    try:
        joined = pa.concat_tables(tables, promote_options="default")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        reason = str(error).splitlines()[0]
        raise BadItems(f"items: a column has two types in two shards: {reason}") from None
    return joined.unify_dictionaries()


def item_table(items: pa.Table | Sequence[Mapping[str, Any]] | None, *, rows: int) -> pa.Table:
    """The items of so many vectors as a table: given as one, as a mapping for each, or not at all.

    Raises BadItems where their number differs or a column holds several types.
    """
    if items is None:
        table = pa.table({"source": pa.nulls(rows, pa.string())})
    elif isinstance(items, pa.Table):
        table = items
    else:
        names = dict.fromkeys(name for item in items for name in item)
        try:
            table = pa.table({name: [item.get(name) for item in items] for name in names})
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise BadItems(f"items: one column holds several types: {error}") from None
        except UnicodeEncodeError as error:
            raise BadItems(f"items: a text is not UTF-8: {error.object!r}") from None
    if table.num_rows != rows:
        raise BadItems(f"{rows} vectors but {table.num_rows} items: one for each vector, please")
    return table
