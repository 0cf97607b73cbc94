"""Answers to videos, made by hand."""

from dataclasses import fields
from datetime import UTC, datetime, timedelta

from reid_index.metric import Metric
from reid_index.search.result import Match
from reid_index.search.video_result import Candidate, VideoResult, Winner

NOON = datetime(2024, 5, 3, 12, tzinfo=UTC)


def match(item, **values):
    unknown = dict.fromkeys(each.name for each in fields(Match))
    known = {"item": item, "rank": 1, "source": f"t/{item}.jpg", "root": "/r", "similarity": 0.5}
    return Match(**(unknown | known | {"extra": {}} | values))


def winner(target, similarity, item, **values):
    return Winner(target=target, similarity=similarity, match=match(item, **values))


def candidate(rank, *winners, **values):
    unknown = dict.fromkeys(each.name for each in fields(Candidate))
    known = {"score": 10.0 - rank, "segments": 3, "pairs": 6, "counted": 2, "winners": winners}
    return Candidate(**(unknown | known | {"rank": rank} | values))


def result(*candidates, k=None, **values):
    known = {
        "candidates": candidates,
        "k": len(candidates) if k is None else k,
        "targets": 2,
        "allowed": 50,
        "rows": 60,
        "of": len(candidates),
        "covered": len(candidates),
        "metric": Metric.COSINE,
        "generation": 1,
        "plan": "all segments",
        "exact": True,
        "seconds": {"search": 0.25},
    }
    return VideoResult(**(known | values))


def at(seconds):
    """Start and end of something that is three seconds long, by the clock."""
    start = NOON + timedelta(seconds=seconds)
    return {"start": start, "end": start + timedelta(seconds=3)}


def in_video(seconds, **values):
    return {"start_s": seconds, "end_s": seconds + 3.0, **values}
