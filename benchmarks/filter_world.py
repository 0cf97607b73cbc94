"""The data of the filter benchmarks: people as vectors, columns of integers, filters, true answers.

Every filter is equalities, IN and BETWEEN over integer columns, ANDed: what every system can say.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid_index.errors import UsageError

K = 10
QUERIES = 64
RATES = (1.0, 0.5, 0.3, 0.1, 0.05, 0.01, 0.001, 0.0001)
CROPS = 20
"""Rows of a person."""

_LATENT = 96
_TIE = 1e-6
_CHUNK = 50_000
_SHARES = {1: 0.5, 2: 0.3, 3: 0.1, 4: 0.05, 5: 0.01, 6: 0.001, 7: 0.0001}
"""Value of `zone` and `outfit` → its share; the rest has 0."""


@dataclass(frozen=True)
class Condition:
    """The column has one of the values; or, with `between`, lies from the first to the second."""

    column: str
    values: tuple[int, ...]
    between: bool = False

    def mask(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_]:
        """bool (N,), made as somebody with NumPy does."""
        column = columns[self.column]
        if self.between:
            low, high = self.values
            return (column >= low) & (column <= high)
        if len(self.values) == 1:
            return np.asarray(column == self.values[0])
        return np.isin(column, self.values)

    def sql(self) -> str:
        """As SQL has it, and this project's where language."""
        if self.between:
            low, high = self.values
            return f"{self.column} BETWEEN {low} AND {high}"
        if len(self.values) == 1:
            return f"{self.column} = {self.values[0]}"
        return f"{self.column} IN ({', '.join(map(str, self.values))})"


@dataclass(frozen=True)
class Filter:
    """One cell of the grid: conditions that hold together.

    family: "none" without conditions; "independent", one on a column that has nothing to do with
    who somebody is; "identity", one on an attribute of the person; "three", ANDed: camera,
    attribute and time. rate: the share of rows wanted; allowed: the rows that pass.
    """

    family: str
    rate: float
    allowed: int
    conditions: tuple[Condition, ...]

    @property
    def name(self) -> str:
        """Family and rate in percent."""
        return f"{self.family} {100 * self.rate:g} %"

    def mask(self, columns: Mapping[str, NDArray[np.int64]]) -> NDArray[np.bool_] | None:
        """bool (N,); None where there is no condition."""
        masks = [condition.mask(columns) for condition in self.conditions]
        return np.logical_and.reduce(masks) if masks else None

    def sql(self) -> str | None:
        """The conditions as SQL and as this project's where; None where there is none."""
        return " AND ".join(condition.sql() for condition in self.conditions) or None


@dataclass(frozen=True)
class World:
    """What is searched and what is asked.

    vectors: float32 (N, D) of length 1, mapped. columns: name → int64 (N,). queries: float32
    (QUERIES, D), crops of people that are there, not there themselves. truth: for each filter the
    int64 rows (QUERIES, K) of the best, -1 where fewer are allowed; kth: float32 (filters,
    QUERIES), the score of the last of those.
    """

    vectors: NDArray[np.float32]
    columns: Mapping[str, NDArray[np.int64]]
    queries: NDArray[np.float32]
    filters: tuple[Filter, ...]
    truth: NDArray[np.int64]
    kth: NDArray[np.float32]

    def recall(self, place: int, query: int, found: NDArray[np.int64]) -> float:
        """The share of the filter's true answer to the query that was found.

        A row counts if it is allowed and its score reaches that of the last true one, less what
        rounding a vector to length 1 once more can change: ties are as good. place: of the filter
        among `filters`. Raises ValueError for a row outside the filter or one that comes twice.
        """
        rows = found[found >= 0]
        chosen = self.filters[place]
        here = {name: column[rows] for name, column in self.columns.items()}
        mask = chosen.mask(here)
        if mask is not None and not mask.all():
            raise ValueError(f"{chosen.name}: row {rows[~mask][0]} does not pass the filter")
        if len(np.unique(rows)) < len(rows):
            raise ValueError(f"{chosen.name}: a row was found twice")
        scores = _exact(self.queries[query], self.vectors[rows])
        reached = np.count_nonzero(scores >= self.kth[place, query] - _TIE)
        return float(reached) / min(K, chosen.allowed)


