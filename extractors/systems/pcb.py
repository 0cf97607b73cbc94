"""PCB, a classifier for each horizontal stripe, and RPP, which draws the stripes' borders anew.

Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling (and A Strong
Convolutional Baseline)", ECCV 2018. Published, ResNet-50, Market-1501, rank-1 / mAP: PCB 92.3 /
77.4, with RPP 93.8 / 81.6.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..pooling import StripePool, make_pooling
from .stripes import NarrowEach, classifiers
from .system import System, Trained, channels_of

STRIPES = 6
DIM = 256
"""Section 4.2 and figure 3."""

VARIANTS = ("own", "mean", "shared")

_UNREFINED, _INDUCED = 0.5, 0.6
"""Shares of a training after which the part classifier alone is learnt, and then everything."""


class PCB(System):
    """backbone → P stripes → pooled → narrowed to dim each → a classifier each; searched by all P
    vectors joined, (B, P · dim).

    variant (table 2 of the paper): "own", PCB itself; "mean", variant 1: one classifier on the mean
    of the stripes' vectors; "shared", variant 2: one classifier for all stripes. No vectors are
    compared in training.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        classes: int,
        pooling: str,
        stripes: int,
        dim: int,
        variant: str = "own",
    ) -> None:
        super().__init__()
        channels = channels_of(backbone)
        self.stripes, width, self.variant = stripes or STRIPES, dim or DIM, variant
        self.backbone = backbone
        self.pool = StripePool(make_pooling(pooling), stripes=self.stripes)
        self.narrow = NarrowEach(self.stripes, channels, width)
        self.classifier = classifiers(
            self.stripes if variant == "own" else 1, width, classes=classes
        )
        self.dim = self.stripes * width

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return ()

    def pooled(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) → what is seen of each part, (B, P, C)."""
        found: Tensor = self.pool(x)
        return found

    def forward(self, x: Tensor) -> Trained:
        seen = self.map(x)
        return self.told(seen, self.narrow(self.pooled(seen)))

    def told(self, _seen: Tensor, narrow: Tensor) -> Trained:
        """What the losses get, of the map (B, C, H, W) and the stripes' vectors (B, P, dim)."""
        if self.variant == "mean":
            return Trained(logits=(self.classifier[0](narrow.mean(dim=1)),))
        stripes = narrow.unbind(dim=1)
        heads = list(self.classifier) * (1 if self.variant == "own" else self.stripes)
        return Trained(logits=tuple(head(one) for head, one in zip(heads, stripes, strict=True)))

    def embed(self, x: Tensor) -> Tensor:
        narrow: Tensor = self.narrow(self.pooled(self.map(x)))
        return narrow.flatten(1)


class RPP(PCB):
    """PCB, then refined part pooling: each place of the map belongs to each part by some share, and
    a part is the mean of all places weighted by these (eq. 1 to 3).

    Trained in the steps of algorithm 1: half of the training is that of PCB; then, for a tenth of
    it, the part classifier alone learns, through what was learnt before, which stays as it is; then
    everything does.
    """

    has_stages = True

    def __init__(
        self, backbone: nn.Module, *, classes: int, pooling: str, stripes: int, dim: int
    ) -> None:
        super().__init__(backbone, classes=classes, pooling=pooling, stripes=stripes, dim=dim)
        self.parts = nn.Conv2d(channels_of(backbone), self.stripes, 1)
        nn.init.normal_(self.parts.weight, std=0.001)
        nn.init.zeros_(self.parts.bias)  # type: ignore[arg-type]
        self._done = 1.0

    def stage(self, done: float) -> None:
        self._done = done

    def shares(self, x: Tensor) -> Tensor:
        """A map (B, C, H, W) → how much of each place belongs to each part, (B, P, H, W), which add
        up to 1 at each place (eq. 1)."""
        return torch.softmax(self.parts(x), dim=1)

    def pooled(self, x: Tensor) -> Tensor:
        if self._done < _UNREFINED:
            return super().pooled(x)
        shares = self.shares(x).flatten(2)
        sums = shares @ x.flatten(2).transpose(1, 2)
        return sums / shares.sum(dim=2, keepdim=True).clamp(min=1e-6)

    def forward(self, x: Tensor) -> Trained:
        if not _UNREFINED <= self._done < _INDUCED:
            return super().forward(x)
        with torch.no_grad():
            seen = self.map(x)
        narrow = _held(self.narrow, self.pooled(seen))
        heads = zip(self.classifier, narrow.unbind(dim=1), strict=True)
        return Trained(logits=tuple(_held(head, one) for head, one in heads))


def _held(module: nn.Module, x: Tensor) -> Tensor:
    """What a module gives, with weights that do not learn from it."""
    weights: Mapping[str, Tensor] = {name: one.detach() for name, one in module.named_parameters()}
    found: Tensor = functional_call(module, dict(weights), (x,))
    return found
