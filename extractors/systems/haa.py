"""HAA, "head-shoulder adaptive attention": what the whole shows, and what head and shoulders show
where clothes tell nobody apart, each by as much as the crop calls for.

US patent 12,394,239 B2 (source 000) and the same authors' paper: Xu et al., "Black Re-ID: A
Head-shoulder Descriptor for the Challenging Problem of Person Re-Identification", ACM MM 2020,
arXiv 2008.08528. Published, ResNet-50, rank-1 / mAP: Black-reID, black group 86.7 / 79.0, with MGN
in place of the global model 91.0 / 83.8; Market-1501 95.0 / 87.1 and 95.8 / 89.5.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..checkpoint import load_strictly
from ..conditions import measure_inputs
from ..pooling import GeM, make_pooling
from ..preprocess import MEAN, STD
from .stripes import unit
from .system import System, Trained, channels_of, initialise_classifier, make_backbone

DIM = 256
PARTS = 3

LOCATOR = "resnet18_x0_125"
"""The patent has a ResNet-18 with all its channels; a box of four numbers needs fewer."""

SIDE = 96
"""Pixels of head and shoulders, squared: 6 rows of map at 1/16, 3 at 1/32, so that 3 parts fit."""

LEAST = 0.125
"""Of the crop: the least width and height of a box."""

BOX_HEIGHT, BOX_WIDTH = 1 / 3, 2 / 3
"""Of the crop: those of `weak_boxes`."""

_CORNERS = 0.1
"""The distance, of the crop, from which on the loss of a corner is no longer squared."""

_LESS = 0.999
"""A factor of w_g where it has to be below ½: rounding could make it ½."""

_ROWS, _COLUMNS, _EDGE = 8, 32, 2
_CENTRED = 0.01


class HAA(System):
    """Three networks, and the weights of what two of them see.

    global: backbone → pooling → linear to dim → [f_g] → BNNeck → [f_g'].
    locator: LOCATOR → means of 4 × 2 cells → linear → the box of head and shoulders.
    head-shoulder: that box, resized → a backbone of its own, `shoulders` → 3 horizontal parts, each
    through a spatial and a channel attention of its own → GeM → linear to dim; the 3 vectors
    joined → [f_h] → BNNeck → [f_h'].
    weights: see `Weights`; of f_g', from which the global model does not learn them.

    f = [w_g · f_g'/|f_g'| ; w_h · f_h'/|f_h'|], (B, 4 · dim), is what galleries hold. In training
    f_g, f_h and f are compared, and f_g', f_h' and f told apart; of f, with both features held, so
    that only the weights learn from it (and its classifier, behind a batch normalisation).

    The box is not learnt from what is seen in it: gradients through the cut would move it to
    whatever tells the persons of the training apart, bags and backgrounds too, and it is to stay on
    head and shoulders. It is learnt from `weak_boxes`, the weights' first layer from
    `conditions.measure_inputs`; both need no labels, and inputs normalised by preprocess.MEAN, STD.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        shoulders: nn.Module,
        classes: int,
        pooling: str,
        dim: int,
    ) -> None:
        super().__init__()
        channels = channels_of(backbone)
        width = dim or DIM
        self.backbone = backbone
        self.pool = make_pooling(pooling)
        self.reduction = nn.Linear(channels, width, bias=False)
        self.neck = _neck(width)
        self.locator = Locator()
        self.shoulders = shoulders
        self.parts = nn.ModuleList(_Part(channels_of(shoulders), width) for _ in range(PARTS))
        self.neck_shoulders = _neck(PARTS * width)
        self.weights = Weights(width)
        self.dim = (1 + PARTS) * width
        self._width = width
        self.classifier = nn.ModuleDict(
            {
                "whole": _classifier(width, classes),
                "shoulders": _classifier(PARTS * width, classes),
                "joined": nn.Sequential(_neck(self.dim), _classifier(self.dim, classes)),
            }
        )

    @property
    def metric_dims(self) -> tuple[int, ...]:
        return (self._width, PARTS * self._width, self.dim)

    def begin(self, state: Mapping[str, Tensor], *, path: Path) -> None:
        super().begin(state, path=path)
        load_strictly(self.shoulders, state, classifier_prefixes=(), path=path)

    def _whole(self, x: Tensor) -> Tensor:
        """f_g."""
        found: Tensor = self.reduction(self.pool(self.map(x)))
        return found

    def _shoulder(self, x: Tensor, boxes: Tensor) -> Tensor:
        """f_h."""
        seen = self.shoulders(cut(x, boxes, height=SIDE, width=SIDE))
        parts = zip(self.parts, seen.chunk(PARTS, dim=2), strict=True)
        return torch.cat([part(one) for part, one in parts], dim=1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """f_g' (B, dim) and f_h' (B, 3 · dim), each of length 1, and the adaptive w_g (B, 1)."""
        whole = self.neck(self._whole(x))
        shoulder = self.neck_shoulders(self._shoulder(x, self.locator(x)))
        return unit(whole), unit(shoulder), self.weights(whole)[1]

    def embed(self, x: Tensor) -> Tensor:
        whole, shoulder, w_g = self.features(x)
        return joined(whole, shoulder, w_g, 1 - w_g)

    def forward(self, x: Tensor) -> Trained:
        assert isinstance(self.classifier, nn.ModuleDict)
        tell = self.classifier
        boxes = self.locator(x)
        one, two = self._whole(x), self._shoulder(x, boxes.detach())
        whole, shoulder = self.neck(one), self.neck_shoulders(two)
        told, w_g = self.weights(whole.detach())
        both = joined(unit(whole.detach()), unit(shoulder.detach()), w_g, 1 - w_g)
        is_there = measure_inputs(x, mean=MEAN, std=STD).present().long()
        apart = functional.smooth_l1_loss(boxes.float(), weak_boxes(x), beta=_CORNERS)
        return Trained(
            metrics=(one, two, both),
            logits=(tell["whole"](whole), tell["shoulders"](shoulder), tell["joined"](both)),
            also={
                "corners": apart,
                "condition": functional.cross_entropy(told.float(), is_there),
            },
        )


def joined(whole: Tensor, shoulder: Tensor, w_g: Tensor, w_h: Tensor) -> Tensor:
    """The two features, of length 1, by their weights (B, 1)."""
    return torch.cat([w_g * whole, w_h * shoulder], dim=1)


class Weights(nn.Module):
    """Two fully connected layers, one behind the other (claims 1 and 4 of the patent).

    forward: f_g' (B, dim) → whether what it shows is of less use, 2 logits (B, 2): not, is; and w_g
    (B, 1). The second layer has the weights s and −s, s > 0 learnt, and a sigmoid: w_g < ½, so less
    than w_h = 1 − w_g, wherever the first says that it is, and ½ at least elsewhere.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Linear(dim, 2)
        self.second = nn.Parameter(torch.zeros(1))

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        told = self.first(feature)
        further = (told[:, 1:] - told[:, :1]).float()
        w_g = torch.sigmoid(-functional.softplus(self.second) * further)
        return told, torch.where(further > 0, _LESS * w_g, w_g)


class Locator(nn.Module):
    """Crops (B, 3, H, W) → boxes of head and shoulders, float32 (B, 4): x1, y1, x2, y2 as fractions
    of the crop, LEAST apart at least, within 0…1."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = make_backbone(LOCATOR)
        # A mean over all places would not tell where anything is.
        self.pool = nn.AdaptiveAvgPool2d((4, 2))
        self.linear = nn.Linear(8 * channels_of(self.backbone), 4)
        nn.init.normal_(self.linear.weight, std=0.001)
        with torch.no_grad():
            self.linear.bias.copy_(_as_logits((1 - BOX_WIDTH) / 2, 0.02, BOX_WIDTH, BOX_HEIGHT))

    def forward(self, x: Tensor) -> Tensor:
        told = self.linear(self.pool(self.backbone(x)).flatten(1))
        start, length = torch.sigmoid(told.float()).chunk(2, dim=1)
        start = (1 - LEAST) * start
        return torch.cat([start, start + LEAST + (1 - LEAST - start) * length], dim=1)


def _as_logits(left: float, top: float, width: float, height: float) -> Tensor:
    """What the locator's linear layer has to say for that box."""
    start = torch.tensor([left, top])
    length = (torch.tensor([width, height]) - LEAST) / (1 - LEAST - start)
    return torch.logit(torch.cat([start / (1 - LEAST), length]))


class _Part(nn.Module):
    """(B, C, h, W) → where to look, by the mean and the largest channel there (Woo et al., "CBAM",
    ECCV 2018, section 3, but 3 × 3: a part has few rows); then which channels matter, by their
    means (Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018) → GeM → linear → (B, D)."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        inner = max(8, channels // 16)
        self.where = nn.Conv2d(2, 1, 3, padding=1)
        self.which = nn.Sequential(
            nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels), nn.Sigmoid()
        )
        self.pool = GeM()
        self.linear = nn.Linear(channels, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        shown = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        x = x * torch.sigmoid(self.where(shown))
        x = x * self.which(x.mean(dim=(2, 3)))[:, :, None, None]
        out: Tensor = self.linear(self.pool(x))
        return out


def cut(x: Tensor, boxes: Tensor, *, height: int, width: int) -> Tensor:
    """What is in the boxes (B, 4), fractions of the pictures (B, C, H, W): (B, C, height, width),
    bilinear without averaging; pixels beyond the picture are those of its border."""
    across = _places(boxes[:, 0:1], boxes[:, 2:3], width)[:, None, :]
    down = _places(boxes[:, 1:2], boxes[:, 3:4], height)[:, :, None]
    grid = torch.stack(
        [across.expand(-1, height, -1), down.expand(-1, -1, width)],
        dim=3,
    )
    return functional.grid_sample(
        x, grid.to(x.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )


def _places(start: Tensor, stop: Tensor, count: int) -> Tensor:
    """The middles of so many equal pieces of start … stop, (B, count), in −1…1 for 0…1."""
    middles = (torch.arange(count, device=start.device, dtype=start.dtype) + 0.5) / count
    return 2 * (start + (stop - start) * middles) - 1


@torch.no_grad()
def weak_boxes(x: Tensor) -> Tensor:
    """Where head and shoulders should be, of inputs (B, 3, H, W): float32 (B, 4), as the locator's.

    A box of BOX_WIDTH × BOX_HEIGHT of the crop at its top, its middle at the centre of mass of
    contrast in the upper third, moved inside the crop where it would stick out. Contrast, in 8 × 32
    cells, is the squared distance to the colour at the left or right border of the same row (the
    means of 2 cells), whichever is less: a background is like one of them. A mass of 0.01 a cell in
    the middle keeps a crop without contrast there.
    """
    upper = x[:, :, : max(1, round(x.shape[2] / 3))].float()
    cells = functional.adaptive_avg_pool2d(upper, (_ROWS, _COLUMNS))
    borders = [some.mean(dim=3, keepdim=True) for some in (cells[..., :_EDGE], cells[..., -_EDGE:])]
    apart = [(cells - one).pow(2).sum(dim=1) for one in borders]
    mass = torch.minimum(*apart).sum(dim=1)
    places = (torch.arange(_COLUMNS, device=x.device) + 0.5) / _COLUMNS - 0.5
    centred = _CENTRED * _ROWS * _COLUMNS
    middle = 0.5 + (mass * places).sum(dim=1) / (mass.sum(dim=1) + centred)
    middle = middle.clamp(BOX_WIDTH / 2, 1 - BOX_WIDTH / 2)
    top = torch.zeros_like(middle)
    corners = (middle - BOX_WIDTH / 2, top, middle + BOX_WIDTH / 2, top + BOX_HEIGHT)
    return torch.stack(corners, dim=1)


def _neck(dim: int) -> nn.BatchNorm1d:
    """As in `BoT`."""
    neck = nn.BatchNorm1d(dim)
    neck.bias.requires_grad_(False)
    return neck


def _classifier(dim: int, classes: int) -> nn.Linear:
    return initialise_classifier(nn.Linear(dim, classes, bias=False))
