"""Who is the same person in several pictures: distances between people, and what they decide.

After US 12,394,239 B2, steps 601 and 602: the distances between the people of different pictures
form a matrix d_ij; two people are the same where it is within a threshold, or one is among the N
nearest of the other. (The text has distances sorted "in a descending order" before the first N are
taken; that is a slip, as it says itself that smaller means more alike.) Nobody is twice in one
picture, so people of one picture are never compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import DimensionMismatch, NotFiniteError, UsageError
from ..metric import Metric
from ..search.oracle import score

THRESHOLD = 0.2
"""The cosine distance up to which the patent says "same": its example is a similarity of 80 % or
more. Of no particular model."""

NAMES = (Metric.COSINE, Metric.EUCLIDEAN)
"""The distances there are."""


class Distances:
    """The distances between n people, made row after row: the n × n matrix is never held.

    vectors: (n, D), finite. pictures: (n,) whole numbers, the picture that each person is in.
    distance: "cosine" is 1 − cos of the two vectors, in [0, 2]; "euclidean" is ‖x − y‖₂ of the
    vectors as they are. Either is taken of the gallery's own score (`oracle.score`), so it is the
    same both ways, and 1 − the similarity that a cosine gallery of these vectors would give.

    Raises DimensionMismatch, NotFiniteError (of length 0, too, for cosine), UsageError.
    """

    def __init__(
        self, vectors: ArrayLike, pictures: ArrayLike, *, distance: Metric | str = Metric.COSINE
    ) -> None:
        if distance not in NAMES:
            raise UsageError(f"there is no distance {distance!r}; there are {', '.join(NAMES)}")
        self.metric = Metric(distance)
        self._vectors = _comparable(vectors, self.metric)
        self._pictures = np.asarray(pictures)
        count = len(self._vectors)
        if self._pictures.shape != (count,) or self._pictures.dtype.kind not in "iu":
            raise UsageError(
                f"{count} vectors need as many pictures, in whole numbers: got "
                f"{self._pictures.dtype} {self._pictures.shape}"
            )

    def __len__(self) -> int:
        return len(self._vectors)

    def row(self, person: int, *, start: int = 0) -> NDArray[np.float32]:
        """The distances between a person and people start … n: float32 (n − start,), NaN for those
        of the same picture, the person too."""
        row = score(self._vectors[person], self._vectors[start:], metric=self.metric)
        if self.metric is Metric.COSINE:
            np.subtract(1, row, out=row)
        row[self._pictures[start:] == self._pictures[person]] = np.nan
        return row


def _comparable(vectors: ArrayLike, metric: Metric) -> NDArray[np.float32]:
    given = np.asarray(vectors)
    if given.ndim != 2 or given.dtype.kind not in "fiu":
        raise DimensionMismatch(f"vectors are numbers (n, D), got {given.dtype} {given.shape}")
    with np.errstate(over="ignore"):  # what is too large is infinite, and refused below
        matrix = np.ascontiguousarray(given, np.float32)
    _refuse((~np.isfinite(matrix)).any(axis=1), "holds NaN or Inf, or is too large for float32")
    if metric is not Metric.COSINE:
        return matrix
    norms = np.linalg.norm(matrix.astype(np.float64), axis=1, keepdims=True)
    _refuse(norms[:, 0] == 0, "has length 0, so cosine has no direction to compare")
    unit: NDArray[np.float32] = (matrix / norms).astype(np.float32)
    return unit


def _refuse(wrong: ArrayLike, told: str) -> None:
    rows = np.flatnonzero(wrong)
    if len(rows):
        raise NotFiniteError(f"vector {rows[0]} (from 0) {told}")


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When two people are the same person: exactly one of the two is given.

    threshold: the largest distance, finite, 0 or above. nearest: how many of the nearest people of
    other pictures are taken for the person, 1 or more; equally near ones in the order of their
    rows. Who is among a's nearest need not have a among theirs. Raises UsageError.
    """

    threshold: float | None = None
    nearest: int | None = None

    def __post_init__(self) -> None:
        if (self.threshold is None) == (self.nearest is None):
            raise UsageError("a decision needs a threshold or a number of nearest: one of the two")
        if self.threshold is not None and not 0 <= self.threshold < np.inf:
            raise UsageError(f"the threshold is a distance from 0, not {self.threshold!r}")
        if self.nearest is not None and self.nearest < 1:
            raise UsageError(f"the nearest are 1 or more, not {self.nearest}")


@dataclass(frozen=True)
class Decided:
    """What was decided of one person and others. others: int64 (m,), rows. distance: float32 (m,).
    same: bool (m,)."""

    others: NDArray[np.int64]
    distance: NDArray[np.float32]
    same: NDArray[np.bool_]


