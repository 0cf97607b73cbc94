"""Thresholds of attributes from labelled people: which confidence lets a filter by attributes keep
nearly all true matches, and drop as much else as can be.

Each word of each attribute gets its own: a model is wrong about a bag far more often than about
trousers, and it may be wrong about a "yes" where its "no" can be trusted. They are found together,
since matches lost to one attribute are not lost again to another.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..attributes import Threshold
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

    thresholds: attribute → word → confidence, or → one for all words; None: not to be used. keep:
    what was asked for.
    kept_elsewhere: the share of true matches that is kept of people whom thresholds were not chosen
    by, by cross-validation; standard_error: of that. quality: of the items themselves, by exact
    counts, each a query among all others. persons: those with true matches.
    """

    thresholds: Mapping[str, Threshold]
    keep: float
    kept_elsewhere: float
    standard_error: float
    quality: FilterQuality
    persons: int


def choose_thresholds(
    items: Coded, labels: Labels, *, keep: float = 0.98, by_word: bool = True, seed: int = 0
) -> Chosen:
    """Thresholds by which at least `keep`, in (0, 1), of true matches stay, and many others go.

    items, labels: of the same rows; true matches are pairs of one person that are not of one
    camera. Starting with no attribute in use, the step is taken again and again that drops most
    pairs of different people for each true match that it costs: the thresholds of all words of one
    attribute, or of one word, lowered to some value of `GRID`; all counts are of pairs that nothing
    drops yet. It ends where any step would lose more than it may. An attribute that no step was
    about is not to be used. by_word: without it, all words of an attribute have the same.

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
    values = _Values.of(items)
    same, others = _Pairs(values, a, b), _Pairs(values, *_different(labels, rng))
    parts = (rng.permutation(persons) % _FOLDS)[owners]
    low, high = 0.0, 1.0 - keep
    kept, error, _ = _elsewhere(same, others, owners, parts, loss=low, by_word=by_word)
    paths: list[_Path] = []
    for _ in range(_STEPS):
        middle = (low + high) / 2
        its_kept, its_error, its_paths = _elsewhere(
            same, others, owners, parts, loss=middle, by_word=by_word, paths=paths
        )
        if its_kept - _SURE * its_error >= keep:
            low, kept, error = middle, its_kept, its_error
        else:
            high, paths = middle, its_paths
    limits = _lowered(same, others, loss=low, by_word=by_word)[-1]
    thresholds = _as_thresholds(items, limits, by_word=by_word)
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


def _as_thresholds(
    items: Coded, limits: NDArray[np.int64], *, by_word: bool
) -> dict[str, Threshold]:
    """Limits of words as confidences."""
    left = iter(limits.tolist())
    thresholds: dict[str, Threshold] = {}
    for name, words in zip(items.names, items.words, strict=True):
        # The first step about an attribute lowers all of its words, as one alone drops nothing.
        its = [next(left) for _ in words]
        told = [float(GRID[limit - 1]) for limit in its if limit != _OFF]
        assert len(told) in (0, len(its))
        if not told:
            thresholds[name] = None
        else:
            thresholds[name] = dict(zip(words, told, strict=True)) if by_word else told[0]
    return thresholds


def _elsewhere(
    same: "_Pairs",
    others: "_Pairs",
    owners: NDArray[np.int64],
    parts: NDArray[np.int64],
    *,
    loss: float,
    by_word: bool,
    paths: "Sequence[_Path]" = (),
) -> tuple[float, float, "list[_Path]"]:
    """The share of true matches kept by thresholds that other parts chose, its standard error, and
    how each was found; owners, parts: of each true match. paths: those of a larger loss, or none.
    """
    lost = np.zeros(len(owners), np.bool_)
    found = []
    for part, path in zip(range(_FOLDS), paths or [[]] * _FOLDS, strict=True):
        its = parts == part
        found.append(_lowered(same.which(~its), others, loss=loss, by_word=by_word, path=path))
        lost[its] = same.which(its).dropped(found[-1][-1])
    return 1 - float(lost.mean()), _standard_error(lost, owners), found


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


@dataclass(frozen=True)
class _Values:
    """Attributes of N items, to be compared with limits: of each of S words the level from which it
    counts, int64 (S,).

    Words are numbered over all attributes. value: int64 (N, A), what an item has of an attribute, a
    word or a set of words, -1 where it is unknown; values are numbered from 0, over all attributes.
    level: uint8 (N, A), how sure it is: the place in `GRID` counted from 1, 0 for below. bits: of
    each value, uint64 (V, W), two of one attribute agree where they share one. The words of value v
    are words[first[v]] … words[first[v + 1] - 1]. owners: the attribute of each word, (S,).
    """

    value: NDArray[np.int64]
    level: NDArray[np.uint8]
    bits: NDArray[np.uint64]
    first: NDArray[np.int64]
    words: NDArray[np.int64]
    owners: NDArray[np.int64]

    @classmethod
    def of(cls, items: Coded) -> "_Values":
        count = len(items.names)
        owners = np.repeat(np.arange(count), [len(words) for words in items.words])
        value = np.full((len(items), count), -1, np.int64)
        width = int(np.diff(items.first).max(initial=1))
        bits, lengths, words, begin = [np.empty((0, width), np.uint64)], [0], [[0][:0]], 0
        for at in range(count):
            mine = items.bits[:, items.first[at] : items.first[at + 1]]
            known = np.flatnonzero(mine.any(axis=1))
            different, place = np.unique(mine[known], axis=0, return_inverse=True)
            value[known, at] = sum(map(len, bits)) + place.reshape(-1)
            each = np.unpackbits(different.astype("<u8").view(np.uint8), axis=1, bitorder="little")
            _, its = np.nonzero(each)
            words.append((begin + its).tolist())
            lengths += each.sum(axis=1).tolist()
            bits.append(np.pad(different, ((0, 0), (0, width - different.shape[1]))))
            begin += len(items.words[at])
        level = np.searchsorted(GRID.astype(np.float32), items.sure, side="right")
        return cls(
            value,
            level.astype(np.uint8),
            np.concatenate(bits),
            np.cumsum(lengths),
            np.array([one for some in words for one in some], np.int64),
            owners.astype(np.int64),
        )


@dataclass(frozen=True)
class _Pairs:
    """Pairs of items: rows a and b, (n,) each."""

    values: _Values
    a: NDArray[np.int64]
    b: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.a)

    def which(self, some: NDArray[np.bool_]) -> "_Pairs":
        """Some of them."""
        return _Pairs(self.values, self.a[some], self.b[some])

    def dropped(self, limits: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of them go, (n,)."""
        its = self.values
        gone = np.zeros(len(self), np.bool_)
        least = _limits_of_values(its.first, its.words, limits)
        _drop(self.a, self.b, its.value, its.level, its.bits, least, gone)
        return gone

    def further(self, limits: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many of them, of which none is dropped yet, each step would drop: int64 (A + S,
        len(GRID) + 2), [step, l]; steps lower all words of an attribute, or one word, to l."""
        its = self.values
        counts = np.zeros((its.value.shape[1] + len(limits), len(GRID) + 2), np.int64)
        least = _limits_of_values(its.first, its.words, limits)
        _count_levels(
            *(self.a, self.b, its.value, its.level, its.bits, its.first, its.words),
            *(limits, least, counts),
        )
        after: NDArray[np.int64] = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1]
        return after


_Path: TypeAlias = list[NDArray[np.int64]]
"""Limits, one step after the other."""


@compiled()
def _limits_of_values(first, words, limits):  # type: ignore[no-untyped-def]
    least = np.zeros(len(first) - 1, np.int64)
    for v in range(len(least)):
        for at in range(first[v], first[v + 1]):
            least[v] = max(least[v], limits[words[at]])
    return least


@compiled(inline="always")
def _apart(bits, one, other):  # type: ignore[no-untyped-def]
    if one < 0 or other < 0:
        return False
    common = np.uint64(0)
    for word in range(bits.shape[1]):
        common |= bits[one, word] & bits[other, word]
    return common == 0


@compiled()
def _drop(a, b, value, level, bits, least, gone):  # type: ignore[no-untyped-def]
    for pair in range(len(a)):
        i, j = a[pair], b[pair]
        for at in range(value.shape[1]):
            one, other = value[i, at], value[j, at]
            if (
                _apart(bits, one, other)
                and level[i, at] >= least[one]
                and level[j, at] >= least[other]
            ):
                gone[pair] = True
                break


@compiled()
def _count_levels(  # type: ignore[no-untyped-def]
    a, b, value, level, bits, first, words, limits, least, counts
):
    attributes = value.shape[1]
    for pair in range(len(a)):
        i, j = a[pair], b[pair]
        for at in range(attributes):
            one, other = value[i, at], value[j, at]
            if not _apart(bits, one, other):
                continue
            its, others = level[i, at], level[j, at]
            if its >= least[one]:
                blocked, reached = other, others
            elif others >= least[other]:
                blocked, reached = one, its
            else:
                counts[at, min(its, others)] += 1
                continue
            counts[at, reached] += 1
            word, blocking = -1, 0
            for place in range(first[blocked], first[blocked + 1]):
                if reached < limits[words[place]]:
                    word = words[place]
                    blocking += 1
            if blocking == 1:
                counts[attributes + word, reached] += 1


def _lowered(
    same: _Pairs,
    others: _Pairs,
    *,
    loss: float,
    by_word: bool,
    path: Sequence[NDArray[np.int64]] = (),
) -> "_Path":
    """Limits lowered step by step, each time where most is dropped for what it costs, as long as
    no more than that share of true matches is lost; of equal steps the first one's, all words of
    an attribute before one word, and the lowest limit. path: of a larger loss."""
    owners = same.values.owners
    attributes = same.values.value.shape[1]
    level = np.arange(len(GRID) + 2)
    may = int(loss * len(same))
    found = [np.full(len(owners), _OFF, np.int64)]
    # The best step of all that a larger loss allows is the best of fewer ones, if it is of them.
    for limits in path[1:]:
        gone = same.dropped(limits)
        if gone.sum() > may:
            break
        may -= int(gone.sum())
        same = same.which(~gone)
        found.append(limits)
    others = others.which(~others.dropped(found[-1]))
    while True:
        limits = found[-1].copy()
        gained, cost = others.further(limits), same.further(limits)
        possible = (gained > 0) & (cost <= may) & (level >= 1)
        if not by_word:
            possible[attributes:] = False
        if not possible.any():
            return found
        # One more, so that of steps that cost nothing the one that drops most comes first.
        worth = np.where(possible, gained / (cost + 1), -1)
        step, to = np.unravel_index(int(np.argmax(worth)), worth.shape)
        if step < attributes:
            limits[owners == step] = np.minimum(limits[owners == step], to)
        else:
            limits[step - attributes] = to
        # Limits only fall: what is dropped stays so, and need not be looked at again.
        gone = same.dropped(limits)
        may -= int(gone.sum())
        same, others = same.which(~gone), others.which(~others.dropped(limits))
        found.append(limits)


def _standard_error(lost: NDArray[np.bool_], owners: NDArray[np.int64]) -> float:
    """Of the share lost, by sampling persons: lost (n,) of pairs, owners (n,) whose they are."""
    matches = np.bincount(owners).astype(np.float64)
    missed = np.bincount(owners, weights=lost)
    persons = len(matches)
    off = missed - missed.sum() / matches.sum() * matches
    return float(np.sqrt((off**2).sum() / (persons - 1) * persons) / matches.sum())
