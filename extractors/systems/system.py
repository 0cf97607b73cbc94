"""What all systems have in common, and their backbones by name."""

import re
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from reid_index.errors import UsageError
from reid_index.matcher import Matcher

from ..backbones.convnext import SIZES, ConvNeXt
from ..backbones.osnet import OSNet
from ..backbones.resnet import BLOCKS, ResNet
from ..checkpoint import load_strictly

BACKBONES = (
    "osnet_x0_25, osnet_x0_5, osnet_x0_75, osnet_x1_0 (osnet_ibn_…, osnet_ain_…), resnet18, "
    "resnet34, resnet50, resnet101 (…_ibn, …_x0_25 for a quarter of the channels), convnext_atto, "
    "convnext_femto, convnext_pico, convnext_tiny, convnext_small, convnext_base (…_x0_25, …_simam)"
)
"""Their names, for people."""

_OSNET = re.compile(r"osnet(?:_(?P<norm>ibn|ain))?_x(?P<width>[01]_\d{1,2})")
_RESNET = re.compile(r"resnet(?P<depth>\d{1,4})(?P<ibn>_ibn)?(?:_x(?P<width>0_\d{1,4}))?")
_CONVNEXT = re.compile(r"convnext_(?P<size>[a-z]+)(?:_x(?P<width>0_\d{1,4}))?(?P<simam>_simam)?")


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a system yields for B crops in training.

    metrics: vectors float32 (B, D) each, compared by distance; none where a system only tells
    persons apart. logits: (B, classes) each, one or more. stripes: (B, P, Dp), compared along their
    shortest path, None where they are not. pairs: of S segments, B / S frames each, one segment's
    behind the other's, 2 logits for each target and candidate, (S, S, 2): "not the same", "the
    same"; a segment and itself say nothing. regions: scores of the background and of each region
    at every pixel, (B, 1 + R, h, w), None where none are told. words: logarithms of probabilities
    of attributes' words, (B, words) each, one or more for the same. also: losses of the system's
    own, weighted, by name.

    What has S rows instead of B is of those segments.
    """

    metrics: tuple[Tensor, ...] = ()
    logits: tuple[Tensor, ...]
    stripes: Tensor | None = None
    pairs: Tensor | None = None
    regions: Tensor | None = None
    words: tuple[Tensor, ...] = ()
    also: Mapping[str, Tensor] = field(default_factory=dict)


class System(nn.Module):
    """A network with a training side and a searching side.

    forward: float32 (B, 3, H, W), of_segments (S, T, 3, H, W) → `Trained`. embed: float32
    (B, 3, H, W) → float32 (B, dim), not normalised.
    What only training needs is below `classifier.`: it is not part of a model file.
    """

    backbone: nn.Module
    dim: int
    has_stages = False
    """Whether some weights take no part in some stage of the training."""
    of_segments = False
    """Whether it is trained on segments of T frames."""

    @abstractmethod
    def forward(self, x: Tensor) -> Trained:
        """For the losses."""

    @abstractmethod
    def embed(self, x: Tensor) -> Tensor:
        """For the gallery."""

    @property
    def matcher(self) -> Matcher | None:
        """How the parts of `embed_parts` are compared; None for a system without."""
        return None

    def embed_parts(self, x: Tensor) -> tuple[Tensor, ...]:
        """As `embed`, and the parts float32 (B, P, Dp); of some systems also what is visible, uint8
        (B, P), and probabilities of attributes' words. Only of a system with a matcher."""
        raise UsageError(f"{type(self).__name__} gives no parts")

    def map(self, x: Tensor) -> Tensor:
        """The backbone's map (B, C, H, W)."""
        found: Tensor = self.backbone(x)
        return found

    @property
    def metric_dims(self) -> tuple[int, ...]:
        """Of `Trained.metrics`, which centres need to know."""
        return (self.dim,)

    def begin(self, state: Mapping[str, Tensor], *, path: Path) -> None:
        """Begin with the weights of a backbone, from the file at path. Raises BadWeights where they
        do not fit exactly."""
        load_strictly(self.backbone, state, classifier_prefixes=(), path=path)

    def stage(self, done: float) -> None:
        """Told before each epoch of a training which share of it is done, 0 … 1, and after the last
        one 1; for systems that are trained in stages. A new system is as one that is done."""


def channels_of(backbone: nn.Module) -> int:
    """Of the map that a backbone yields."""
    channels = backbone.channels
    assert isinstance(channels, int)
    return channels


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
        width = float((found["width"] or "1").replace("_", "."))
        if width >= 1 / 16:
            return ConvNeXt(size=found["size"], simam=found["simam"] is not None, width=width)
    raise UsageError(f"there is no backbone {name!r}; there are {BACKBONES}")


def initialise_classifier(layer: nn.Linear) -> nn.Linear:
    """With small weights, so that training begins with equal chances for all classes."""
    nn.init.normal_(layer.weight, std=0.001)
    return layer