def decide(distances: Distances, rule: Rule, person: int) -> Decided:
    """What a rule says of a person and those of other pictures.

    By threshold these are the later ones, in order, so that all people together have each pair
    once; by nearest they are all, nearest first, equally near ones in order.
    """
    if rule.threshold is not None:
        row = distances.row(person, start=person)
        places = np.flatnonzero(~np.isnan(row))
        return Decided(person + places, row[places], row[places] <= np.float64(rule.threshold))
    row = distances.row(person)
    order = np.argsort(row, kind="stable")
    order = order[: len(row) - np.count_nonzero(np.isnan(row))]  # NaN comes last
    return Decided(order, row[order], np.arange(len(order)) < (rule.nearest or 0))


@dataclass(frozen=True)
class SamePairs:
    """Pairs of people that are decided to be one person.

    a, b: int64 (m,), rows. By threshold every pair is there once, a < b, in this order. By nearest
    b is one of the nearest of a, in the order of a, each one's nearest first. distance: float32
    (m,).
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    distance: NDArray[np.float32]


def same_person(
    vectors: ArrayLike,
    pictures: ArrayLike,
    *,
    distance: Metric | str = Metric.COSINE,
    threshold: float | None = None,
    nearest: int | None = None,
    progress: Callable[[int], object] = lambda _people: None,
) -> SamePairs:
    """Which people of different pictures are the same person.

    vectors: (n, D), one for each person. pictures: whole numbers (n,), the picture each is in:
    people of one picture are never the same. distance: "cosine", 1 − cos, or "euclidean", ‖x − y‖₂.
    threshold: the largest distance at which two are the same; or nearest: how many of the nearest
    of other pictures each person is decided to be, ties by row. With neither, the threshold is 0.2
    for cosine (a similarity of 80 %); for Euclidean there is none that fits every model.
    progress is told of people as they are done. Memory: the vectors and the pairs that are found.

    Raises DimensionMismatch, NotFiniteError, UsageError.
    """
    distances = Distances(vectors, pictures, distance=distance)
    return find_pairs(distances, make_rule(distance, threshold, nearest), progress=progress)


def make_rule(distance: Metric | str, threshold: float | None, nearest: int | None) -> Rule:
    """The rule that is asked for, or the one by default; see `same_person`. Raises UsageError."""
    if threshold is None and nearest is None:
        if distance != Metric.COSINE:
            raise UsageError(
                f"no threshold fits every model's {distance} distances: give one, or how many of "
                "the nearest to take"
            )
        threshold = THRESHOLD
    return Rule(threshold=threshold, nearest=nearest)


def find_pairs(
    distances: Distances, rule: Rule, *, progress: Callable[[int], object] = lambda _people: None
) -> SamePairs:
    """The pairs that the rule finds; see `same_person`."""
    found = []
    for person in range(len(distances)):
        one = decide(distances, rule, person)
        found.append((one.others[one.same], one.distance[one.same]))
        progress(1)
    lengths = [len(others) for others, _ in found]
    return SamePairs(
        a=np.repeat(np.arange(len(found)), lengths),
        b=np.concatenate([np.empty(0, np.int64), *(others for others, _ in found)]),
        distance=np.concatenate([np.empty(0, np.float32), *(near for _, near in found)]),
    )


def group_people(pairs: SamePairs, pictures: ArrayLike) -> NDArray[np.int64]:
    """People joined into groups, each of one person: int64 (n,), the group of each, counted from 0
    in the order of their first members. Who is in no pair is a group alone.

    pictures: whole numbers (n,), as for `same_person`. Pairs are joined nearest first (equally near
    ones by rows), so groups are those of single linkage, but that two groups which share a picture
    stay apart: joined, somebody would be in that picture twice. So one pair too many can cost a
    later one, and some pairs may end in two groups.
    """
    count = len(np.asarray(pictures))
    seen = [{picture} for picture in np.asarray(pictures).tolist()]
    leader = np.arange(count)

    def find(person: int) -> int:
        while leader[person] != person:
            leader[person] = leader[leader[person]]
            person = int(leader[person])
        return person

    for pair in np.lexsort((pairs.b, pairs.a, pairs.distance)):
        first, second = sorted((find(int(pairs.a[pair])), find(int(pairs.b[pair]))))
        if first != second and seen[first].isdisjoint(seen[second]):
            leader[second] = first
            seen[first] |= seen[second]
    _, groups = np.unique([find(person) for person in range(count)], return_inverse=True)
    return groups.astype(np.int64)
