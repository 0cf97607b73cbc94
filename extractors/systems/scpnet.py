"""SCPNet: stripes teach the channels of the whole where to look.

Fan et al., "SCPNet: Spatial-Channel Parallelism Network for Joint Holistic and Partial Person
Re-Identification", ACCV 2018. Published, Market-1501: rank-1 94.1.
"""

import torch
from torch import Tensor, nn

from reid_index.errors import UsageError

from ..pooling import StripePool, make_pooling
from .bot import BoT
from .stripes import NarrowEach
from .system import Trained, channels_of

STRIPES = 4
DIM = 512
WEIGHT = 10.0
"""R and λ of section 4.2."""


class SCPNet(BoT):
    """BoT whose vector f consists of R groups; in training, each is drawn to what one stripe of the
    map shows: λ times the mean squared difference of their numbers. Searched as BoT: by the whole
    alone.
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
        super().__init__(backbone, classes=classes, pooling=pooling, dim=dim or DIM, neck=neck)
        self.stripes = stripes or STRIPES
        if self.dim % self.stripes:
            raise UsageError(
                f"{self.dim} dimensions cannot be shared among {self.stripes} stripes: give a "
                "--dim that they divide"
            )
        self.cut = StripePool(make_pooling(pooling), stripes=self.stripes)
        each = NarrowEach(self.stripes, channels_of(backbone), self.dim // self.stripes)
        self.classifier = nn.ModuleList([self.classifier, each])

    def forward(self, x: Tensor) -> Trained:
        seen = self.map(x)
        assert isinstance(self.classifier, nn.ModuleList)
        tell, stripes = self.classifier
        feature = self.reduction(self.pool(seen))
        groups = torch.relu(feature).reshape(len(x), self.stripes, -1)
        apart = (groups - stripes(self.cut(seen))).pow(2)
        return Trained(
            metrics=(feature,),
            logits=(tell(self.bottleneck(feature)),),
            also={"stripes": WEIGHT * apart.mean()},
        )
