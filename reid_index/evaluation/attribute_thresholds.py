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

_STEPS = 5
"""Halvings in the search for the target that leaves no more than the margin."""

_SURE = 1.645
"""Standard errors below the estimate that 95 % of a normal distribution are above."""

_OFF = 255


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Thresholds, and what they do to the items that they were chosen by.

    thresholds: attribute → confidence, None: not to be used. keep: what was asked for.
    margin: by how much more than `keep` is kept here, at least, so that other people keep as much.
    quality: by exact counts, every item a query among all others. persons: those with matches.
    """

    thresholds: Mapping[str, float | None]
    keep: float
    margin: float
    quality: FilterQuality
    persons: int


def choose_thresholds(items: Coded, labels: Labels, *, keep: float = 0.98, seed: int = 0) -> Chosen:
    """Thresholds by which at least `keep`, in (0, 1), of all true matches stay, and many others go.

    items, labels: of the same rows; true matches are pairs of one person that are not of one
    camera. Starting with no attribute in use, the step is taken again and again that drops most
    pairs of different people for each true match that it costs: one attribute's threshold, lowered
    to some value of `GRID`; all counts are of pairs that no other attribute drops. Then each
    attribute in turn is taken out and the others are lowered further; where that drops more, it
    stays out, or comes back as far as there is room.

    **Other people** are why not all of 1 − keep is spent. The share kept is a ratio of sums over
    persons; its standard error is that of sampling persons (Cochran, Sampling Techniques, 3rd ed.,
    1977, eq. 2.47), and the difference to as many other persons has √2 of it. At least keep +
    1.645 · √2 standard errors are therefore kept of these, so that of 20 such groups of others, 19
    keep `keep`. That takes persons: with fewer than 3 / (1 − keep) even no loss at all says little.

    Deterministic; seed: of drawing pairs, where there are more than 1,000,000 true matches or
    250,000 others. Raises UsageError for another keep, and where no person has a true match.
    """
    if not 0 < keep < 1:
        raise UsageError(f"the share of true matches to keep is between 0 and 1, got {keep}")
    rng = np.random.default_rng(seed)
    a, b = _matches(labels, rng)
    if len(a) == 0:
        raise UsageError(
            "no person has items of two cameras, so nothing tells what a true match may look like"
        )
    same = _Pairs(_levels(items, a, b))
    _, owners = np.unique(labels.person[a], return_inverse=True)
    others = _Pairs(_levels(items, *_different(labels, rng)))
    limits, margin = _held(same, others, owners, keep=keep)
    thresholds = {
        name: None if limit == _OFF else float(GRID[limit - 1])
        for name, limit in zip(items.names, limits.tolist(), strict=True)
    }
    named = np.flatnonzero(labels.person != NOBODY)
    asked = Labels(labels.person[named], labels.camera[named], labels.item[named])
    quality = filter_quality(items.take(named), items, asked, labels, thresholds, same_item=True)
    return Chosen(
        thresholds=thresholds,
        keep=keep,
        margin=float(margin),
        quality=quality,
        persons=int(owners.max()) + 1,
    )


def _held(
    same: "_Pairs", others: "_Pairs", owners: NDArray[np.int64], *, keep: float
) -> tuple[NDArray[np.int64], float]:
    """Limits that keep `keep` of other people's matches, too, and the margin that this takes."""

    def tried(target: float) -> tuple[NDArray[np.int64], float, bool]:
        limits = _improved(same, others, lost=int((1 - target) * len(owners)))
        lost = same.dropped(limits)
        margin = _SURE * np.sqrt(2) * _standard_error(lost, owners)
        return limits, margin, 1 - float(lost.mean()) - margin >= keep

    low, high = keep, keep
    limits, margin, holds = tried(keep)
    if holds:
        return limits, margin
    while not holds:
        low, high = high, min(1.0, max(keep + margin, high + 1 / len(owners)))
        limits, margin, holds = tried(high)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        some, its, holds = tried(middle)
        if holds:
            limits, margin, high = some, its, middle
        else:
            low = middle
    return limits, margin


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
    """How high the threshold can be at which each attribute still drops each pair: uint8 (n, A), 1 +
    its place in `GRID`; 0 where it never does."""
    levels = np.zeros((len(a), len(items.names)), np.uint8)
    grid = GRID.astype(np.float32)
    for at in range(len(items.names)):
        bits = items.bits[:, items.first[at] : items.first[at + 1]]
        known = bits.any(axis=1)
        sure = np.searchsorted(grid, items.sure[:, at], side="right").astype(np.uint8)
        apart = known[a] & known[b] & ~(bits[a] & bits[b]).any(axis=1)
        levels[:, at] = np.where(apart, np.minimum(sure[a], sure[b]), 0)
    return levels


