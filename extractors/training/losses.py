"""What training makes small: wrong classes, and distances that are the wrong way round."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from reid_index.errors import MissingExtra, UsageError

from ..systems.aligned import aligned_distances
from ..systems.coattention import OTHERS
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

METRICS = ("triplet", "circle", "triplet+circle", "none")


@dataclass(frozen=True, kw_only=True)
class LossPlan:
    """identity: weight of the cross-entropy over persons, with `smoothing` of the labels spread
    over all (Szegedy et al., CVPR 2016, section 7). metric: what compares pairs, one of METRICS:
    "triplet", batch-hard with `margin` in Euclidean distance (Hermans et al., 2017, eq. 5);
    "circle" with relaxation `relax` and scale `gamma` (Sun et al., CVPR 2020, eq. 6 to 8).
    metric_weight: its weight. center: weight of the mean squared distance to a learnt centre of
    each person (Wen et al., ECCV 2016; 0.0005 in BoT), 0 for none. regions: of the cross-entropy
    of pixels, where a system tells regions; attributes: of the sum of those of attributes (source
    002, eq. 16 to 20; it weighs pixels by 0.01, with which a network from scratch finds no regions:
    docs/training.md).

    Of a system with several classifiers, or several vectors to compare, each of these is the mean
    over them, so that a weight means the same for all systems.
    """

    identity: float = 1.0
    smoothing: float = 0.1
    metric: str = "triplet"
    metric_weight: float = 1.0
    margin: float = 0.3
    relax: float = 0.25
    gamma: float = 64.0
    center: float = 0.0
    regions: float = 1.0
    attributes: float = 0.6

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise UsageError(f"there is no loss {self.metric!r}; there are {', '.join(METRICS)}")
        weights = (
            self.identity,
            self.metric_weight,
            self.center,
            self.regions,
            self.attributes,
        )
        if (
            not all(math.isfinite(one) and one >= 0 for one in weights)
            or not 0 <= self.smoothing < 1
        ):
            raise UsageError("weights of losses are from 0 up, smoothing from 0 to below 1")
        if not self.center + self.identity + self.metric_weight * (self.metric != "none") > 0:
            raise UsageError("all losses have the weight 0: nothing would be learnt")


class Losses(nn.Module):
    """forward: what a system yields, the classes int64 (B,), and, where it tells regions, maps of
    them, uint8 (B, h, w) → the sum, and each part of it.

    dims: of the vectors that the system compares. words: of each class, float32 (classes, words),
    shares of 1 for each attribute, 0 for all words of one that is not known. A class that is absent
    from the batch takes no part. For B persons with one crop each there are no pairs to compare,
    and the metric parts are 0. Stripes, where a system yields some, make one more part, "aligned":
    triplets of their shortest-path distances, chosen by the distances of the first vector, as
    AlignedReID has it (arXiv 1711.08184, section 3.2). Pairs of segments make "verification": the
    cross-entropy of "the same" and "not the same", pairs of either kind having half of the weight;
    and as in a search there are OTHERS times as many others, probabilities are learnt as if of such
    (Menon et al., "Long-tail learning via logit adjustment", ICLR 2021, eq. 10).

    Raises UsageError.
    """

    words: Tensor | None

    def __init__(
        self,
        plan: LossPlan,
        *,
        classes: int,
        dims: tuple[int, ...],
        words: NDArray[np.float32] | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        known = None if words is None else torch.from_numpy(words)
        self.register_buffer("words", known, persistent=False)
        names = () if plan.metric == "none" or not plan.metric_weight else plan.metric.split("+")
        distance = LpDistance(normalize_embeddings=False)
        self._miner = BatchHardMiner(distance=distance)
        self._metrics: dict[str, nn.Module] = {}
        if "triplet" in names:
            self._metrics["triplet"] = TripletMarginLoss(
                margin=plan.margin, distance=distance, reducer=MeanReducer()
            )
        if "circle" in names:
            self._metrics["circle"] = CircleLoss(
                m=plan.relax, gamma=plan.gamma, distance=CosineSimilarity(), reducer=MeanReducer()
            )
        if plan.center and not dims:
            raise UsageError("this system compares no vectors, so there are no centres to learn")
        self.centers = nn.Parameter(torch.randn(classes, sum(dims))) if plan.center else None

    def forward(
        self, out: Trained, classes: Tensor, maps: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        plan = self.plan
        metrics = [one.float() for one in out.metrics]
        parts: dict[str, Tensor] = {}
        if plan.identity:
            told = [
                functional.cross_entropy(
                    one.float(), _of(classes, one), label_smoothing=plan.smoothing
                )
                for one in out.logits
            ]
            parts["identity"] = plan.identity * _mean(told)
        mined = [self._miner(one, _of(classes, one)) for one in metrics] if self._metrics else []
        for name, loss in self._metrics.items():
            found = [
                loss(one, _of(classes, one), *([triplets] if name == "triplet" else []))
                for one, triplets in zip(metrics, mined, strict=True)
            ]
            if found:
                parts[name] = plan.metric_weight * _mean(found)
        if out.stripes is not None and mined:
            parts["aligned"] = plan.metric_weight * _aligned(
                out.stripes.float(), mined[0], margin=plan.margin
            )
        if out.pairs is not None:
            parts["verification"] = _verification(out.pairs.float(), _of(classes, out.pairs))
        if self.centers is not None and metrics:
            apart = (torch.cat(metrics, dim=1) - self.centers[classes]).pow(2).sum(dim=1)
            parts["center"] = plan.center * apart.clamp(1e-12, 1e12).mean()
        if out.regions is not None and maps is not None and plan.regions:
            pixels = functional.cross_entropy(out.regions.float(), maps.long())
            parts["regions"] = plan.regions * pixels
        if out.words and self.words is not None and plan.attributes:
            known = self.words[classes]
            each = [-(known * one).sum(dim=1).mean() for one in out.words]
            parts["attributes"] = plan.attributes * _mean(each)
        parts |= out.also
        if not parts:
            raise UsageError(
                "this system compares no vectors, so without classes nothing would be learnt"
            )
        return torch.stack(list(parts.values())).sum(), parts


def _mean(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def _of(classes: Tensor, some: Tensor) -> Tensor:
    """The classes of a tensor's rows: of crops, or of segments of as many crops each."""
    return classes[:: len(classes) // len(some)]


def _verification(pairs: Tensor, classes: Tensor) -> Tensor:
    """The loss of pairs (S, S, 2) of segments; 0 for a kind of which there is none."""
    same = (classes[:, None] == classes[None]).long()
    pairs = pairs + pairs.new_tensor([0.0, math.log(OTHERS)])
    losses = functional.cross_entropy(pairs.flatten(0, 1), same.flatten(), reduction="none")
    others = ~torch.eye(len(classes), dtype=torch.bool, device=classes.device).flatten()
    kinds = [others & (same.flatten() == kind) for kind in (0, 1)]
    means = [losses[kind].sum() / kind.sum().clamp(min=1) for kind in kinds]
    return (means[0] + means[1]) / 2


def _aligned(stripes: Tensor, triplets: tuple[Tensor, Tensor, Tensor], *, margin: float) -> Tensor:
    """The triplet loss (margin in the distance) of stripes (B, P, Dp); 0 without triplets."""
    anchor, same, other = (stripes[rows] for rows in triplets)
    apart = aligned_distances(anchor, same) - aligned_distances(anchor, other)
    return functional.relu(apart + margin).sum() / max(1, len(apart))
