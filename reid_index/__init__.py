"""Search among people: galleries of person vectors with metadata, and queries on them.

Names are loaded when first used, so that `import reid_index` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import ReidIndexError
    from .evaluation.decide import SamePairs, group_people, same_person
    from .evaluation.evaluate import evaluate_distances
    from .filters.agreement import Agreed, Agreement, Compared
    from .fingerprint import Fingerprint
    from .gallery import Gallery
    from .matcher import Matcher
    from .metric import Metric
    from .reranking.rerank import Reranking, rerank_distances, rerank_joint
    from .search.knn import Neighbours
    from .search.result import Match, Result
    from .search.video_result import Candidate, VideoResult, Winner
    from .store.frames import SegmentFrames
    from .store.shard import Shard, open_shard, write_shard
    from .store.vectors import ArrayStream
    from .upkeep.verify import repair_gallery, verify_gallery

__all__ = [
    "Agreed",
    "Agreement",
    "ArrayStream",
    "Candidate",
    "Compared",
    "Fingerprint",
    "Gallery",
    "Match",
    "Matcher",
    "Metric",
    "Neighbours",
    "ReidIndexError",
    "Reranking",
    "Result",
    "SamePairs",
    "SegmentFrames",
    "Shard",
    "VideoResult",
    "Winner",
    "evaluate_distances",
    "group_people",
    "open_shard",
    "repair_gallery",
    "rerank_distances",
    "rerank_joint",
    "same_person",
    "verify_gallery",
    "write_shard",
]

_HOME = {
    "Agreed": "filters.agreement",
    "Agreement": "filters.agreement",
    "ArrayStream": "store.vectors",
    "Candidate": "search.video_result",
    "Compared": "filters.agreement",
    "Fingerprint": "fingerprint",
    "Gallery": "gallery",
    "Match": "search.result",
    "Matcher": "matcher",
    "Metric": "metric",
    "Neighbours": "search.knn",
    "ReidIndexError": "errors",
    "Reranking": "reranking.rerank",
    "Result": "search.result",
    "SamePairs": "evaluation.decide",
    "SegmentFrames": "store.frames",
    "Shard": "store.shard",
    "VideoResult": "search.video_result",
    "Winner": "search.video_result",
    "evaluate_distances": "evaluation.evaluate",
    "group_people": "evaluation.decide",
    "open_shard": "store.shard",
    "repair_gallery": "upkeep.verify",
    "rerank_distances": "reranking.rerank",
    "rerank_joint": "reranking.rerank",
    "same_person": "evaluation.decide",
    "verify_gallery": "upkeep.verify",
    "write_shard": "store.shard",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
