"""AlignedReID++: a whole, and stripes that are compared along their shortest path.

Zhang et al., "AlignedReID: Surpassing Human-Level Performance in Person Re-Identification",
arXiv 1711.08184; Luo et al., "AlignedReID++: Dynamically matching local information for person
re-identification", Pattern Recognition 2019. Published, ResNet-50 at 256 × 128, Market-1501,
rank-1 / mAP: baseline 86.4 / 70.9, AlignedReID++ 91.0 / 77.6, with label smoothing 91.8 / 79.1,
re-ranked 92.8 / 89.4.
"""

import torch
from torch import Tensor, nn

from reid_index.matcher import ALIGNED, Matcher

from ..pooling import StripePool, make_pooling
from .bot import BoT
from .stripes import unit
from .system import Trained, channels_of

STRIPES = 8
DIM = 128
"""Of the stripes: section 4.1 of the first paper."""


class Aligned(BoT):
    """BoT beside P stripes of the same map, from the top, each narrowed to 128 by one layer that
    all share.

    The stripes learn by triplets alone, which are chosen by the whole's distances, and they are
    compared by `aligned_distances`. Searched by the whole, and of those found by both.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        classes: int,
        pooling: str,
        stripes: int,
        dim: int,
        neck: bool,
    ) -> None:
        super().__init__(backbone, classes=classes, pooling=pooling, dim=dim, neck=neck)
        self.stripes = stripes or STRIPES
        self.cut = StripePool(make_pooling(pooling), stripes=self.stripes)
        self.narrow = nn.Linear(channels_of(backbone), DIM, bias=False)
        self.norm = nn.BatchNorm1d(DIM)

    @property
    def matcher(self) -> Matcher:
        """The shortest path counts as the mean of its steps, of which there are 2P − 1. Published
        is their sum; by that, stripes that are not yet learnt well drown the whole (docs/systems.md
        has figures)."""
        return Matcher(name=ALIGNED, weight=1 / (2 * self.stripes - 1))

    def _local(self, seen: Tensor) -> Tensor:
        # Centred, so that stripes of other body parts are about equally far from each other: a
        # path has to cross some of them.
        narrow: Tensor = self.norm(self.narrow(self.cut(seen)).flatten(0, 1))
        return unit(narrow.reshape(len(seen), self.stripes, DIM))

    def forward(self, x: Tensor) -> Trained:
        seen = self.map(x)
        feature = self.reduction(self.pool(seen))
        return Trained(
            metrics=(feature,),
            logits=(self.classifier(self.bottleneck(feature)),),
            stripes=self._local(seen),
        )

    def embed_parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        seen = self.map(x)
        whole = self.bottleneck(self.reduction(self.pool(seen)))
        return whole, self._local(seen)


def aligned_distances(a: Tensor, b: Tensor) -> Tensor:
    """Distances (N,) of stripes (N, P, D) and (N, P, D), pair by pair: eq. 1 and 2 of the first
    paper, which can be learnt from.

    Two stripes are tanh(x / 2) apart, x their Euclidean distance; the distance of two pictures is
    the least sum along a path from both first stripes to both last ones, one step down in either
    at a time.
    """
    apart = torch.tanh(_euclidean(a, b) / 2)
    count = apart.shape[1]
    row: list[Tensor] = []
    for i in range(count):
        above, row = row, []
        for j in range(count):
            before = [row[j - 1]] if j else []
            before += [above[j]] if i else []
            here = apart[:, i, j]
            if len(before) == 2:
                here = here + torch.minimum(*before)
            elif before:
                here = here + before[0]
            row.append(here)
    return row[-1]


def _euclidean(a: Tensor, b: Tensor) -> Tensor:
    """(N, P, D), (N, P, D) → (N, P, P); never quite 0, where it could not be learnt from."""
    squares = (a * a).sum(dim=2)[:, :, None] + (b * b).sum(dim=2)[:, None, :]
    return (squares - 2 * a @ b.transpose(1, 2)).clamp(min=1e-12).sqrt()
