"""What people said of persons and crops, read from files, and whom in a gallery it is said of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reid_index.attributes import PREFIX
from reid_index.errors import BadSource, UsageError

from .labels import Labels


@dataclass(frozen=True, kw_only=True)
class Joined:
    """Labels beside the items that they are of.

    table: `item`, and the attribute columns of the labels, a row for each item that they name.
    without: values of the key that the gallery's items have and no row is of, in their order, as
    text; items_without: so many items. strangers: rows that are of nothing in the gallery, and
    unnamed: items that lack the key.
    """

    table: pa.Table
    without: list[str]
    items_without: int
    strangers: int
    unnamed: int


def read_labels(
    path: Path,
    *,
    by: str | None = None,
    sets: Mapping[str, bool] | None = None,
    strict: bool = False,
) -> Labels:
    """The labels of `market_attribute.mat` or `duke_attribute.mat` (see attribute_mat.py), or of a
    CSV or Parquet file (attribute_table.py).

    by: the key, one of KEYS; None: the first of them that the file has. sets: attribute → whether
    the gallery has sets of words for it. strict: codes and words that mean nothing are an error.

    Raises BadSource, UsageError for a key that such a file cannot have.
    """
    notes: list[str] = []
    suffix = path.suffix.lower()
    if suffix == ".mat":
        from .attribute_mat import read_attribute_mat

        if by not in (None, "person"):
            raise UsageError(f"{path}: its rows are of persons, not by {by}")
        table, faults = read_attribute_mat(path)
        found = Labels(table=table, key="person")
    elif suffix in (".csv", ".parquet"):
        from .attribute_table import read_attribute_table

        found, faults, notes = read_attribute_table(path, by=by, sets=sets or {})
    else:
        raise BadSource(f"{path}: labels are in a .mat, .csv or .parquet file")
    if strict and faults:
        raise BadSource(faults[0])
    table = _without_repeats(found.table, key=found.key, path=path)
    return Labels(table=table, key=found.key, notes=(*faults, *notes))


def join_labels(labels: Labels, items: pa.Table) -> Joined:
    """The labels beside items, a table with `item` and the key."""
    wanted = items[labels.key]
    rows = pc.index_in(wanted, value_set=labels.table[labels.key].combine_chunks())
    is_there = rows.is_valid()
    attributes = labels.table.drop_columns([labels.key]).take(rows.drop_null())
    without = wanted.filter(pc.and_(pc.invert(is_there), wanted.is_valid()))
    return Joined(
        table=attributes.add_column(0, "item", items["item"].filter(is_there)),
        without=[str(one) for one in pc.unique(without).to_pylist()],
        items_without=len(without),
        strangers=labels.table.num_rows - pc.count_distinct(rows).as_py(),
        unnamed=wanted.null_count,
    )


def _without_repeats(table: pa.Table, *, key: str, path: Path) -> pa.Table:
    """One row for each value of the key. Raises BadSource where two rows of one differ."""
    codes = pc.dictionary_encode(table[key].combine_chunks()).indices.to_numpy()
    _, firsts, places = np.unique(codes, return_index=True, return_inverse=True)
    if len(firsts) == len(codes):
        return table
    repeated = np.flatnonzero(firsts[places] != np.arange(len(codes)))
    later = table.take(pa.array(repeated)).to_pylist()
    earlier = table.take(pa.array(firsts[places[repeated]])).to_pylist()
    for one, other in zip(later, earlier, strict=True):
        for name in table.column_names:
            if one[name] != other[name]:
                told = [_told(row[name]) for row in (other, one)]
                raise BadSource(
                    f"{path}: {key} {one[key]!r} is there twice, and "
                    f"{name.removeprefix(PREFIX)} is {' and '.join(told)}; leave one"
                )
    return table.take(pa.array(np.sort(firsts)))


def _told(value: object) -> str:
    if value is None:
        return "unknown"
    return "|".join(value) if isinstance(value, list) else str(value)
