"""Thresholds of attributes from labelled people: which confidence lets a filter by attributes keep
nearly all true matches, and drop as much else as can be.

Each attribute gets its own, as a model is wrong about a bag far more often than about trousers.
They are found together, since matches lost to one attribute are not lost again to another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..compiled import compiled
from ..errors import UsageError
from .filter_quality import Coded, FilterQuality, filter_quality
from .protocol import NOBODY, UNKNOWN, Labels

GRID = np.concatenate(
    [
        np.arange(0.0, 0.5, 0.05),
        np.arange(0.5, 0.9, 0.02),
        np.arange(0.9, 0.99, 0.005),
        np.arange(0.99, 0.999, 0.0005),
        np.arange(0.999, 0.99991, 0.0001),
        [1.0],
    ]
).round(5)
"""What a threshold can be: finer near 1, where models' confidences crowd."""

_MATCHES = 1_000_000
"""True matches that are counted at most; of more, so many are drawn."""

_OTHERS = 250_000
"""Pairs of different people that thresholds are compared by: the share dropped of them has a
standard error of 0.1 points at most, were they independent."""

_FOLDS = 5
"""Parts of the people; each is judged by thresholds that the others chose."""

_STEPS = 7
"""Halvings in the search for how much may be lost."""

_SURE = 1.645
"""Standard errors below the estimate that 95 % of a normal distribution are above."""

_OFF = 255


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Thresholds, and what they do to the items that they were chosen by.

    thresholds: attribute → confidence, None: not to be used. keep: what was asked for.
    kept_elsewhere: the share of true matches that is kept of people whom thresholds were not chosen
    by, by cross-validation; standard_error: of that. quality: of the items themselves, by exact
    counts, each a query among all others. persons: those with true matches.
    """

    thresholds: Mapping[str, float | None]
    keep: float
    kept_elsewhere: float
    standard_error: float
    quality: FilterQuality
    persons: int


def choose_thresholds(items: Coded, labels: Labels, *, keep: float = 0.98, seed: int = 0) -> Chosen:
    """Thresholds by which at least `keep`, in (0, 1), of true matches stay, and many others go.

    items, labels: of the same rows; true matches are pairs of one person that are not of one
    camera. Starting with no attribute in use, the step is taken again and again that drops most
    pairs of different people for each true match that it costs: one attribute's threshold, lowered
    to some value of `GRID`; all counts are of pairs that no other attribute drops. It ends where
    any step would lose more than it may. An attribute that no step was about is not to be used.

    How much may be lost is found by **other people**, as thresholds fit best whom they were chosen
    by: the persons are drawn into 5 parts, and the pairs of each are dropped by thresholds that the
    other 4 chose. The share kept so is a ratio of sums over persons, whose standard error is that
    of sampling them (Cochran, Sampling Techniques, 3rd ed., 1977, section 6.4). It is bisected for
    the largest loss at which that share less 1.645 standard errors is still `keep`: of people at
    large, as much is then kept with a confidence of 95 %. (A few people may still be worse off.)
    With fewer than about 3 / (1 − keep) persons even no loss at all would say little.

    Deterministic; seed: of drawing parts, and pairs where there are more than 1,000,000 true
    matches or 250,000 others. Raises UsageError for another keep, and where fewer than 5 persons
    have a true match.
    """
    if not 0 < keep < 1:
        raise UsageError(f"the share of true matches to keep is between 0 and 1, got {keep}")
    rng = np.random.default_rng(seed)
    a, b = _matches(labels, rng)
    _, owners = np.unique(labels.person[a], return_inverse=True)
    persons = int(owners.max(initial=-1)) + 1
    if persons < _FOLDS:
        raise UsageError(
            f"{persons} persons have items of two cameras: at least {_FOLDS} are needed to choose "
            "thresholds by, and many more to choose well"
        )
    same = _Pairs(_levels(items, a, b))
    others = _Pairs(_levels(items, *_different(labels, rng)))
    parts = (rng.permutation(persons) % _FOLDS)[owners]
    low, high = 0.0, 1.0 - keep
    kept, error = _elsewhere(same, others, owners, parts, loss=low)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        its_kept, its_error = _elsewhere(same, others, owners, parts, loss=middle)
        if its_kept - _SURE * its_error >= keep:
            low, kept, error = middle, its_kept, its_error
        else:
            high = middle
    limits = _lowered(same, others, loss=low)
    thresholds = {
        name: None if limit == _OFF else float(GRID[limit - 1])
        for name, limit in zip(items.names, limits.tolist(), strict=True)
    }
    named = np.flatnonzero(labels.person != NOBODY)
    asked = Labels(labels.person[named], labels.camera[named], labels.item[named])
    return Chosen(
        thresholds=thresholds,
        keep=keep,
        kept_elsewhere=kept,
        standard_error=error,
        quality=filter_quality(items.take(named), items, asked, labels, thresholds, same_item=True),
        persons=persons,
    )


def _elsewhere(
    same: "_Pairs",
    others: "_Pairs",
    owners: NDArray[np.int64],
    parts: NDArray[np.int64],
    *,
    loss: float,
) -> tuple[float, float]:
    """The share of true matches kept by thresholds that other parts chose, and its standard error;
    owners, parts: of each true match."""
    lost = np.zeros(len(owners), np.bool_)
    for part in range(_FOLDS):
        its = parts == part
        limits = _lowered(_Pairs(same.levels[~its]), others, loss=loss)
        lost[its] = _Pairs(same.levels[its]).dropped(limits)
    return 1 - float(lost.mean()), _standard_error(lost, owners)


def _matches(
    labels: Labels, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The true matches, each once: rows (n,) and (n,)."""
    order = np.argsort(labels.person, kind="stable")
    order = order[labels.person[order] != NOBODY]
    person = labels.person[order]
    last = np.searchsorted(person, person, side="right")
    place = np.arange(len(order))
    counts = last - place - 1
    first = np.repeat(place, counts)
    begins = np.cumsum(counts) - counts
    second = first + 1 + np.arange(len(first)) - np.repeat(begins, counts)
    a, b = order[first], order[second]
    camera = labels.camera
    apart = (camera[a] != camera[b]) | (camera[a] == UNKNOWN)
    a, b = a[apart], b[apart]
    if len(a) > _MATCHES:
        some = np.sort(rng.choice(len(a), _MATCHES, replace=False))
        a, b = a[some], b[some]
    return a.astype(np.int64), b.astype(np.int64)


