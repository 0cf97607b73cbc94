"""ConvNeXt-AP: a ConvNeXt whose blocks weigh each place and channel, with refined stripes.

The paper of that name (ConvNeXt, SimAM in each block, PCB with RPP, circle loss). Published,
ConvNeXt-B, rank-1 / mAP: Market-1501 95.2 / 86.5 (ConvNeXt alone 92.9 / 81.7, with SimAM 93.5 /
82.6, with PCB and RPP 94.7 / 85.1), DukeMTMC-reID 88.2 / 77.3, CUHK03 76.9 / 74.8.
"""

from dataclasses import replace

from torch import Tensor, nn

from reid_index.errors import UsageError

from ..backbones.convnext import ConvNeXt
from ..pooling import make_pooling
from .pcb import RPP
from .system import Trained, channels_of


class ConvNeXtAP(RPP):
    """RPP on a ConvNeXt with SimAM, and the map's mean compared by distance: `--loss
    triplet+circle`. Searched by the stripes' vectors joined."""

    def __init__(
        self, backbone: nn.Module, *, classes: int, pooling: str, stripes: int, dim: int
    ) -> None:
        if not isinstance(backbone, ConvNeXt) or not backbone.simam:
            raise UsageError("convnext_ap wants a --backbone convnext_…_simam")
        super().__init__(backbone, classes=classes, pooling=pooling, stripes=stripes, dim=dim)
        self.whole = make_pooling(pooling)

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return (channels_of(self.backbone),)

    def told(self, seen: Tensor, narrow: Tensor) -> Trained:
        return replace(super().told(seen, narrow), metrics=(self.whole(seen),))
