"""Thresholds from data: how alike pairs of one person and of two people are in a gallery.

All of it is about the gallery's own similarity (distance in a Euclidean gallery), never a
re-ranked one, which no threshold fits from one query to the next.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import CorruptGallery, NoCalibration, UsageError
from ..files import sha256_file, write_file
from ..gallery import Gallery
from ..metric import Metric
from ..reading import number, read_json, text, whole
from .pairs import (
    NEGATIVE,
    POSITIVE,
    ListedPairs,
    Relation,
    labelled_pairs,
    read_pairs,
    sample,
    track_pairs,
)

BINS = 2**16
"""Bins of the histograms that thresholds are taken from: 2⁻¹⁵ of similarity each for cosine."""

RATES = (1e-2, 1e-3, 1e-4)
"""False-match rates that are always reported, where there are pairs enough to tell them."""

MAX_ROWS = 20_000
"""Items whose pairs are all compared; of more, so many are drawn."""

_MOST_PAIRS = 2**46
"""Pairs in a bin: so many that the sum over all bins fits int64, and those of ten million items."""

_FILE = "calibration.json"
_PICTURED = 256
_ROC_POINTS = 101
_TILE = (512, 4096)


@dataclass(frozen=True)
class Histograms:
    """How many pairs have which score.

    positives, negatives: int64 (BINS,), pairs of one person and of two, from the least alike bin
    to the most alike. span: a power of two, so that the bounds of bins are exact. Similarities lie
    in [-span, span], bin i from `limits[i]` to below `limits[i + 1]`; distances in [0, span], bin i
    from `limits[i]` down to above `limits[i + 1]`; the last bin has both its ends.
    """

    metric: Metric
    span: float
    positives: NDArray[np.int64]
    negatives: NDArray[np.int64]

    @property
    def limits(self) -> NDArray[np.float64]:
        """float64 (BINS,): with the threshold limits[i], just the pairs in bins ≥ i match."""
        steps = np.arange(BINS) / BINS
        if self.metric is Metric.EUCLIDEAN:
            return self.span * (1 - steps)
        return self.span * (2 * steps - 1)

    @cached_property
    def false_match_rates(self) -> NDArray[np.float64]:
        """float64 (BINS,): the share of the negatives that match at each of the limits."""
        return _shares(self.negatives)

    @cached_property
    def true_match_rates(self) -> NDArray[np.float64]:
        """float64 (BINS,): the share of the positives that match at each of the limits."""
        return _shares(self.positives)

    def coarse(self) -> "tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]":
        """Edges (257,), positives (256,), negatives (256,), by ascending score, for pictures."""
        edges = np.append(self.limits[:: BINS // _PICTURED], self._end)
        counts = [c.reshape(_PICTURED, -1).sum(axis=1) for c in (self.positives, self.negatives)]
        if self.metric is Metric.EUCLIDEAN:
            edges, counts = edges[::-1], [c[::-1] for c in counts]
        return edges, counts[0], counts[1]

    @property
    def _end(self) -> float:
        return 0.0 if self.metric is Metric.EUCLIDEAN else self.span


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Which share of the counts lies in each bin and those after it."""
    after = np.cumsum(counts[::-1])[::-1]
    shares: NDArray[np.float64] = after / after[0]
    return shares


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a gallery's scores mean.

    origin: what told who is who: "labels" (persons), "tracks" or "pairs" (a list).
    same_camera: pairs of one person in one camera count, too.
    generation, items: of the gallery when this was made. rows: the items whose pairs were
    compared; usable: of how many they were drawn, the same number where all were taken, as they
    are up to max_rows; seed: of drawing them.
    false_match_rate: what `threshold` is asked for unless told otherwise.
    """

    histograms: Histograms
    origin: str
    same_camera: bool
    generation: int
    items: int
    rows: int
    usable: int
    false_match_rate: float
    max_rows: int = MAX_ROWS
    seed: int = 0

    @property
    def positives(self) -> int:
        """Pairs of one person."""
        return int(self.histograms.positives.sum())

    @property
    def negatives(self) -> int:
        """Pairs of two people."""
        return int(self.histograms.negatives.sum())

    @property
    def sampled(self) -> bool:
        """Whether only some of the usable items were compared, drawn at random."""
        return self.rows < self.usable

    @property
    def eer(self) -> float:
        """The equal error rate: where the false-match rate is 1 − the true-match rate, on straight
        lines between the points of the ROC that the bins give. In [0, 1]."""
        wrong = np.append(self.histograms.false_match_rates, 0.0)
        missed = np.append(1 - self.histograms.true_match_rates, 1.0)
        at = int(np.argmax(missed >= wrong))  # never the first: it has rates 1 and 0
        before, after = (wrong - missed)[[at - 1, at]]
        share = before / (before - after)
        return float(wrong[at - 1] + share * (wrong[at] - wrong[at - 1]))

    def threshold(self, false_match_rate: float) -> float:
        """The smallest similarity (largest distance) to ask for so that, of the negatives, a share
        of no more than false_match_rate, in (0, 1], matches: a bound of a bin, so that the share is
        known and not guessed.

        Raises UsageError for a rate that so few negatives cannot tell, or that none can reach.
        """
        return float(self.histograms.limits[self._place(false_match_rate)])

    def true_match_rate(self, false_match_rate: float) -> float:
        """TPR at FPR: the share of the positives that match at that threshold; raises as it."""
        return float(self.histograms.true_match_rates[self._place(false_match_rate)])

    def _place(self, rate: float) -> int:
        if not 0 < rate <= 1:
            raise UsageError(f"a false-match rate is above 0 and at most 1, got {rate:g}")
        if 1 / self.negatives > rate:
            raise UsageError(
                f"{self.negatives:,} pairs of different people cannot tell a false-match rate of "
                f"{rate:g}: the finest they can is {1 / self.negatives:.2g}"
            )
        reached = self.histograms.false_match_rates <= rate
        if not reached.any():
            alike = int(self.histograms.negatives[-1])
            raise UsageError(
                f"{alike:,} of {self.negatives:,} pairs of different people are as alike as can "
                f"be, so no threshold has a false-match rate of {rate:g}: look for one person "
                "under two labels"
            )
        return int(np.argmax(reached))

    def reported(self) -> list[tuple[float, float | None, float | None]]:
        """RATES and the one that was wanted, largest first: each with its true-match rate and
        threshold, None where the pairs cannot tell."""
        found: list[tuple[float, float | None, float | None]] = []
        for rate in sorted({*RATES, self.false_match_rate}, reverse=True):
            try:
                found.append((rate, self.true_match_rate(rate), self.threshold(rate)))
            except UsageError:
                found.append((rate, None, None))
        return found

    def roc(self) -> list[tuple[float, float, float]]:
        """At most 101 points (threshold, false-match rate, true-match rate), from the strictest
        threshold on, at false-match rates evenly spaced in the logarithm."""
        rates = np.geomspace(1 / self.negatives, 1, _ROC_POINTS)
        falling = self.histograms.false_match_rates
        places = np.unique(np.searchsorted(-falling, -rates))[::-1]
        places = places[places < BINS]
        columns = (self.histograms.limits, falling, self.histograms.true_match_rates)
        return [
            (float(a), float(b), float(c))
            for a, b, c in zip(*(x[places] for x in columns), strict=True)
        ]

    def about(self) -> dict[str, Any]:
        """How it was made, for the manifest."""
        return {
            "origin": self.origin,
            "same_camera": self.same_camera,
            "false_match_rate": self.false_match_rate,
            "max_rows": self.max_rows,
            "seed": self.seed,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything that `from_json` needs, and what others may want to read."""
        edges, positives, negatives = self.histograms.coarse()
        used = np.flatnonzero(self.histograms.positives + self.histograms.negatives)
        counts = (used, self.histograms.positives[used], self.histograms.negatives[used])
        return {
            **self.summary(),
            "span": self.histograms.span,
            "bins": np.stack(counts, axis=1).tolist(),
            "roc": self.roc(),
            "histogram": {
                "edges": edges.tolist(),
                "positives": positives.tolist(),
                "negatives": negatives.tolist(),
            },
        }

    def summary(self) -> dict[str, Any]:
        """The figures as JSON: null for what too few pairs cannot tell."""
        return {
            "metric": str(self.histograms.metric),
            "origin": self.origin,
            "same_camera": self.same_camera,
            "generation": self.generation,
            "items": self.items,
            "rows": self.rows,
            "usable": self.usable,
            "sampled": self.sampled,
            "positives": self.positives,
            "negatives": self.negatives,
            "eer": self.eer,
            "false_match_rate": self.false_match_rate,
            "threshold": self.threshold(self.false_match_rate),
            "rates": [
                {"false_match_rate": rate, "true_match_rate": true, "threshold": threshold}
                for rate, true, threshold in self.reported()
            ],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Calibration":
        """What `to_json` wrote. Raises KeyError, TypeError, ValueError."""
        counts = np.zeros((2, BINS), np.int64)
        for place, positives, negatives in data["bins"]:
            at = whole(place, name="a bin", most=BINS - 1)
            counts[0, at] = whole(positives, name="a count", most=_MOST_PAIRS)
            counts[1, at] = whole(negatives, name="a count", most=_MOST_PAIRS)
        if not counts.any(axis=1).all():
            raise ValueError("it counts no pairs")
        span = number(data["span"], name="span")
        if not span > 0:
            raise ValueError(f"its span is {span}")
        return cls(
            histograms=Histograms(Metric(data["metric"]), span, *counts),
            origin=text(data["origin"], name="origin"),
            same_camera=bool(data["same_camera"]),
            generation=whole(data["generation"], name="generation"),
            items=whole(data["items"], name="items"),
            rows=whole(data["rows"], name="rows"),
            usable=whole(data["usable"], name="usable"),
            false_match_rate=number(
                data["false_match_rate"], name="false_match_rate", least=0, most=1
            ),
        )


def pair_histograms(
    vectors: NDArray[np.float32],
    relation: Relation,
    *,
    metric: Metric,
    progress: Callable[[int], object] = lambda _rows: None,
) -> Histograms:
    """Count all pairs i < j of rows of vectors (n, D) that relation counts, by their score.

    Sums are taken in float64 and rounded to float32, as scores are (see oracle.py); for cosine the
    rows have length 1. No n × n matrix is held. progress is told of rows as they are done.
    """
    span = _span(vectors, metric)
    counts = np.zeros((3, BINS), np.int64)
    for top in range(0, len(vectors), _TILE[0]):
        a = slice(top, min(top + _TILE[0], len(vectors)))
        for left in range(top, len(vectors), _TILE[1]):
            b = slice(left, min(left + _TILE[1], len(vectors)))
            kinds = relation.kinds(a, b)
            if left == top:
                kinds = np.triu(kinds, k=1)
            if kinds.any():
                scores = _scores(vectors[a], vectors[b], metric)
                counts += _count(kinds, scores, metric, span)
        progress(a.stop - a.start)
    return Histograms(metric, span, counts[POSITIVE], counts[NEGATIVE])


def listed_histograms(
    vectors: NDArray[np.float32], pairs: ListedPairs, *, metric: Metric
) -> Histograms:
    """Count listed pairs, places of vectors (n, D), by their score; see `pair_histograms`."""
    span = _span(vectors, metric)
    counts = np.zeros((3, BINS), np.int64)
    for start in range(0, len(pairs.a), _TILE[1]):
        part = slice(start, start + _TILE[1])
        x, y = (vectors[side[part]].astype(np.float64) for side in (pairs.a, pairs.b))
        if metric is Metric.EUCLIDEAN:
            scores = np.sqrt(((x - y) ** 2).sum(axis=1))
        else:
            scores = (x * y).sum(axis=1)
        kinds = np.where(pairs.same[part], POSITIVE, NEGATIVE).astype(np.uint8)
        counts += _count(kinds, scores, metric, span)
    return Histograms(metric, span, counts[POSITIVE], counts[NEGATIVE])


def _span(vectors: NDArray[np.float32], metric: Metric) -> float:
    """A power of two that no similarity exceeds, but for rounding; of distances those of outliers
    may, which then count as the largest: were the span theirs, the others would share a bin."""
    if metric is Metric.COSINE:
        return 1.0
    if metric is Metric.EUCLIDEAN and len(vectors):
        mean = vectors.mean(axis=0, dtype=np.float64)
        lengths = np.array([np.linalg.norm(vector - mean) for vector in vectors])
        largest = 4 * float(np.quantile(lengths, 0.95))
    else:
        norms = np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64)
        largest = float(norms.max(initial=0))
    return float(2.0 ** np.ceil(np.log2(largest))) if largest > 0 else 1.0