def _different(
    labels: Labels, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of a person's item and somebody else's, or a distractor: rows (n,) and (n,)."""
    named, count = np.flatnonzero(labels.person != NOBODY), len(labels)
    if len(named) * count <= _OTHERS:
        a, b = np.repeat(named, count), np.tile(np.arange(count), len(named))
    else:
        a, b = rng.choice(named, _OTHERS), rng.integers(count, size=_OTHERS)
    apart = labels.person[a] != labels.person[b]
    return a[apart].astype(np.int64), b[apart].astype(np.int64)


def _levels(items: Coded, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The highest threshold at which each attribute drops each pair: uint8 (n, A), its place in
    `GRID` counted from 1; 0 where it never does."""
    levels = np.zeros((len(a), len(items.names)), np.uint8)
    grid = GRID.astype(np.float32)
    for at in range(len(items.names)):
        bits = items.bits[:, items.first[at] : items.first[at + 1]]
        known = np.any(bits, axis=1)
        sure = np.searchsorted(grid, items.sure[:, at], side="right").astype(np.uint8)
        apart = known[a] & known[b] & np.all(bits[a] & bits[b] == 0, axis=1)
        levels[:, at] = np.where(apart, np.minimum(sure[a], sure[b]), 0)
    return levels


@dataclass(frozen=True)
class _Pairs:
    """Pairs as `_levels` has them. Limits, int64 (A,): the level from which each attribute
    drops."""

    levels: NDArray[np.uint8]

    def dropped(self, limits: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of them go, (n,)."""
        gone: NDArray[np.bool_] = np.any(self.levels >= limits, axis=1)
        return gone

    def further(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many pairs that stay attribute a would drop with the limit l: int64 (A, len(GRID) +
        2), [a, l]; 0 for its own limit and beyond."""
        counts = np.zeros((self.levels.shape[1], len(GRID) + 2), np.int64)
        _count_levels(self.levels, limits, counts)
        after: NDArray[np.int64] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        return after


@compiled()
def _count_levels(levels, limits, counts):  # type: ignore[no-untyped-def]
    for pair in range(len(levels)):
        stays = True
        for a in range(len(limits)):
            if levels[pair, a] >= limits[a]:
                stays = False
                break
        if stays:
            for a in range(len(limits)):
                counts[a, levels[pair, a]] += 1


def _lowered(same: _Pairs, others: _Pairs, *, loss: float) -> NDArray[np.int64]:
    """Limits lowered step by step, each time where most is dropped for what it costs, as long as
    no more than that share of true matches is lost; of equal steps the first attribute's, and the
    lowest limit."""
    limits = np.full(same.levels.shape[1], _OFF, np.int64)
    level = np.arange(len(GRID) + 2)
    while True:
        room = int(loss * len(same.levels)) - int(same.dropped(limits).sum())
        gained, cost = others.further(limits), same.further(limits)
        possible = (gained > 0) & (cost <= room) & (level >= 1)
        if not possible.any():
            return limits
        # One more, so that of steps that cost nothing the one that drops most comes first.
        worth = np.where(possible, gained / (cost + 1), -1)
        at, to = np.unravel_index(int(np.argmax(worth)), worth.shape)
        limits[at] = to


def _standard_error(lost: NDArray[np.bool_], owners: NDArray[np.int64]) -> float:
    """Of the share lost, by sampling persons: lost (n,) of pairs, owners (n,) whose they are."""
    matches = np.bincount(owners).astype(np.float64)
    missed = np.bincount(owners, weights=lost)
    persons = len(matches)
    off = missed - missed.sum() / matches.sum() * matches
    return float(np.sqrt((off**2).sum() / (persons - 1) * persons) / matches.sum())
