"""Evaluation protocols by name, and who is whom on the two sides of an evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..errors import BadItems, UsageError

NOBODY = -1
"""The person code of a distractor: a crop of nobody that is searched for."""

UNKNOWN = -1
"""The camera of an item whose camera is not known: equal to no camera."""

AP_RULES = ("standard", "trapezoid")
UNANSWERABLE = ("skip", "zero")
UNLABELLED = ("refuse", "distractor", "drop")


@dataclass(frozen=True)
class Labels:
    """Who, where and which: one side of an evaluation, int64 (n,) each.

    person: codes from 0, NOBODY for a distractor. camera: UNKNOWN where it is not known.
    item: the ids that break ties, smaller first; all different.
    """

    person: NDArray[np.int64]
    camera: NDArray[np.int64]
    item: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.person)


@dataclass(frozen=True)
class Labelled:
    """Both sides of an evaluation.

    query_rows, gallery_rows: the rows of the two tables that were kept, in order, int64.
    persons: code → label.
    """

    query: Labels
    gallery: Labels
    query_rows: NDArray[np.int64]
    gallery_rows: NDArray[np.int64]
    persons: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a data set is evaluated; see docs/measures.md.

    ap_rule: "standard" or "trapezoid". same_camera: gallery items of the query's person and camera
    are removed. unanswerable: "skip" divides by the queries that have a match, "zero" by all.
    gallery_includes_queries: the gallery that the protocol describes holds the query items too;
    none of them answers itself. repeats: samplings of one gallery item a person that the CMC is
    averaged over; 0 where the whole gallery is ranked.
    """

    name: str
    ap_rule: str = "standard"
    same_camera: bool = True
    unanswerable: str = "skip"
    gallery_includes_queries: bool = False
    repeats: int = 0


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        protocol.name: protocol
        for protocol in (
            Protocol(name="market1501"),
            Protocol(name="dukemtmc"),
            Protocol(name="cuhk03-np-labeled"),
            Protocol(name="cuhk03-np-detected"),
            Protocol(name="cuhk03-classic", gallery_includes_queries=True, repeats=10),
            Protocol(name="msmt17-v1"),
            Protocol(name="msmt17-v2"),
            Protocol(
                name="mars-official",
                ap_rule="trapezoid",
                unanswerable="zero",
                gallery_includes_queries=True,
            ),
            Protocol(name="mars-torchreid"),
            Protocol(name="ilids-vid"),
            Protocol(name="prid2011"),
            Protocol(name="black-reid"),
            Protocol(name="csv"),
        )
    }
)


def get_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises UsageError with the names there are."""
    if name not in PROTOCOLS:
        raise UsageError(f"there is no protocol {name!r}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def label(queries: pa.Table, gallery: pa.Table, *, unlabelled: str = "refuse") -> Labelled:
    """Codes for the persons, cameras and ids of two tables of items.

    Columns used: person (text), role ("junk", "distractor" or null), camera, item; any may be
    missing, which is as if all were null. Rows of the role junk or the person "-1" are left out on
    both sides; rows of the role distractor become NOBODY in the gallery and are left out of the
    queries. Ids are row numbers where a table has a row without one.

    unlabelled: what to do with other rows without a person: "refuse" raises BadItems with how many
    there are; "distractor" makes them NOBODY in the gallery and leaves them out of the queries;
    "drop" leaves them out. Raises UsageError when a side has no row left.
    """
    if unlabelled not in UNLABELLED:
        raise UsageError(f"unlabelled must be {_either(UNLABELLED)}, got {unlabelled!r}")
    asked, searched = _People.of(queries), _People.of(gallery)
    if unlabelled == "refuse" and (asked.nameless.any() or searched.nameless.any()):
        raise BadItems(
            f"no person is known for {np.count_nonzero(asked.nameless)} of {queries.num_rows} "
            f"queries and {np.count_nonzero(searched.nameless)} of {gallery.num_rows} gallery "
            "items: label them, or say --unlabelled distractor or --unlabelled drop"
        )
    query_rows = np.flatnonzero(asked.named)
    kept = searched.named | searched.distractor
    if unlabelled == "distractor":
        kept |= searched.nameless
    gallery_rows = np.flatnonzero(kept)
    for side, rows, table in (("queries", query_rows, queries), ("gallery", gallery_rows, gallery)):
        if len(rows) == 0:
            raise UsageError(
                f"{side}: nothing to evaluate, of {table.num_rows} rows none is left "
                "without junk and those without a person"
            )
    persons = pa.chunked_array(
        [asked.person.filter(pa.array(asked.named)), searched.person.filter(pa.array(kept))]
    )
    names = pc.unique(persons).drop_null().sort()
    return Labelled(
        query=asked.labels(queries, query_rows, names),
        gallery=searched.labels(gallery, gallery_rows, names),
        query_rows=query_rows.astype(np.int64),
        gallery_rows=gallery_rows.astype(np.int64),
        persons=tuple(names.to_pylist()),
    )


@dataclass(frozen=True)
class _People:
    """What one table says of its rows: person, null for all that are not `named`; masks (n,), of
    which at most one is true for a row."""

    person: pa.Array
    named: NDArray[np.bool_]
    distractor: NDArray[np.bool_]
    nameless: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table) -> "_People":
        person = _column(table, "person", pa.string())
        role = _column(table, "role", pa.string())
        junk = _is(role, "junk") | _is(person, "-1")
        distractor = _is(role, "distractor") & ~junk
        null = person.is_null().to_numpy(zero_copy_only=False)
        named = ~(junk | distractor | null)
        return cls(
            person=pc.if_else(pa.array(named), person, pa.scalar(None, pa.string())),
            named=named,
            distractor=distractor,
            nameless=null & ~junk & ~distractor,
        )

    def labels(self, table: pa.Table, rows: NDArray[np.intp], names: pa.Array) -> Labels:
        codes = pc.fill_null(pc.index_in(self.person, value_set=names).cast(pa.int64()), NOBODY)
        camera = pc.fill_null(_column(table, "camera", pa.int64()), UNKNOWN)
        item = _column(table, "item", pa.int64())
        ids = np.arange(len(item)) if item.null_count else item.to_numpy()
        return Labels(
            person=codes.to_numpy(zero_copy_only=False)[rows],
            camera=camera.to_numpy(zero_copy_only=False)[rows],
            item=ids[rows].astype(np.int64),
        )


def _column(table: pa.Table, name: str, kind: pa.DataType) -> pa.Array:
    if name not in table.column_names:
        return pa.nulls(table.num_rows, kind)
    # A chunked array of no chunks combines to an empty one.
    return table[name].cast(kind).combine_chunks()


def _is(column: pa.Array, value: str) -> NDArray[np.bool_]:
    equal = pc.fill_null(pc.equal(column, value), False)
    mask: NDArray[np.bool_] = equal.to_numpy(zero_copy_only=False)
    return mask


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