def _scores(x: NDArray[np.float32], y: NDArray[np.float32], metric: Metric) -> NDArray[np.float64]:
    x64, y64 = x.astype(np.float64), y.astype(np.float64)
    products: NDArray[np.float64] = x64 @ y64.T
    if metric is not Metric.EUCLIDEAN:
        return products
    squares = [np.einsum("nd,nd->n", side, side) for side in (x64, y64)]
    squared = squares[0][:, None] + squares[1] - 2 * products
    distances: NDArray[np.float64] = np.sqrt(np.maximum(squared, 0))
    return distances


def _count(
    kinds: NDArray[np.uint8], scores: NDArray[np.float64], metric: Metric, span: float
) -> NDArray[np.int64]:
    """int64 (3, BINS): pairs by kind and bin."""
    with np.errstate(over="ignore"):
        rounded = scores.astype(np.float32).astype(np.float64)
    if metric is Metric.EUCLIDEAN:
        places = (span - rounded) * (BINS / span)
    else:
        places = (rounded + span) * (BINS / (2 * span))
    bins = np.clip(places, 0, BINS - 1).astype(np.intp)
    counted = np.bincount((bins + kinds.astype(np.intp) * BINS).ravel(), minlength=3 * BINS)
    return counted.reshape(3, BINS)


