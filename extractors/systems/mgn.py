"""MGN: three branches that look at the whole, at halves and at thirds.

Wang et al., "Learning Discriminative Features with Multiple Granularities for Person
Re-Identification", ACM MM 2018. Published, ResNet-50 at 384 × 128, Market-1501, rank-1 / mAP:
95.7 / 86.9.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from reid_index.errors import UsageError

from ..backbones.resnet import ResNet
from ..pooling import StripePool, make_pooling
from .stripes import NarrowEach, classifiers
from .system import System, Trained

DIM = 256
_CUTS = (1, 2, 3)


class MGN(System):
    """A ResNet up to the first block of layer3 → three branches with the rest of it, each of its
    own → the whole of each, and two and three stripes, each narrowed to dim: searched by all eight
    vectors joined, (B, 8 · dim).

    The three wholes are compared by distance; all eight are told apart by classes. As published,
    but that a whole is compared before and told apart behind a batch normalisation, as in BoT, and
    that the first branch's map is as high as the others' (theirs is half as high, and pooled all
    the same).
    """

    def __init__(self, backbone: nn.Module, *, classes: int, pooling: str, dim: int) -> None:
        super().__init__()
        if not isinstance(backbone, ResNet):
            raise UsageError("mgn splits a ResNet's layers: give it a --backbone resnet…")
        width = dim or DIM
        self.backbone = backbone
        self.tails = nn.ModuleList(backbone.tail() for _ in _CUTS[1:])
        self.pool = make_pooling(pooling)
        self.cuts = nn.ModuleList(
            StripePool(make_pooling(pooling), stripes=count) for count in _CUTS[1:]
        )
        self.narrow = nn.ModuleList(nn.Linear(backbone.channels, width, bias=False) for _ in _CUTS)
        self.necks = nn.ModuleList(nn.BatchNorm1d(width) for _ in _CUTS)
        self.narrow_cuts = nn.ModuleList(
            NarrowEach(count, backbone.channels, width) for count in _CUTS[1:]
        )
        self.classifier = classifiers(len(_CUTS) + sum(_CUTS[1:]), width, classes=classes)
        self.dim = 8 * width
        self._width = width

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return (self._width,) * len(_CUTS)

    def begin(self, state: Mapping[str, Tensor], *, path: Path) -> None:
        super().begin(state, path=path)
        assert isinstance(self.backbone, ResNet)
        for tail in self.tails:
            tail.load_state_dict(self.backbone.tail().state_dict())

    def _vectors(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Those of the wholes, and those of the stripes."""
        assert isinstance(self.backbone, ResNet)
        shared = self.backbone.head(x)
        seen = [self.backbone.rest(shared), *(tail(shared) for tail in self.tails)]
        wholes = [narrow(self.pool(one)) for narrow, one in zip(self.narrow, seen, strict=True)]
        stripes: list[Tensor] = []
        for narrow, cut, one in zip(self.narrow_cuts, self.cuts, seen[1:], strict=True):
            stripes += narrow(cut(one)).unbind(dim=1)
        return wholes, stripes

    def _behind(self, wholes: list[Tensor]) -> list[Tensor]:
        return [neck(one) for neck, one in zip(self.necks, wholes, strict=True)]

    def forward(self, x: Tensor) -> Trained:
        wholes, stripes = self._vectors(x)
        vectors = [*self._behind(wholes), *stripes]
        return Trained(
            metrics=tuple(wholes),
            logits=tuple(head(one) for head, one in zip(self.classifier, vectors, strict=True)),
        )

    def embed(self, x: Tensor) -> Tensor:
        wholes, stripes = self._vectors(x)
        return torch.cat([*self._behind(wholes), *stripes], dim=1)
