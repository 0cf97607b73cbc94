"""What a query answers with: plain values, no handles into the gallery."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..filters.agreement import Agreed
from ..metric import Metric


@dataclass(frozen=True, kw_only=True)
class Match:
    """One item of a ranked answer.

    rank: from 1. item: the item's id in the gallery. source: file or URI relative to root, the
    folder that it was built from ("" where no pictures exist).
    camera, person, track, video, start, end, start_s, end_s, box: as the item has them, None where
    unknown. box is (x, y, width, height) in pixels of source, which is then a full picture.
    similarity: higher is more alike; None in a Euclidean gallery. distance: lower is more alike;
    None in the others.
    extra: every further column of the item that is not null, attributes among them.
    matched_distance: of vectors and parts together, lower is more alike; None in a gallery without
    a matcher. Comparable between the answers of one gallery.
    confidence: how sure it is that the item is as it was described, in [0, 1]; None but where
    nothing else was asked for (`Gallery.select`), and similarity and distance are None then.
    """

    rank: int
    item: int
    source: str
    root: str
    camera: int | None
    person: str | None
    track: str | None
    video: str | None
    start: datetime | None
    end: datetime | None
    start_s: float | None
    end_s: float | None
    box: tuple[float, float, float, float] | None
    similarity: float | None
    distance: float | None
    extra: Mapping[str, Any]
    reranked_distance: float | None = None
    matched_distance: float | None = None
    confidence: float | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """The answer to one query.

    matches: best first, by matched_distance in a gallery with a matcher, else by score or,
    re-ranked, by reranked_distance; of a description by confidence; equal ones by item id.
    k: how many were asked for. allowed: how many rows the where mask, the camera rule and the
    target's attributes left of rows. threshold: the score (or confidence) a match had to reach, if
    any.
    generation: of the gallery that answered. plan: how the search was done, in words; exact:
    whether the answer is exactly what comparing with every allowed row gives.
    seconds: stage → wall seconds. expected: way to search → the seconds that were expected of it,
    of all that would have answered (see plan.PATHS); empty where there was no choice.
    fallback: why the processor answered though a GPU was asked; None where it was not, or did.
    agreed: which of the target's attributes dropped how many rows; None where none were asked.
    """

    matches: tuple[Match, ...]
    k: int
    allowed: int
    rows: int
    threshold: float | None
    metric: Metric
    generation: int
    plan: str
    exact: bool
    seconds: Mapping[str, float]
    expected: Mapping[str, float] = field(default_factory=dict)
    fallback: str | None = None
    agreed: Agreed | None = None

    @property
    def note(self) -> str | None:
        """Why fewer than k matches came, or None when k came."""
        if len(self.matches) >= self.k:
            return None
        if len(self.matches) == self.allowed:
            return f"only {self.allowed} match: {self.allowed} of {self.rows} items are allowed"
        limit = f"the threshold {self.threshold:g}"
        if not self.matches:
            return f"not in this gallery: no allowed item reaches {limit}"
        return f"only {len(self.matches)} match: the others are beyond {limit}"