def calibrate(
    gallery: Gallery,
    *,
    weak: bool = False,
    listed: Path | None = None,
    same_camera: bool = False,
    false_match_rate: float = 1e-3,
    max_rows: int = MAX_ROWS,
    seed: int = 0,
    progress: Callable[[int], object] = lambda _rows: None,
) -> Calibration:
    """How alike pairs are in a gallery, by person labels; by tracks where weak; or by the pairs in
    the file `listed` (see pairs.py for each).

    same_camera: pairs of one person in one camera count too, which are easier than those that a
    search through other cameras meets; pairs of two people count from all cameras in any case.
    max_rows: of more items than that, whole people (scenes, for tracks) are drawn, by seed.

    Raises NoCalibration where there is no pair of one person or none of two; UsageError where
    nothing tells who is who, or not the wanted false_match_rate; BadSource (`read_pairs`).
    """
    gallery = gallery.snapshot()  # others may refresh it meanwhile
    generation, items = gallery.manifest.generation, len(gallery)
    if listed is not None:
        origin = "pairs"
        pairs = read_pairs(listed, gallery.items)
        rows, usable = pairs.rows, len(pairs.rows)
        histograms = listed_histograms(gallery.vectors(rows.tolist()), pairs, metric=gallery.metric)
    else:
        origin = "tracks" if weak else "labels"
        rows, relation = _related(gallery, weak=weak, same_camera=same_camera)
        usable = len(rows)
        chosen = sample(relation.groups, max_rows, seed=seed)
        rows = rows[chosen]
        histograms = pair_histograms(
            gallery.vectors(rows.tolist()),
            relation.take(chosen),
            metric=gallery.metric,
            progress=progress,
        )
    for counts, what in ((histograms.positives, "one person"), (histograms.negatives, "two")):
        if not counts.any():
            raise NoCalibration(f"{gallery.path}: {_MISSING[what, origin]}")
    made = Calibration(
        histograms=histograms,
        origin=origin,
        same_camera=same_camera,
        generation=generation,
        items=items,
        rows=len(rows),
        usable=usable,
        false_match_rate=false_match_rate,
        max_rows=max_rows,
        seed=seed,
    )
    made.threshold(false_match_rate)
    return made


