"""What training makes small: wrong classes, and distances that are the wrong way round."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from reid_index.errors import MissingExtra, UsageError

from ..systems.system import Trained

try:
    from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
    from pytorch_metric_learning.losses import CircleLoss, TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner
    from pytorch_metric_learning.reducers import MeanReducer
except ImportError:
    raise MissingExtra(
        "training takes its losses from pytorch-metric-learning: pip install 'reid-index[train]'"
    ) from None

METRICS = ("triplet", "circle", "none")


@dataclass(frozen=True, kw_only=True)
class LossPlan:
    """identity: weight of the cross-entropy over persons, with `smoothing` of the labels spread
    over all (Szegedy et al., CVPR 2016, section 7). metric: what compares pairs, one of METRICS:
    "triplet", batch-hard with `margin` in Euclidean distance (Hermans et al., 2017, eq. 5);
    "circle" with relaxation `relax` and scale `gamma` (Sun et al., CVPR 2020, eq. 6 to 8).
    metric_weight: its weight. center: weight of the mean squared distance to a learnt centre of
    each person (Wen et al., ECCV 2016; 0.0005 in BoT), 0 for none.
    """

    identity: float = 1.0
    smoothing: float = 0.1
    metric: str = "triplet"
    metric_weight: float = 1.0
    margin: float = 0.3
    relax: float = 0.25
    gamma: float = 64.0
    center: float = 0.0

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(f"there is no loss {self.metric!r}; there are {', '.join(METRICS)}")
        weights = (self.identity, self.metric_weight, self.center)
        if (
            not all(math.isfinite(one) and one >= 0 for one in weights)
            or not 0 <= self.smoothing < 1
        ):
            raise UsageError("weights of losses are from 0 up, smoothing from 0 to below 1")
        if not self.center + self.identity + self.metric_weight * (self.metric != "none") > 0:
            raise UsageError("all losses have the weight 0: nothing would be learnt")


class Losses(nn.Module):
    """forward: what a system yields and the classes int64 (B,) → the sum, and each part of it.

    A class that is absent from the batch takes no part. For B persons with one crop each there are
    no pairs to compare, and the metric part is 0.
    """

    def __init__(self, plan: LossPlan, *, classes: int, dim: int) -> None:
        super().__init__()
        self.plan = plan
        self._miner: BatchHardMiner | None = None
        self._metric: nn.Module | None = None
        if plan.metric == "triplet":
            distance = LpDistance(normalize_embeddings=False)
            self._miner = BatchHardMiner(distance=distance)
            self._metric = TripletMarginLoss(
                margin=plan.margin, distance=distance, reducer=MeanReducer()
            )
        elif plan.metric == "circle":
            self._metric = CircleLoss(
                m=plan.relax, gamma=plan.gamma, distance=CosineSimilarity(), reducer=MeanReducer()
            )
        self.centers = nn.Parameter(torch.randn(classes, dim)) if plan.center else None

    def forward(self, out: Trained, classes: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        plan = self.plan
        logits, metric = out.logits.float(), out.metric.float()
        parts: dict[str, Tensor] = {}
        if plan.identity:
            smoothed = functional.cross_entropy(logits, classes, label_smoothing=plan.smoothing)
            parts["identity"] = plan.identity * smoothed
        if self._metric is not None and plan.metric_weight:
            mined = () if self._miner is None else (self._miner(metric, classes),)
            parts[plan.metric] = plan.metric_weight * self._metric(metric, classes, *mined)
        if self.centers is not None:
            apart = (metric - self.centers[classes]).pow(2).sum(dim=1)
            parts["center"] = plan.center * apart.clamp(1e-12, 1e12).mean()
        return torch.stack(list(parts.values())).sum(), parts
