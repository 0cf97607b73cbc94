"""What `reid evaluate` is asked."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reid_index import Reranking
from reid_index.evaluation.fusion import Fusion

if TYPE_CHECKING:
    from extractors.preprocess import Preprocess, Size
    from extractors.weighting import Weighting

    from .attribute_options import AutoFilter


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is to be evaluated, as `reid evaluate` takes it; see its options."""

    gallery: Path
    queries: Path
    protocol: str = "market1501"
    split: Path | None = None
    split_number: int = 0
    extractor: str | None = None
    weights: Path | None = None
    preprocess: "Preprocess | Size | None" = None
    weighting: "Weighting | None" = None
    device: str = "cpu"
    rerank: str | None = None
    reranking: Reranking = field(default_factory=Reranking)
    ap_rule: str | None = None
    unanswerable: str | None = None
    at: int | None = None
    unlabelled: str = "refuse"
    global_only: bool = False
    others: tuple[tuple[Path, Path], ...] = ()
    fusion: Fusion = field(default_factory=lambda: Fusion(method="rrf"))
    aggregate: str | None = None
    proportion: float | None = None
    segment: int | None = None
    stride: int | None = None
    auto_filter: "AutoFilter | None" = None
    attributes: Path | None = None
