"""ICNN: stripes and the whole, joined.

As the lecture of Luo Hao on local features describes it ("PCB plus a global branch with a triplet
loss"); published, Market-1501, rank-1 / mAP: 92.1 / 79.0.
"""

import torch
from torch import Tensor, nn

from ..pooling import make_pooling
from .pcb import PCB
from .stripes import Narrow, unit
from .system import Trained, channels_of, initialise_classifier


class ICNN(PCB):
    """PCB beside a global branch: pooling → linear to 2 · dim → triplets and classes.

    Searched by both, each of length 1, joined: (B, P · dim + 2 · dim), whose cosine is the mean of
    both cosines.
    """

    def __init__(
        self, backbone: nn.Module, *, classes: int, pooling: str, stripes: int, dim: int
    ) -> None:
        super().__init__(backbone, classes=classes, pooling=pooling, stripes=stripes, dim=dim)
        width = self.dim // self.stripes
        self.whole = make_pooling(pooling)
        self.narrow_whole = Narrow(channels_of(backbone), 2 * width)
        self.classifier.append(initialise_classifier(nn.Linear(2 * width, classes)))
        self.dim += 2 * width

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return (self.narrow_whole.linear.out_features,)

    def forward(self, x: Tensor) -> Trained:
        seen = self.map(x)
        whole = self.narrow_whole(self.whole(seen))
        vectors = (*self.narrow(self.pooled(seen)).unbind(dim=1), whole)
        logits = tuple(head(one) for head, one in zip(self.classifier, vectors, strict=True))
        return Trained(metrics=(whole,), logits=logits)

    def embed(self, x: Tensor) -> Tensor:
        seen = self.map(x)
        whole = self.narrow_whole(self.whole(seen))
        return torch.cat([unit(self.narrow(self.pooled(seen)).flatten(1)), unit(whole)], dim=1)
