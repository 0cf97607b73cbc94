"""A backbone with one fully connected layer behind it, as OSNet was published (Zhou et al., ICCV
2019, table 1)."""

from torch import Tensor, nn

from ..pooling import make_pooling
from .system import System, Trained, channels_of, initialise_classifier

_DIM = 512


class Plain(System):
    """backbone → pooling → linear to dim → batch normalisation → ReLU: compared by distance, told
    apart by classes, and searched. dim: 512 where it is 0."""

    def __init__(self, backbone: nn.Module, *, classes: int, pooling: str, dim: int) -> None:
        super().__init__()
        channels = channels_of(backbone)
        self.backbone = backbone
        self.pool = make_pooling(pooling)
        self.dim = dim or _DIM
        self.fc = nn.Sequential(nn.Linear(channels, self.dim), nn.BatchNorm1d(self.dim), nn.ReLU())
        self.classifier = initialise_classifier(nn.Linear(self.dim, classes))

    def forward(self, x: Tensor) -> Trained:
        feature = self.embed(x)
        return Trained(metrics=(feature,), logits=(self.classifier(feature),))

    def embed(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.pool(self.backbone(x)))
        return out
