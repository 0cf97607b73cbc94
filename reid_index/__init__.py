"""Search among people: galleries of person vectors with metadata, and queries on them.

Names are loaded when first used, so that `import reid_index` costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .decide import SamePairs, group_people, same_person
    from .errors import ReidIndexError
    from .evaluate import evaluate_distances
    from .fingerprint import Fingerprint
    from .gallery import Gallery
    from .knn import Neighbours
    from .matcher import Matcher
    from .metric import Metric
    from .rerank import Reranking, rerank_distances, rerank_joint
    from .result import Match, Result
    from .shard import Shard, open_shard, write_shard
    from .vectors import ArrayStream
    from .verify import repair_gallery, verify_gallery

__all__ = [
    "ArrayStream",
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
    "Shard",
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
    "ArrayStream": "vectors",
    "Fingerprint": "fingerprint",
    "Gallery": "gallery",
    "Match": "result",
    "Matcher": "matcher",
    "Metric": "metric",
    "Neighbours": "knn",
    "ReidIndexError": "errors",
    "Reranking": "rerank",
    "Result": "result",
    "SamePairs": "decide",
    "Shard": "shard",
    "evaluate_distances": "evaluate",
    "group_people": "decide",
    "open_shard": "shard",
    "repair_gallery": "verify",
    "rerank_distances": "rerank",
    "rerank_joint": "rerank",
    "same_person": "decide",
    "verify_gallery": "verify",
    "write_shard": "shard",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