_MISSING = {
    ("one person", "labels"): "no person was seen by two cameras, so there is no pair of one "
    "person; --same-camera counts pairs of one camera, too",
    ("two", "labels"): "all labelled items are of one person, so there is no pair of two",
    ("one person", "tracks"): "no track has two items, so there is no pair of one person",
    ("two", "tracks"): "no two tracks of one video and camera are seen at the same time, so "
    "there is no pair of two people",
    ("one person", "pairs"): "the list has no pair of one person (same = 1)",
    ("two", "pairs"): "the list has no pair of two people (same = 0)",
}


def _related(
    gallery: Gallery, *, weak: bool, same_camera: bool
) -> tuple[NDArray[np.int64], Relation]:
    try:
        if weak:
            return track_pairs(gallery.items)
        return labelled_pairs(gallery.items, same_camera=same_camera)
    except UsageError as error:
        raise UsageError(f"{gallery.path}: {error}") from None


def write_calibration(gallery: Gallery, calibration: Calibration) -> None:
    """Keep a calibration with its gallery, in one commit, in place of a former one."""

    def write(folder: Path) -> None:
        text = json.dumps(calibration.to_json(), sort_keys=True, allow_nan=False)
        write_file(folder / _FILE, (text + "\n").encode(), sync=False)

    gallery.attach(
        "calibration", write, generation=calibration.generation, about=calibration.about()
    )


def read_calibration(gallery: Gallery) -> Calibration | None:
    """The calibration that is kept with a gallery, None where there is none.

    It is about the extractor and the cameras, so it stays of use when items are added; its
    `generation` and `items` say what it was made from. Raises CorruptGallery.
    """
    entry = gallery.manifest.attachment("calibration")
    if entry is None:
        return None
    path = gallery.path / entry.folder / _FILE
    try:
        if sha256_file(path) != entry.files[_FILE].sha256:
            raise ValueError("its bytes have changed since it was written")
        return Calibration.from_json(read_json(path))
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise CorruptGallery(
            f"{path}: cannot be read as a calibration ({error!r}): run reid calibrate again"
        ) from None