@dataclass(frozen=True)
class _Pairs:
    """Pairs as `_levels` has them. Limits are int64 (A,): from which level on an attribute drops."""

    levels: NDArray[np.uint8]

    def dropped(self, limits: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of them go, (n,)."""
        gone: NDArray[np.bool_] = (self.levels >= limits).any(axis=1)
        return gone

    def alone(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many pairs attribute a would drop with the limit l, of those that no other attribute
        drops: int64 (A, len(GRID) + 2), [a, l]; none for l beyond the grid."""
        counts = np.zeros((self.levels.shape[1], len(GRID) + 2), np.int64)
        _count_alone(self.levels, limits, counts)
        after: NDArray[np.int64] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        return after


@compiled()
def _count_alone(levels, limits, counts):  # type: ignore[no-untyped-def]
    for pair in range(len(levels)):
        dropping, by = 0, -1
        for a in range(len(limits)):
            if levels[pair, a] >= limits[a]:
                dropping += 1
                by = a
        if dropping == 0:
            for a in range(len(limits)):
                counts[a, levels[pair, a]] += 1
        elif dropping == 1:
            counts[by, levels[pair, by]] += 1


def _improved(same: _Pairs, others: _Pairs, *, lost: int) -> NDArray[np.int64]:
    """Limits by which no more than `lost` of the true matches go, and many others."""
    attributes = same.levels.shape[1]
    everything = np.ones(attributes, np.bool_)
    limits = _lowered(np.full(attributes, _OFF), same, others, lost=lost, allowed=everything)
    best = int(others.dropped(limits).sum())
    improving = True
    while improving:
        improving = False
        for at in range(attributes):
            if limits[at] == _OFF:
                continue
            without = limits.copy()
            without[at] = _OFF
            allowed = everything.copy()
            allowed[at] = False
            tried = _lowered(without, same, others, lost=lost, allowed=allowed)
            tried = _lowered(tried, same, others, lost=lost, allowed=everything)
            found = int(others.dropped(tried).sum())
            if found > best:
                limits, best, improving = tried, found, True
    return limits


def _lowered(
    limits: NDArray[np.int64],
    same: _Pairs,
    others: _Pairs,
    *,
    lost: int,
    allowed: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Limits lowered step by step, each time where most is dropped for what it costs, until no
    step is left that drops anything; of equal steps the first attribute's, and the lowest limit."""
    limits = limits.copy()
    while True:
        room = lost - int(same.dropped(limits).sum())
        current = np.minimum(limits, len(GRID) + 1)[:, None]
        gained, cost = (
            (counts - np.take_along_axis(counts, current, axis=1)).astype(np.float64)
            for counts in (others.alone(limits), same.alone(limits))
        )
        level = np.arange(len(GRID) + 2)
        possible = (gained > 0) & (cost <= room) & (level >= 1) & (level < current)
        possible &= allowed[:, None]
        if not possible.any():
            return limits
        # One more, so that of steps that cost nothing the one that drops most comes first.
        worth = np.where(possible, gained / (np.maximum(cost, 0) + 1), -1)
        at, to = np.unravel_index(int(np.argmax(worth)), worth.shape)
        limits[at] = to


def _standard_error(lost: NDArray[np.bool_], owners: NDArray[np.int64]) -> float:
    """Of the share lost, by sampling persons: lost (n,) of pairs, owners (n,) whose they are."""
    matches = np.bincount(owners).astype(np.float64)
    missed = np.bincount(owners, weights=lost)
    persons = len(matches)
    if persons < 2:
        return 0.0
    off = missed - missed.sum() / matches.sum() * matches
    return float(np.sqrt((off**2).sum() / (persons - 1) * persons) / matches.sum())
