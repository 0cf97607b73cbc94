"""BoT, "bag of tricks": distances before, classes behind a batch normalisation (BNNeck).

Luo et al., "Bag of Tricks and A Strong Baseline for Deep Person Re-identification", CVPRW 2019,
section 3.5 and figure 4.
"""

from torch import Tensor, nn

from ..pooling import make_pooling
from .system import System, Trained, channels_of, initialise_classifier


class BoT(System):
    """backbone → pooling → linear to dim, if that is not 0 → [f] → BNNeck → [f'] → classes.

    Triplets compare f, classes and galleries f'. neck: False leaves the BNNeck out, so that f' = f.
    """

    def __init__(
        self, backbone: nn.Module, *, classes: int, pooling: str, dim: int, neck: bool
    ) -> None:
        super().__init__()
        channels = channels_of(backbone)
        self.backbone = backbone
        self.pool = make_pooling(pooling)
        self.dim = dim or channels
        self.reduction = nn.Linear(channels, dim, bias=False) if dim else nn.Identity()
        self.bottleneck = nn.BatchNorm1d(self.dim) if neck else nn.Identity()
        if neck:
            # So that the classes' borders lie around the origin (section 3.5).
            self.bottleneck.bias.requires_grad_(False)
        self.classifier: nn.Module = initialise_classifier(nn.Linear(self.dim, classes, bias=False))

    def _feature(self, x: Tensor) -> Tensor:
        out: Tensor = self.reduction(self.pool(self.backbone(x)))
        return out

    def forward(self, x: Tensor) -> Trained:
        feature = self._feature(x)
        return Trained(metrics=(feature,), logits=(self.classifier(self.bottleneck(feature)),))

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.bottleneck(self._feature(x))
        return out
