"""What a search for a video answers with: candidates, and the segments that decided."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ..filters.agreement import Agreed
from ..metric import Metric
from .result import Match


@dataclass(frozen=True, kw_only=True)
class Winner:
    """A pair of segments that counted towards a candidate's score.

    target: which segment of the target, from 0. similarity: of the pair, higher is more alike:
    cosine, inner product, or the probability that both show one person. match: the candidate's
    segment, as a search for items gives it, with the score of its vector; its rank is that among
    the candidate's winners.
    """

    target: int
    similarity: float
    match: Match


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A track, or a single item without one, that a target was compared with.

    rank: from 1. score: higher is more alike. segments: how many of its segments were allowed;
    pairs: times those of the target; counted: the pairs that the score is of. video, camera, track,
    person: as all of its segments have them. start, end, start_s, end_s: from its first to its
    last allowed segment. winners: the best of the pairs counted, best first.
    """

    rank: int
    score: float
    segments: int
    pairs: int
    counted: int
    video: str | None
    camera: int | None
    track: str | None
    person: str | None
    start: datetime | None
    end: datetime | None
    start_s: float | None
    end_s: float | None
    winners: tuple[Winner, ...]


@dataclass(frozen=True, kw_only=True)
class VideoResult:
    """The answer to one video.

    candidates: best first, equal ones by the id of their first item. k: how many were asked for.
    targets: segments of the target. allowed: how many of rows the filter left; of: how many
    candidates these belong to; covered: how many of those had all of their pairs scored; exact:
    whether all had. plan: how, in words. seconds: stage → wall seconds. agreed: which of the
    target's attributes dropped how many rows; None where none were asked.
    """

    candidates: tuple[Candidate, ...]
    k: int
    targets: int
    allowed: int
    rows: int
    of: int
    covered: int
    metric: Metric
    generation: int
    plan: str
    exact: bool
    seconds: Mapping[str, float]
    agreed: Agreed | None = None
