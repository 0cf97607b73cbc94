"""ICNN: stripes and the whole, joined.

As the lecture of Luo Hao on local features describes it ("PCB plus a global branch with a triplet
loss"); published, Market-1501, rank-1 / mAP: 92.1 / 79.0.
"""

import torch
from torch import Tensor, nn

from ..pooling import StripePool, make_pooling
from .bot import BoT
from .pcb import DIM, STRIPES
from .stripes import NarrowEach, classifiers, unit
from .system import Trained, channels_of


class ICNN(BoT):
    """BoT, its vector of 2 · dim, beside the stripes of PCB, P of dim each, on the same map.

    The whole is compared and told apart, the stripes are told apart. Searched by both, each of
    length 1, joined: (B, P · dim + 2 · dim), whose cosine is the mean of both cosines.
    """

    def __init__(
        self, backbone: nn.Module, *, classes: int, pooling: str, stripes: int, dim: int, neck: bool
    ) -> None:
        width, count = dim or DIM, stripes or STRIPES
        super().__init__(backbone, classes=classes, pooling=pooling, dim=2 * width, neck=neck)
        self.cut = StripePool(make_pooling(pooling), stripes=count)
        self.narrow = NarrowEach(count, channels_of(backbone), width)
        of_stripes = classifiers(count, width, classes=classes)
        self.classifier = nn.ModuleList([self.classifier, *of_stripes])
        self.dim = (count + 2) * width
        self._whole = 2 * width

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return (self._whole,)

    def forward(self, x: Tensor) -> Trained:
        seen = self.map(x)
        whole = self.reduction(self.pool(seen))
        vectors = (self.bottleneck(whole), *self.narrow(self.cut(seen)).unbind(dim=1))
        assert isinstance(self.classifier, nn.ModuleList)
        heads = zip(self.classifier, vectors, strict=True)
        return Trained(metrics=(whole,), logits=tuple(head(one) for head, one in heads))

    def embed(self, x: Tensor) -> Tensor:
        seen = self.map(x)
        whole = self.bottleneck(self.reduction(self.pool(seen)))
        return torch.cat([unit(self.narrow(self.cut(seen)).flatten(1)), unit(whole)], dim=1)
