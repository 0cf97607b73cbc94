"""What all systems have in common, and their backbones by name."""

import re
from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from reid_index.errors import UsageError

from ..backbones.convnext import SIZES, ConvNeXt
from ..backbones.osnet import OSNet
from ..backbones.resnet import BLOCKS, ResNet

BACKBONES = (
    "osnet_x0_25, osnet_x0_5, osnet_x0_75, osnet_x1_0 (osnet_ibn_…, osnet_ain_…), resnet18, "
    "resnet34, resnet50, resnet101 (…_ibn, …_x0_25 for a quarter of the channels), convnext_tiny, "
    "convnext_small, convnext_base"
)
"""Their names, for people."""

_OSNET = re.compile(r"osnet(?:_(?P<norm>ibn|ain))?_x(?P<width>[01]_\d{1,2})")
_RESNET = re.compile(r"resnet(?P<depth>\d{1,4})(?P<ibn>_ibn)?(?:_x(?P<width>0_\d{1,4}))?")
_CONVNEXT = re.compile(r"convnext_(?P<size>[a-z]+)")


@dataclass(frozen=True)
class Trained:
    """What a system yields for B crops in training.

    metric: float32 (B, D), what is compared by distance. logits: (B, classes).
    """

    metric: Tensor
    logits: Tensor


class System(nn.Module):
    """A network with a training side and a searching side.

    forward: float32 (B, 3, H, W) → `Trained`. embed: the same → float32 (B, dim), not normalised.
    What only training needs is below `classifier.`: it is not part of a model file.
    """

    dim: int

    @abstractmethod
    def forward(self, x: Tensor) -> Trained:
        """For the losses."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """For the gallery."""


def make_backbone(name: str) -> "OSNet | ResNet | ConvNeXt":
    """A new backbone that yields a map and says its `channels`; see BACKBONES for the names.

    ResNets have last stride 1. Raises UsageError.
    """
    if found := _OSNET.fullmatch(name):
        width = float(found["width"].replace("_", "."))
        return OSNet(width=width, norm=found["norm"] or "batch", headless=True)
    if found := _RESNET.fullmatch(name):
        width = float((found["width"] or "1").replace("_", "."))
        if int(found["depth"]) in BLOCKS and width >= 1 / 16:
            return ResNet(depth=int(found["depth"]), ibn=found["ibn"] is not None, width=width)
    if (found := _CONVNEXT.fullmatch(name)) and found["size"] in SIZES:
        return ConvNeXt(size=found["size"])
    raise UsageError(f"there is no backbone {name!r}; there are {BACKBONES}")


def initialise_classifier(layer: nn.Linear) -> nn.Linear:
    """With small weights, so that training begins with equal chances for all classes."""
    nn.init.normal_(layer.weight, std=0.001)
    return layer