def make_world(folder: Path, *, rows: int, dim: int = 512, seed: int = 0) -> World:
    """Draw a world of N rows into the folder, whole or not at all, and open it.

    Raises UsageError for rows that do not make at least a hundred whole people.
    """
    if rows % CROPS or rows < 100 * CROPS:
        raise UsageError(f"rows must be a multiple of {CROPS} from {100 * CROPS} up, got {rows}")
    building = folder.with_name(folder.name + ".building")
    building.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    draw = _Crops.of(rng, people=rows // CROPS, dim=dim)
    people = rng.permutation(np.repeat(np.arange(rows // CROPS), CROPS))
    vectors = np.lib.format.open_memmap(
        building / "vectors.npy", mode="w+", dtype=np.float32, shape=(rows, dim)
    )
    for start in range(0, rows, _CHUNK):
        vectors[start : start + _CHUNK] = draw.of_people(people[start : start + _CHUNK])
    vectors.flush()
    queries = draw.of_people(rng.integers(0, rows // CROPS, QUERIES))
    columns = _columns(rng, people)
    filters = tuple(_filters(columns))
    truth, kth = _truth(vectors, columns, queries, filters)
    np.savez(building / "columns.npz", allow_pickle=False, **columns)
    np.savez(building / "asked.npz", queries=queries, truth=truth, kth=kth)
    (building / "filters.json").write_text(json.dumps([_plain(one) for one in filters], indent=1))
    building.rename(folder)
    return open_world(folder)


def open_world(folder: Path) -> World:
    """The world that `make_world` left there."""
    with np.load(folder / "columns.npz") as file:
        columns = dict(file)
    with np.load(folder / "asked.npz") as file:
        asked = dict(file)
    return World(
        vectors=np.load(folder / "vectors.npy", mmap_mode="r"),
        columns=columns,
        queries=asked["queries"],
        filters=tuple(map(_of_plain, json.loads((folder / "filters.json").read_text()))),
        truth=asked["truth"],
        kth=asked["kth"],
    )


@dataclass(frozen=True)
class _Crops:
    """Draws crops of people: a person is a point in a latent space, a crop one near it, and a
    vector that point turned into D dimensions, a little noise, length 1."""

    rng: np.random.Generator
    persons: NDArray[np.float32]
    turn: NDArray[np.float32]

    @classmethod
    def of(cls, rng: np.random.Generator, *, people: int, dim: int) -> "_Crops":
        latent = min(_LATENT, dim)
        persons = rng.standard_normal((people, latent), dtype=np.float32)
        turn = np.linalg.qr(rng.standard_normal((dim, latent)))[0].T.astype(np.float32)
        return cls(rng, persons, turn)

    def of_people(self, people: NDArray[np.int64]) -> NDArray[np.float32]:
        latent = self.persons[people]
        latent = latent + 0.5 * self.rng.standard_normal(latent.shape, dtype=np.float32)
        crops = latent @ self.turn
        crops += 0.05 * self.rng.standard_normal(crops.shape, dtype=np.float32)
        crops /= np.linalg.norm(crops, axis=1, keepdims=True)
        return np.asarray(crops, dtype=np.float32)


def _columns(rng: np.random.Generator, people: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """zone: any row, skewed. outfit: the same shares, but of people. build: of people, four in five
    have 1. camera: 1 … 10, any row. moment: a second of its own for each row."""
    rows, persons = len(people), int(people.max()) + 1
    build = (np.arange(persons) < 0.8 * persons).astype(np.int64)
    return {
        "zone": rng.permutation(_skewed(rows)),
        "outfit": rng.permutation(_skewed(persons))[people],
        "build": rng.permutation(build)[people],
        "camera": rng.permutation(np.arange(rows) % 10 + 1),
        "moment": rng.permutation(rows),
    }


def _skewed(count: int) -> NDArray[np.int64]:
    values = np.zeros(count, np.int64)
    start = 0
    for value, share in _SHARES.items():
        stop = start + max(1, round(share * count))
        values[start:stop] = value
        start = stop
    return values


def _filters(columns: Mapping[str, NDArray[np.int64]]) -> list[Filter]:
    made = [_filter("none", 1.0, (), columns)]
    values = {share: value for value, share in _SHARES.items()}
    for family, column in (("independent", "zone"), ("identity", "outfit")):
        for rate in RATES:
            one = (
                Condition(column, (0, 7), between=True)
                if rate == 1
                else Condition(column, (values[rate],))
            )
            made.append(_filter(family, rate, (one,), columns))
    for rate in RATES:
        made.append(_filter("three", rate, _three(rate, columns), columns))
    return made


def _three(rate: float, columns: Mapping[str, NDArray[np.int64]]) -> tuple[Condition, ...]:
    """Cameras, an attribute, and a span of time as long as makes the rate; the attribute is an
    equality but where everything is to pass."""
    cameras, attribute = {
        1.0: (10, Condition("build", (0, 1), between=True)),
        0.5: (9, Condition("build", (1,))),
        0.3: (8, Condition("build", (1,))),
        0.1: (5, Condition("outfit", (1,))),
        0.05: (4, Condition("outfit", (2,))),
        0.01: (3, Condition("outfit", (3,))),
        0.001: (2, Condition("outfit", (3,))),
        0.0001: (2, Condition("outfit", (4,))),
    }[rate]
    both = (Condition("camera", tuple(range(1, cameras + 1))), attribute)
    moment = columns["moment"]
    times = np.sort(moment[np.logical_and.reduce([one.mask(columns) for one in both])])
    want = min(len(times), max(1, round(rate * len(moment))))
    first = (len(times) - want) // 2
    span = (int(times[first]), int(times[first + want - 1]))
    return (*both, Condition("moment", span, between=True))


def _filter(
    family: str,
    rate: float,
    conditions: tuple[Condition, ...],
    columns: Mapping[str, NDArray[np.int64]],
) -> Filter:
    found = Filter(family, rate, 0, conditions)
    mask = found.mask(columns)
    allowed = len(columns["zone"]) if mask is None else int(np.count_nonzero(mask))
    return Filter(family, rate, allowed, conditions)


def _truth(
    vectors: NDArray[np.float32],
    columns: Mapping[str, NDArray[np.int64]],
    queries: NDArray[np.float32],
    filters: Sequence[Filter],
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The true answers: candidates by a product in single precision, scored again in double."""
    near = np.empty((len(queries), len(vectors)), np.float32)
    for start in range(0, len(vectors), _CHUNK):
        near[:, start : start + _CHUNK] = queries @ vectors[start : start + _CHUNK].T
    truth = np.full((len(filters), len(queries), K), -1, np.int64)
    kth = np.full((len(filters), len(queries)), -np.inf, np.float32)
    for place, chosen in enumerate(filters):
        mask = chosen.mask(columns)
        rows = np.arange(len(vectors)) if mask is None else np.flatnonzero(mask)
        for number, query in enumerate(queries):
            candidates = rows[_largest(near[number, rows], 4 * K)]
            scores = _exact(query, vectors[candidates])
            best = np.lexsort((candidates, -scores))[:K]
            truth[place, number, : len(best)] = candidates[best]
            kth[place, number] = scores[best[-1]]
    return truth, kth


def _largest(values: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    if len(values) <= count:
        return np.arange(len(values))
    return np.argpartition(values, len(values) - count)[-count:]


def _exact(query: NDArray[np.float32], rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return (rows.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)


def _plain(chosen: Filter) -> dict[str, Any]:
    conditions = [[one.column, list(one.values), one.between] for one in chosen.conditions]
    return {
        "family": chosen.family,
        "rate": chosen.rate,
        "allowed": chosen.allowed,
        "conditions": conditions,
    }


def _of_plain(plain: Mapping[str, Any]) -> Filter:
    conditions = tuple(
        Condition(column, tuple(values), between) for column, values, between in plain["conditions"]
    )
    return Filter(plain["family"], plain["rate"], plain["allowed"], conditions)
