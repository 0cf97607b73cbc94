"""What dropping by attributes does to an evaluation: true matches kept, gallery dropped.

A gallery item is dropped for a query where, for some attribute in use, both are known, each at
least as sure as the attribute's threshold, and they disagree: their words differ, their sets have
no word in common (a word beside a set is a set of one). Where words have thresholds of their own,
that of a value is the highest of its words'. What is unknown or unsure stays. Over all pairs of
query and gallery that an evaluation considers, two numbers say what a filter is worth: how many of
the true matches stay, and how much of the gallery goes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..attributes import PREFIX, Threshold, certainties, least_for
from ..compiled import compiled
from ..errors import UsageError
from ..threads import over_ranges
from .protocol import UNKNOWN, Labels

_BITS = 64

_QUERIES = 32
"""Queries that one core compares with the whole gallery at a time."""

_ALL = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class Coded:
    """Attributes of N items as numbers.

    names: the A attributes. words: of each, sorted. bits: uint64 (N, W), a bit for each word in
    this order; those of attribute a are the columns first[a] … first[a + 1]. sure: float32 (N, A),
    how sure each is, 0 where it is unknown.
    """

    names: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    first: NDArray[np.int64]
    bits: NDArray[np.uint64]
    sure: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.bits)

    def take(self, rows: NDArray[np.int64]) -> "Coded":
        """Those rows alone, in that order."""
        return Coded(self.names, self.words, self.first, self.bits[rows], self.sure[rows])

    def part(self, start: int, stop: int) -> "Coded":
        """The rows start … stop."""
        bits, sure = self.bits[start:stop], self.sure[start:stop]
        return Coded(self.names, self.words, self.first, bits, sure)

    def confident(self, thresholds: Mapping[str, Threshold]) -> NDArray[np.uint64]:
        """`bits` as they count under thresholds: all set, so that nothing disagrees with them,
        where an attribute is unknown, not sure enough, or not used (None, or not named)."""
        counted = self.bits.copy()
        for at, name in enumerate(self.names):
            threshold = thresholds.get(name)
            columns = slice(self.first[at], self.first[at + 1])
            if threshold is None:
                counted[:, columns] = _ALL
                continue
            bits = self.bits[:, columns]
            least = np.zeros(len(bits), np.float32)
            for place, word in enumerate(self.words[at]):
                its = least_for(threshold, [word])
                has = bits[:, place // _BITS] >> np.uint64(place % _BITS) & np.uint64(1) != 0
                np.maximum(least, np.float32(np.inf if its is None else its), out=least, where=has)
            counted[~(bits.any(axis=1) & (self.sure[:, at] >= least)), columns] = _ALL
        return counted


def code(queries: pa.Table, gallery: pa.Table, names: Sequence[str]) -> tuple[Coded, Coded]:
    """The attributes of both sides as numbers that can be compared.

    Raises UsageError for an attribute that one of them lacks.
    """
    first = [0]
    said: list[tuple[str, ...]] = []
    columns: tuple[list[NDArray[np.uint64]], ...] = ([], [])
    sures: tuple[list[NDArray[np.float32]], ...] = ([], [])
    tables = (("queries", queries), ("gallery", gallery))
    for name in names:
        for side, table in tables:
            if PREFIX + name not in table.column_names:
                raise UsageError(f"the items of the {side} have no attribute {name}")
        both = [_values(table[PREFIX + name]) for _, table in tables]
        words = pc.unique(pa.chunked_array(map(_flat, both), pa.string()).drop_null()).sort()
        said.append(tuple(words.to_pylist()))
        width = max(1, -(-len(words) // _BITS))
        for side_columns, sure, values, (_, table) in zip(
            columns, sures, both, tables, strict=True
        ):
            side_columns.append(_bits(values, words, width))
            sure.append(certainties(table, name))
        first.append(first[-1] + width)
    made = []
    for (_, table), bits, sure in zip(tables, columns, sures, strict=True):
        rows = table.num_rows
        made.append(
            Coded(
                tuple(names),
                tuple(said),
                np.array(first, np.int64),
                np.concatenate([np.empty((rows, 0), np.uint64), *bits], axis=1),
                np.stack(sure, axis=1) if sure else np.empty((rows, 0), np.float32),
            )
        )
    return made[0], made[1]


def _values(column: pa.ChunkedArray) -> pa.Array:
    """Text, or lists of it, in one piece."""
    is_set = pa.types.is_list(column.type)
    kind = pa.list_(pa.string()) if is_set else pa.string()
    return column.cast(kind).combine_chunks()


def _flat(values: pa.Array) -> pa.Array:
    return pc.list_flatten(values) if pa.types.is_list(values.type) else values


def _bits(values: pa.Array, words: pa.Array, width: int) -> NDArray[np.uint64]:
    """uint64 (n, width): a bit for each word that a value has, none for an unknown one."""
    rows = np.arange(len(values))
    if pa.types.is_list(values.type):
        rows = pc.list_parent_indices(values).to_numpy()
    codes = pc.index_in(_flat(values), value_set=words)
    known = codes.is_valid().to_numpy(zero_copy_only=False)
    rows, at = rows[known], codes.drop_null().to_numpy().astype(np.uint64)
    bits = np.zeros((len(values), width), np.uint64)
    np.bitwise_or.at(bits, (rows, at // _BITS), np.uint64(1) << (at % _BITS))
    return bits


@dataclass(frozen=True)
class FilterQuality:
    """Counts over all pairs of query and gallery that are considered.

    pairs, dropped: all of them, and those whose gallery item is dropped. matches, missed: of one
    person, and of these the dropped ones.
    """

    pairs: int
    dropped: int
    matches: int
    missed: int

    @property
    def dropped_share(self) -> float:
        """The share of the gallery that is dropped, the mean over queries' galleries, weighted by
        their size. 0 without pairs."""
        return self.dropped / self.pairs if self.pairs else 0.0

    @property
    def kept_share(self) -> float:
        """The share of the true matches that stay. 1 without any."""
        return 1 - self.missed / self.matches if self.matches else 1.0


def filter_quality(
    queries: Coded,
    gallery: Coded,
    query_labels: Labels,
    gallery_labels: Labels,
    thresholds: Mapping[str, Threshold],
    *,
    same_camera: bool = True,
    same_item: bool = False,
) -> FilterQuality:
    """What thresholds (attribute → confidence in [0, 1], or word → that; None: not used) do, by
    exact counts.

    same_camera: gallery items of the query's person and camera are not considered; nor, with
    same_item, those of its id. Distractors are. Some queries at a time, without a queries × gallery
    matrix.
    """
    asked, searched = queries.confident(thresholds), gallery.confident(thresholds)
    used = _used(queries, thresholds)
    labels = (query_labels.person, query_labels.camera, query_labels.item)
    others = (gallery_labels.person, gallery_labels.camera, gallery_labels.item)

    def count(start: int, stop: int) -> NDArray[np.int64]:
        some = [one[start:stop] for one in labels]
        counts: NDArray[np.int64] = _count(
            asked[start:stop], searched, used, *some, *others, same_camera, same_item
        )
        return counts

    found = over_ranges(count, len(queries), piece=_QUERIES)
    total = np.sum([np.zeros(4, np.int64), *found], axis=0).tolist()
    return FilterQuality(*total)


def dropped(
    queries: Coded, gallery: Coded, thresholds: Mapping[str, Threshold]
) -> NDArray[np.bool_]:
    """Which gallery items each query drops, bool (Q, G)."""
    asked, searched = queries.confident(thresholds), gallery.confident(thresholds)
    out = np.zeros((len(queries), len(gallery)), np.bool_)
    used = _used(queries, thresholds)

    def mark(start: int, stop: int) -> None:
        _mark(asked[start:stop], searched, used, out[start:stop])

    over_ranges(mark, len(queries), piece=_QUERIES)
    return out


def _used(coded: Coded, thresholds: Mapping[str, Threshold]) -> NDArray[np.int64]:
    """The columns of bits of each attribute in use: int64 (n, 2), from and to."""
    used = [at for at, name in enumerate(coded.names) if thresholds.get(name) is not None]
    return np.stack([coded.first[:-1][used], coded.first[1:][used]], axis=1).astype(np.int64)


@compiled(inline="always")
def _disagree(one, other, used):  # type: ignore[no-untyped-def]
    for a in range(len(used)):
        common = np.uint64(0)
        for word in range(used[a, 0], used[a, 1]):
            common |= one[word] & other[word]
        if common == 0:
            return True
    return False


@compiled()
def _count(  # type: ignore[no-untyped-def]
    asked, searched, used, person, camera, item, persons, cameras, items, same_camera, same_item
):
    counts = np.zeros(4, np.int64)
    for q in range(len(asked)):
        seen = same_camera and camera[q] != UNKNOWN
        for g in range(len(searched)):
            match = person[q] == persons[g]
            if match and (seen and camera[q] == cameras[g]):
                continue
            if match and same_item and item[q] == items[g]:
                continue
            gone = _disagree(asked[q], searched[g], used)
            counts[0] += 1
            counts[1] += gone
            counts[2] += match
            counts[3] += match and gone
    return counts


@compiled()
def _mark(asked, searched, used, out):  # type: ignore[no-untyped-def]
    for q in range(len(asked)):
        for g in range(len(searched)):
            out[q, g] = _disagree(asked[q], searched[g], used)
